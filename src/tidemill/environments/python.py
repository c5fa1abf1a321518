"""Which Python an environment gets: exact, else downloaded by uv, else the nearest that is installed.

Interpreters are found by looking at files only (nothing is executed): a `python3.X` that is a real program
tells its minor version by its name.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tidemill.domain.errors import InvalidRequest

Minor = tuple[int, int]
SUPPORTED = tuple((3, minor) for minor in range(8, 16))
_FILE = re.compile(r"python3\.(\d+)")
_CLAUSE = re.compile(r"^(==|!=|>=|<=|~=|>|<)(\d+(?:\.\d+)*)(\.\*)?$")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`path` is the program itself (links resolved), `prefix` the tree it needs to run."""

    minor: Minor
    path: Path

    @property
    def prefix(self) -> Path:
        return self.path.parent.parent

    def __str__(self) -> str:
        return dotted(self.minor)


@dataclass(frozen=True, slots=True)
class Wanted:
    """`minor` is the version to build for, `exact` whether it is installed; `others` what is."""

    minor: Minor
    interpreter: Interpreter | None
    installed: tuple[Interpreter, ...]


def dotted(minor: Minor) -> str:
    return f"{minor[0]}.{minor[1]}"


def installed(managed: Path, rank: Callable[[Path], int | None]) -> tuple[Interpreter, ...]:
    """Interpreters on this machine, one per minor version, oldest first.

    `managed`: where uv's downloads for this home are. `rank` of a program: None where jobs could not run it,
    else of two of one version the lower wins, then the one found first.
    """
    found: dict[Minor, tuple[int, Interpreter]] = {}
    for directory in _directories(managed):
        for interpreter in _in(directory):
            place = 0 if directory.is_relative_to(managed) else rank(interpreter.path)
            best = found.get(interpreter.minor)
            if place is not None and (best is None or place < best[0]):
                found[interpreter.minor] = (place, interpreter)
    return tuple(found[minor][1] for minor in sorted(found))


def in_folder(managed: Path) -> tuple[Interpreter, ...]:
    """Those that uv downloaded into `managed`, one per minor version, oldest first."""
    found = {i.minor: i for directory in sorted(managed.glob("*/bin")) for i in _in(directory)}
    return tuple(found[minor] for minor in sorted(found))


def choose(specifier: str, pythons: tuple[Interpreter, ...]) -> Wanted:
    """The version an environment is built for. No constraint: this server's own version if it is usable."""
    clauses = _clauses(specifier)
    here = sys.version_info[:2]
    fits = [python for python in pythons if _fits(python.minor, clauses)]
    if fits:
        best = next((python for python in fits if python.minor == here), fits[-1])
        return Wanted(best.minor, best, pythons)
    if not clauses and pythons:
        return Wanted(pythons[-1].minor, pythons[-1], pythons)
    minors = [minor for minor in SUPPORTED if _fits(minor, clauses)]
    return Wanted(minors[-1] if minors else _asked(clauses), None, pythons)


def nearest(wanted: Wanted) -> Interpreter | None:
    """The installed version closest to the wanted one; of two equally close ones the newer."""
    distance = wanted.minor[1]
    return min(wanted.installed, key=lambda p: (abs(p.minor[1] - distance), -p.minor[1]), default=None)


def substitution(wanted: Wanted, used: Interpreter, why: str, place: str) -> str:
    """The sentence for an event."""
    because = f" ({why})" if why else ""
    return f"Python {dotted(wanted.minor)} is not installed {place}{because}: Python {used} is used instead."


def refusal(wanted: Wanted, why: str, place: str) -> InvalidRequest:
    """What `strict` answers, and what is answered when there is no Python at all."""
    there = ", ".join(str(python) for python in wanted.installed) or "none"
    because = f" and could not be downloaded: {why}" if why else ""
    return InvalidRequest(
        f"Python {dotted(wanted.minor)} is not installed {place}{because}. Installed: {there}. "
        "Install it, or ask for one of these in the environment.",
        "PythonNotInstalled",
        "properties.condaFile",
    )


def rank_for_other_users(program: Path) -> int | None:
    """Jobs of a root server run as another user: programs that everyone can reach come first, then this
    server's own Python, which the engine shows to jobs wherever it lies. Others are of no use."""
    if reachable_by_others(program):
        return 0
    return 1 if program.is_relative_to(Path(sys.base_prefix).resolve()) else None


def reachable_by_others(program: Path) -> bool:
    """Whether a process of another user can run it where it lies."""
    if not program.stat().st_mode & stat.S_IXOTH:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in program.parents)


def _directories(managed: Path) -> Iterable[Path]:
    """Where interpreters live, best first: this server's own, the system's, PATH, uv's, pyenv's."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    yield Path(sys.base_prefix) / "bin"
    yield from (Path("/usr/bin"), Path("/usr/local/bin"))
    yield from (Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part.startswith("/"))
    for tree, pattern in (
        (managed, "*/bin"),
        (data / "uv" / "python", "*/bin"),
        (home / ".pyenv/versions", "*/bin"),
    ):
        yield from sorted(tree.glob(pattern), reverse=True)


def _in(directory: Path) -> Iterable[Interpreter]:
    try:
        names = sorted(name for name in os.listdir(directory) if _FILE.fullmatch(name))
    except OSError:
        return
    for name in names:
        try:
            path = (directory / name).resolve(strict=True)
            program = path.open("rb").read(4) == b"\x7fELF" and os.access(path, os.X_OK)
        except OSError:
            continue
        match = _FILE.fullmatch(name)
        if program and match and (3, int(match[1])) in SUPPORTED:  # a pyenv shim is a script, not a program
            yield Interpreter((3, int(match[1])), path)


def _clauses(specifier: str) -> list[tuple[str, tuple[int, ...]]]:
    clauses: list[tuple[str, tuple[int, ...]]] = []
    for part in filter(None, (part.strip() for part in specifier.split(","))):
        match = _CLAUSE.match(part)
        if match is None:
            raise InvalidRequest(
                f"Python version {part!r} is not a range: write python=3.11 or python>=3.10,<3.13.",
                "InvalidCondaFile",
                "properties.condaFile",
            )
        clauses.append((match[1], tuple(int(number) for number in match[2].split("."))))
    return clauses


def _fits(minor: Minor, clauses: list[tuple[str, tuple[int, ...]]]) -> bool:
    """Whether some patch release of `minor` satisfies every clause (patches are not told apart)."""
    return all(_clause_fits(minor, operator, number) for operator, number in clauses)


def _clause_fits(minor: Minor, operator: str, number: tuple[int, ...]) -> bool:
    short = number[:2]
    same = minor[: len(short)] == short
    match operator:
        case "==":
            return same
        case "!=":
            return not same or len(number) > 2
        case ">=":
            return minor >= short
        case "~=":
            return minor >= short and (minor[0] == number[0] if len(number) == 2 else same)
        case ">":
            return minor > short or (same and len(number) > 2)
        case "<":
            return minor < short or (same and len(number) > 2 and number[2] > 0)
        case _:
            return minor <= short or same


def _asked(clauses: list[tuple[str, tuple[int, ...]]]) -> Minor:
    """A version nobody supports (python=2.7): named as it was asked for."""
    number = next((number for operator, number in clauses if operator in ("==", "~=", ">=")), (3, 8))
    return (number[0], number[1] if len(number) > 1 else 0)
