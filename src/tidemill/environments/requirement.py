"""One line of what an environment asks for, and where it was written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidemill.domain.errors import InvalidRequest

_NAME = re.compile(r"^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*(?=$|[<>=!~;@(])")
_REMOTE = re.compile(r"^(?:git\+https?|https?)://")
_AT = re.compile(r"^[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*(?P<address>\S+)")  # PEP 508: name @ address
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
_VARIABLE = re.compile(r"\$\{[^}]*\}")  # uv puts the server's own environment there
_ADDRESSES = ("--index-url", "--extra-index-url", "--find-links")
# pip's options that mean the same to uv; all but --pre take a value.
_OPTIONS = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
    "--trusted-host": "--allow-insecure-host",
    "--no-binary": "--no-binary",
    "--only-binary": "--only-binary",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: `file` is "conda file" or "requirements"; lines and columns count from 1."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """`text` is given to uv (PEP 508), `written` is what the user wrote, `name` normalised ("" for a URL)."""

    name: str
    text: str
    written: str
    place: Place

    def __str__(self) -> str:
        other = "" if normal_name(self.written).startswith(self.name) else f", written {self.written!r}"
        return f"{self.text} ({self.place}{other})"


@dataclass(frozen=True, slots=True)
class PipLines:
    requirements: tuple[Requirement, ...] = ()
    options: tuple[str, ...] = ()  # arguments for uv


def normal_name(name: str) -> str:
    """PEP 503: one spelling for Scikit_Learn and scikit-learn."""
    return re.sub(r"[-_.]+", "-", name).lower()


def invalid(place: Place, problem: str, code: str = "InvalidEnvironment") -> InvalidRequest:
    target = "properties.condaFile" if place.file == "conda file" else place.file
    return InvalidRequest(f"{str(place)[0].upper()}{str(place)[1:]}: {problem}", code, target)


def parse_pip(lines: list[tuple[str, Place]]) -> PipLines:
    """Lines as in a requirements file. Raises InvalidRequest with the place for what cannot be built here."""
    requirements: list[Requirement] = []
    options: list[str] = []
    for raw, place in lines:
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if not line:
            continue
        check_line(line, place)
        if line.startswith("-"):
            options += _option(line, place)
        else:
            requirements.append(_requirement(line, place))
    return PipLines(tuple(requirements), tuple(options))


def check_line(line: str, place: Place) -> None:
    """Raises InvalidRequest for what would be more than one line to uv, or one that it fills in."""
    if _CONTROL.search(line) or line.endswith("\\"):
        raise invalid(place, f"{line!r} is more than one line: write each requirement on a line of its own.")
    if variable := _VARIABLE.search(line):
        problem = f"{variable[0]!r} is a variable, and the server's variables are not yours to name: "
        raise invalid(place, problem + "write the value; credentials of a feed belong in a connection.")


def _requirement(line: str, place: Place) -> Requirement:
    if (at := _AT.match(line)) and not _REMOTE.match(line) and not _REMOTE.match(at["address"]):
        problem = f"{at['address']!r} is no address that an environment can be built from: "
        fix = "write name @ https://… or git+https://…, or name a package of the index."
        raise invalid(place, problem + fix)
    if _REMOTE.match(line):
        return Requirement("", line, line, place)
    match = _NAME.match(line)
    if match is None:
        if line.startswith("git+"):
            problem = f"{line!r}: repositories are read by https only (the server's keys are not the job's): "
            raise invalid(place, problem + "write git+https://….")
        if line.startswith((".", "/", "file:")):
            problem = f"{line!r} is a path, and environments are built without the job's files: "
            fix = "name a package of the index, or import the code from the job's code folder."
            raise invalid(place, problem + fix)
        raise invalid(place, f"{line!r} is not a requirement: write name, name==1.2 or name>=1.2,<2.")
    return Requirement(normal_name(match[1]), line, line, place)


def _option(line: str, place: Place) -> list[str]:
    name, _, value = (
        line.replace("=", " ", 1).partition(" ") if line.startswith("--") else line.partition(" ")
    )
    value = value.strip()
    if name == "--pre":
        return ["--prerelease", "allow"]
    if name in ("-r", "--requirement", "-c", "--constraint"):
        problem = f"{line!r} points to another file, which is not part of the environment: "
        raise invalid(place, problem + "write its lines here.")
    if name in ("-e", "--editable"):
        problem = (
            f"{line!r}: editable installs need the job's files, and environments are built without them: "
        )
        raise invalid(place, problem + "import the code from the job's code folder.")
    if name not in _OPTIONS or not value:
        raise invalid(place, f"option {line!r} is not offered: these are: {', '.join([*_OPTIONS, '--pre'])}.")
    if _OPTIONS[name] in _ADDRESSES and not re.match(r"https?://[^/\s]", value):
        problem = f"{line!r} does not name an address: environments are built without files of the server or "
        raise invalid(place, problem + "the job. Write https://….")
    return [_OPTIONS[name], value]
