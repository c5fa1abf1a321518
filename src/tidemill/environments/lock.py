"""What uv is asked to solve, and what its answer means to a user. Pure: `builder.py` runs uv."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from tidemill.domain.errors import InvalidRequest, OutOfSpace, TidemillError
from tidemill.environments.conda import known_names
from tidemill.environments.requirement import Place, Requirement, normal_name

# What a package prints while it is built is read by these, too: none goes over the same text again and again.
_MISSING = re.compile(
    r"(?<![\w.\-])([A-Za-z0-9][\w.\-]*+)(?:\[[^\]\n]{0,200}\])?"
    r" was not found in the (?:package registry|provided)"
)
_NO_VERSION = re.compile(r"there (?:is|are) no versions? of ([A-Za-z0-9][\w.\-]*)")
_PARSE = re.compile(
    r"Couldn't parse requirement.*?\n\s*(?:cause:\s*)?(?P<why>[^\n]+)\n\s*(?P<line>[^\n]+)", re.DOTALL
)
_UNREACHABLE = (
    "error sending request", "client error (Connect)", "dns error", "Failed to fetch", "network was disabled",
    "Could not connect", "operation timed out",
)  # fmt: skip
_BUILD = re.compile(r"Failed to (?:download and )?build `?(?P<what>[^`\n]+)`?")
_DISABLED = ("no usable wheels", "building from source is disabled", "source distributions is disabled")
_NO_WHEEL = re.compile(r"(?<![\w.\-])([A-Za-z0-9][\w.\-]*+(?:==[\w.+!]++)?) has no usable wheels")
_ADDRESS = re.compile(r"@\s*\S+://")
_WHEEL = re.compile(r"\.whl(?:$|[\s#?;])")
_FRAME = re.compile(r"^[\s│╰─▶×]*(?:cause:|error:)?\s*")
FIRST_LINES, LAST_LINES, LINE = (
    300,
    100,
    4000,
)  # of what a failed run said, and of a line of it, that are read
TAIL_LINES, TAIL_LINE = 15, 400
EXPLANATION = 8000
NO_PIP = (
    "The environment has no pip: the package index it comes from offers none. Jobs can install nothing in it."
)


def requirements_text(requirements: Sequence[Requirement]) -> str:
    return "".join(f"{requirement.text}\n" for requirement in requirements)


def with_pip(requirements: Sequence[Requirement]) -> Sequence[Requirement]:
    """`requirements`, and pip where they do not name it."""
    if any(requirement.name == "pip" for requirement in requirements):
        return requirements
    return (*requirements, Requirement("pip", "pip", "pip", Place("requirements", 0)))


def lacks_pip(output: str, requirements: Sequence[Requirement]) -> bool:
    """Whether a solve `with_pip` failed for want of the pip that was added."""
    if any(requirement.name == "pip" for requirement in requirements):
        return False
    if "pip" in {normal_name(name) for name in _MISSING.findall(output)}:
        return True
    return any(sign in output for sign in _UNREACHABLE) and ("/pip/" in output or not requirements)


def readable(output: str) -> str:
    """What is read of all that uv said: it repeats what a package prints while it is built, however much."""
    lines = [line[:LINE] for line in output.splitlines() if line.strip()]
    if len(lines) > FIRST_LINES + LAST_LINES:
        lines = lines[:FIRST_LINES] + lines[-LAST_LINES:]
    return "\n".join(lines)


def must_build(requirements: Sequence[Requirement], options: Sequence[str]) -> bool:
    """Whether something is to be built whatever the index offers."""
    sources = [r.text for r in requirements if (_ADDRESS.search(r.text) or not r.name)]
    return "--no-binary" in options or any(not _WHEEL.search(text) for text in sources)


def lacks_wheel(output: str) -> bool:
    """Whether a solve without builds failed for want of one."""
    return any(sign in output for sign in _DISABLED)


def without_wheel(output: str) -> str:
    """The beginning of a sentence that names what has no wheel."""
    found = _NO_WHEEL.search(output)
    return f"{found[1] if found else 'A package'} has no wheel for this Python,"


def failure(output: str, requirements: Sequence[Requirement], doing: str = "solve") -> TidemillError:
    """The error for a failed uv run. `output`: what is `readable` of what uv said."""
    if "No space left on device" in output or "os error 28" in output:
        return out_of_space()
    explanation = _sentence(output)
    missing = [normal_name(name) for name in _MISSING.findall(output)]
    if missing:
        return _error("PackageNotFound", _not_found(missing[0], requirements, explanation))
    if any(sign in output for sign in _UNREACHABLE):
        return TidemillError(
            f"The Python package index cannot be reached, and uv's cache lacks the packages: {explanation} "
            "Set UV_INDEX_URL for a mirror, or build once while there is a network.",
            "PackageIndexUnreachable",
            status=503,
        )
    malformed = _PARSE.search(output)
    if malformed is not None:
        return _error("InvalidRequirement", _malformed(malformed["why"], malformed["line"], requirements))
    if "No solution found" in output:
        return _error("EnvironmentConflict", _conflict(output, requirements, explanation))
    built = _BUILD.search(output)
    what = f"uv could not {doing} it"
    if built:
        what = f"{built['what']} has no wheel for this Python and could not be built from source"
    tail = "\n".join(line[:TAIL_LINE] for line in output.strip().splitlines()[-TAIL_LINES:])
    return _error("EnvironmentBuildFailed", f"{what}. The end of its output:\n{tail}")


def out_of_space() -> OutOfSpace:
    return OutOfSpace(
        "No space left on the disk of this home: the environment was not built and nothing of it was kept. "
        "Free space and submit again."
    )


def _error(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code, "properties.condaFile")


def _not_found(name: str, requirements: Sequence[Requirement], explanation: str) -> str:
    asked = [requirement for requirement in requirements if requirement.name == name]
    if not asked:
        needed = f"Package {name!r}, which another package needs,"
        return f"{needed} does not exist on the Python package index: {explanation}"
    near = difflib.get_close_matches(name, known_names(), 2, 0.75)
    hint = (
        f" Did you mean {' or '.join(near)}?"
        if near
        else " It may be a conda-only package: there is no conda here."
    )
    return f"Package {name!r} ({asked[0].place}) does not exist on the Python package index.{hint}"


def _malformed(why: str, line: str, requirements: Sequence[Requirement]) -> str:
    place = next((str(r.place) for r in requirements if r.text.strip() == line.strip()), "requirements")
    return f"{line.strip()!r} ({place}) is not a requirement: {_FRAME.sub('', why).strip()}."


def _conflict(output: str, requirements: Sequence[Requirement], explanation: str) -> str:
    lacking = {normal_name(name) for name in _NO_VERSION.findall(output)}
    named = [
        r
        for r in requirements
        if r.name and re.search(rf"(?<![\w\-]){re.escape(r.name)}(?![\w\-])", explanation)
    ]
    listed = " and ".join(str(requirement) for requirement in named) or "the requirements"
    if len(named) == 1 and lacking:
        return f"{listed}: the Python package index has no such version for this Python. {explanation}"
    return f"No set of versions satisfies {listed}. {explanation}"


def _sentence(output: str) -> str:
    """uv's explanation as one paragraph, without its frame; download and warning lines left out."""
    lines = output.splitlines()
    start = next(
        (i for i, line in enumerate(lines) if line.lstrip("× ").startswith(("error:", "No solution"))), 0
    )
    kept = [_FRAME.sub("", line).strip() for line in lines[start:]]
    text = " ".join(line for line in kept if line and not line.startswith(("warning:", "hint:")))
    return re.sub(r"^No solution found when resolving dependencies:?\s*", "", text)[:EXPLANATION]
