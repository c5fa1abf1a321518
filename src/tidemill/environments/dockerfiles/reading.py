"""What a Dockerfile starts from, and where its instructions stand. Pure.

As docs.docker.com/reference/dockerfile has it: parser directives, continued lines, comments within them, here
documents, stages and their names, `ARG` before the first `FROM`. What the instructions mean is buildah's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.domain.errors import InvalidRequest

TARGET = "properties.build"
MOST_BYTES, MOST_BASES = 1 << 20, 32

_ESCAPE = re.compile(r"^#\s*escape\s*=\s*(\\|`)\s*$", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^#\s*\w+\s*=")
_HERE = re.compile(r"<<(-?)([\"']?)([A-Za-z_]\w*)\2")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})")
_FROM = re.compile(r"^(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?\s*$", re.IGNORECASE)
_COPY_FROM = re.compile(r"(?:^|\s)--from=(\S+)")
_MOUNT_FROM = re.compile(r"(?:^|\s)--mount=\S*?\bfrom=([^,\s]+)")
_ARG = re.compile(r"(\w+)(?:=(\"[^\"]*\"|'[^']*'|\S*))?")


@dataclass(frozen=True, slots=True)
class Instruction:
    """`line` counts from 1; `rest` is what follows the keyword, on one line."""

    line: int
    keyword: str
    rest: str


@dataclass(frozen=True, slots=True)
class Base:
    """An image that the Dockerfile names, and the first line that does."""

    image: str
    line: int


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """Each stage begins with its `FROM`."""

    name: str
    stages: tuple[tuple[Instruction, ...], ...]
    bases: tuple[Base, ...]

    def at(self, stage: int, step: int) -> Instruction | None:
        """As buildah counts: both from 1."""
        if 1 <= stage <= len(self.stages) and 1 <= step <= len(self.stages[stage - 1]):
            return self.stages[stage - 1][step - 1]
        return None


def read(name: str, raw: bytes) -> Dockerfile:
    """`name`: its path in the context. Raises InvalidRequest with the line."""
    if len(raw) > MOST_BYTES:
        raise problem(name, 0, f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise problem(name, raw.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from None
    instructions = _instructions(text)
    first = next((n for n, found in enumerate(instructions) if found.keyword == "FROM"), None)
    if first is None:
        raise problem(name, 0, "it has no FROM: its first instruction names the image to start from")
    arguments: dict[str, str] = {}
    for found in instructions[:first]:
        if found.keyword != "ARG":
            raise problem(name, found.line, f"{found.keyword} stands before the first FROM")
        for key, value in _ARG.findall(found.rest):
            arguments[key] = _expand(_unquoted(value), arguments)
    stages: list[list[Instruction]] = []
    for found in instructions[first:]:
        if found.keyword == "FROM":
            stages.append([])
        stages[-1].append(found)
    return Dockerfile(name, tuple(map(tuple, stages)), _bases(name, stages, arguments))


def problem(name: str, line: int, why: str, code: str = "InvalidDockerfile") -> InvalidRequest:
    where = f"{name}, line {line}" if line else name
    return InvalidRequest(f"{where}: {why}.", code, TARGET)


def _instructions(text: str) -> list[Instruction]:
    lines = text.splitlines()
    escape = _escape(lines)
    found: list[Instruction] = []
    number = 0
    while number < len(lines):
        start, parts = number, [""]
        while number < len(lines):
            line = lines[number]
            number += 1
            bare = line.strip()
            if bare.startswith("#") or (not bare and len(parts) > 1):
                if len(parts) == 1:
                    break
                continue
            if not bare.endswith(escape):
                parts.append(bare)
                break
            parts.append(bare[:-1].rstrip())
        keyword, _, rest = " ".join(parts).strip().partition(" ")
        if not keyword:
            continue
        keyword = keyword.upper()
        found.append(Instruction(start + 1, keyword, rest.strip()))
        if keyword in ("RUN", "COPY", "ADD"):
            number = _after_here_documents(rest, lines, number)
    return found


def _escape(lines: list[str]) -> str:
    for line in lines:
        if chosen := _ESCAPE.match(line):
            return chosen[1]
        if not _DIRECTIVE.match(line):
            break
    return "\\"


def _after_here_documents(rest: str, lines: list[str], number: int) -> int:
    """Where the next instruction may start; without its end, what looks like one is none."""
    for dash, _, word in _HERE.findall(rest):
        for at in range(number, len(lines)):
            if (lines[at].lstrip("\t") if dash else lines[at]) == word:
                number = at + 1
                break
    return number


def _bases(name: str, stages: list[list[Instruction]], arguments: Mapping[str, str]) -> tuple[Base, ...]:
    found: dict[str, int] = {}
    known: set[str] = set()
    for count, stage in enumerate(stages):
        start = stage[0]
        parts = _FROM.match(start.rest)
        if parts is None:
            raise problem(name, start.line, f"FROM {start.rest!r} cannot be read: write FROM image [AS name]")
        image = _expand(_unquoted(parts[1]), arguments)
        if not image:
            raise problem(name, start.line, f"{parts[1]} is empty: give its ARG a default before the FROM")
        if image.lower() not in known and image != "scratch":
            found.setdefault(image, start.line)
        for each in stage[1:]:
            for image in _named(each):
                if image.lower() not in known and not (image.isdigit() and int(image) < count):
                    found.setdefault(image, each.line)
        if parts[2]:
            known.add(parts[2].lower())
    if len(found) > MOST_BASES:
        raise problem(name, 0, f"it names {len(found)} images, more than {MOST_BASES}")
    return tuple(Base(image, line) for image, line in found.items())


def _named(found: Instruction) -> list[str]:
    if found.keyword in ("COPY", "ADD"):
        return _COPY_FROM.findall(found.rest)
    return _MOUNT_FROM.findall(found.rest) if found.keyword == "RUN" else []


def _expand(text: str, arguments: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        given = arguments.get(match[1] or match[2], "")
        if match[3] == "-":
            return given or match[4]
        return match[4] if match[3] == "+" and given else "" if match[3] == "+" else given

    return _VARIABLE.sub(value, text)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
