"""The file `MLTable`: which files a table is made of, by the format's own rules.

`paths` is a list of entries with one of `file`, `folder` and `pattern`
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable). A path is an address, or relative
to the folder in which the MLTable lies. All other keys belong to whoever reads the table.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tidemill.domain.errors import InvalidRequest

FILE = "MLTable"
MAX_BYTES = 1 << 20
MAX_PATHS = 10_000
KINDS = ("file", "folder", "pattern")
_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+://|azureml:|/)")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class TablePath:
    """`kind`: one of KINDS. `line` and `column` count from 1; `start` and `end` are offsets of the value."""

    kind: str
    value: str
    line: int
    column: int
    start: int
    end: int

    @property
    def relative(self) -> bool:
        return _ADDRESS.match(self.value) is None

    @property
    def fixed(self) -> str:
        """The folder, with its slash, above a pattern's first wildcard; of others the value."""
        wild = _WILD.search(self.value) if self.kind == "pattern" else None
        return self.value if wild is None else self.value[: self.value.rfind("/", 0, wild.start()) + 1]

    @property
    def tail(self) -> str:
        """What a pattern says below `fixed`."""
        return self.value[len(self.fixed) :]


def read_paths(raw: bytes, where: str) -> tuple[TablePath, ...]:
    """`where`: whose MLTable it is, for sentences. Raises InvalidRequest with line and column."""
    text = _text(raw, where)
    try:
        root = cast(Node | None, yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", "") or "it is nested too deep")
        raise InvalidRequest(
            f"{where}:{f'{mark.line + 1}:{mark.column + 1}:' if mark else ''} it is not YAML: {problem}.",
            "InvalidMLTable",
        ) from None
    if not isinstance(root, MappingNode):
        raise InvalidRequest(
            f"{where}: it is empty, or no mapping: an MLTable has 'paths'.", "InvalidMLTable"
        )
    nodes = {str(key.value): value for key, value in root.value}
    paths = nodes.get("paths")
    if paths is None:
        near = difflib.get_close_matches("paths", nodes, 1)
        raise InvalidRequest(
            f"{where}: it has no 'paths'.{f' Did you mean that by {near[0]!r}?' if near else ''} "
            "Tables of a database ('query_source') are not offered.",
            "InvalidMLTable",
        )
    if not isinstance(paths, SequenceNode) or not paths.value:
        _refuse(where, paths, "'paths' must be a list of file, folder or pattern entries")
    if len(paths.value) > MAX_PATHS:
        _refuse(where, paths, f"'paths' has {len(paths.value)} entries; it may have {MAX_PATHS}")
    return tuple(_path(where, node) for node in paths.value)


def with_paths(raw: bytes, replaced: Sequence[tuple[TablePath, str]]) -> bytes:
    """The same file, with those values in the place of what they were."""
    text = raw.decode("utf-8-sig")
    for path, value in sorted(replaced, key=lambda item: item[0].start, reverse=True):
        text = text[: path.start] + json.dumps(value, ensure_ascii=False) + text[path.end :]
    return text.encode()


def matcher(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a name, `**` goes through folders."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        elif pattern[at] in "*?":
            parts.append("[^/]*" if pattern[at] == "*" else "[^/]")
            at += 1
        elif pattern[at] == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            inside = pattern[at + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            parts.append(f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]")
            at = end + 1
        else:
            parts.append(re.escape(pattern[at]))
            at += 1
    try:
        return re.compile("".join(parts))
    except re.error:
        raise InvalidRequest(f"{pattern!r} is not a pattern of file names.", "InvalidMLTable") from None


def _text(raw: bytes, where: str) -> str:
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(f"{where} has {len(raw)} bytes; it may have {MAX_BYTES}.", "InvalidMLTable")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{where}: byte {error.start} is not UTF-8.", "InvalidMLTable") from None


def _path(where: str, node: Node) -> TablePath:
    if not isinstance(node, MappingNode):
        _refuse(where, node, "an entry of 'paths' is written '- file: PATH' (or folder, pattern)")
    kinds: list[tuple[ScalarNode, Node]] = [(key, value) for key, value in node.value]
    for key, _ in kinds:
        if key.value not in KINDS:
            near = difflib.get_close_matches(str(key.value), KINDS, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f": use {', '.join(KINDS)}"
            _refuse(where, key, f"{str(key.value)!r} is no kind of path{meant}")
    if len(kinds) != 1:
        _refuse(where, node, f"an entry of 'paths' has exactly one of {', '.join(KINDS)}")
    key, value = kinds[0]
    if not isinstance(value, ScalarNode) or not str(value.value).strip():
        _refuse(where, value, f"the {key.value} must be a path")
    start, end = value.start_mark, value.end_mark
    return TablePath(
        str(key.value), str(value.value).strip(), start.line + 1, start.column + 1, start.index, end.index
    )


def _refuse(where: str, node: Node, problem: str) -> NoReturn:
    mark = node.start_mark
    raise InvalidRequest(f"{where}:{mark.line + 1}:{mark.column + 1}: {problem}.", "InvalidMLTable")
