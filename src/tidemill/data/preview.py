"""The first of what a file holds, for people to look at: rows, text, a picture, or why there is nothing to
see.

Pure: bytes in, values out. Nothing is executed, and what a file says of itself is bounded: rows, columns, the
length of a cell.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from tidemill.data.mltable import FILE as MLTABLE_FILE
from tidemill.serving.batch.tables import DELIMITED, LINES, Table

MOST_BYTES = 256 * 1024  # of a file that are looked at
MOST_ROWS, MOST_COLUMNS, MOST_CELL = 50, 40, 200
MOST_TEXT = 64 * 1024  # characters
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """`more`: there are further rows; `wider`: columns that are left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: bool = False
    wider: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """`type`: of what a browser shows without running anything."""

    type: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """`why`: a sentence."""

    why: str


Preview = Rows | Text | Picture | Nothing


def picture_type(head: bytes) -> str:
    """By the first bytes; "" for what is no picture. SVG is none: it is a document that may have scripts."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in _PICTURES if head.startswith(mark)), "")


def preview(name: str, head: bytes, whole: bool) -> Preview:
    """`head`: the first bytes of the file, `whole` where they are all of it. For parquet: `parquet_rows`."""
    if not head:
        return Nothing("It is empty.")
    kind = picture_type(head)
    if kind:
        return Picture(kind)
    ending = _ending(name)
    try:
        if ending in DELIMITERS:
            return delimited(head, whole, DELIMITERS[ending])
        if ending in JSON_LINES:
            return json_lines(head, whole)
    except ValueError as error:
        return _text(head, whole) or Nothing(f"It cannot be read as {ending[1:]}: {error}.")
    return _text(head, whole) or Nothing("It is neither text nor a picture that is shown here.")


def of_table(table: Table, path: str, head: bytes, whole: bool) -> Preview:
    """The first rows of one file of an mltable, as its transformations say. Types are not converted, and
    columns that are read from paths (partition_format) are left out."""
    try:
        if table.reader == LINES:
            found = json_lines(head, whole, table.encoding)
        elif table.reader == DELIMITED:
            header = str(table.settings.get("header") or "all_files_same_headers") != "no_header"
            delimiter = str(table.settings.get("delimiter") or ",")
            if len(delimiter) != 1:
                return Nothing(f"Its delimiter {delimiter!r} is longer than one character.")
            found = delimited(head, whole, delimiter, table.encoding, header)
        else:
            return preview(path, head, whole)
    except (ValueError, LookupError) as error:
        return Nothing(f"{path} cannot be read as its {MLTABLE_FILE} says: {error}.")
    return changed(found, table, path)


def changed(found: Rows, table: Table, path: str) -> Rows:
    """With the columns that a table drops and keeps, and the file's path where it asks for that."""
    if table.settings.get("include_path_column"):
        rows = tuple((_cell(f"/{path}"), *row) for row in found.rows)
        found = replace(found, columns=("Path", *found.columns), rows=rows)
    for what, setting in table.changes:
        names = [str(one) for one in setting] if isinstance(setting, list | tuple) else [str(setting)]  # type: ignore[reportUnknownVariableType]
        if what == "drop_columns":
            found = _only(found, [name for name in found.columns if name not in names])
        elif what == "keep_columns":
            found = _only(found, [name for name in names if name in found.columns])
    return found


def delimited(
    head: bytes, whole: bool, delimiter: str = ",", encoding: str = "utf-8-sig", header: bool = True
) -> Rows:
    """Raises ValueError for what is none."""
    text = _decoded(head, whole, encoding)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    lines: list[list[str]] = []
    try:
        for line in reader:
            if line:
                lines.append(line)
            if len(lines) > MOST_ROWS + 1:
                break
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if not lines:
        raise ValueError("it has no row")
    width = max(len(line) for line in lines)
    names = lines.pop(0) if header else [f"Column{number + 1}" for number in range(width)]
    return bounded(names, lines[: MOST_ROWS + 1], more=not whole)


def json_lines(head: bytes, whole: bool, encoding: str = "utf-8-sig") -> Rows:
    """An object a line. Raises ValueError for what is none."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(_decoded(head, whole, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} is no JSON") from None
        if not isinstance(value, dict):
            raise ValueError(f"line {number} is no object")
        found.append(cast(dict[str, Any], value))
        if len(found) > MOST_ROWS:
            break
    return records(found, more=not whole)


def records(found: Sequence[dict[str, Any]], more: bool = False) -> Rows:
    """Objects as rows: a column for each name, in the order in which they come."""
    names = list(dict.fromkeys(str(name) for one in found for name in one))
    return bounded(names, ([one.get(name, "") for name in names] for one in found), more)


def bounded(names: Sequence[str], lines: Iterable[Sequence[Any]], more: bool = False) -> Rows:
    columns = tuple(_cell(name) for name in names[:MOST_COLUMNS])
    rows = [tuple(_cell(value) for value in line[: len(columns)]) for line in lines]
    padded = tuple((*row, *[""] * (len(columns) - len(row))) for row in rows[:MOST_ROWS])
    return Rows(columns, padded, more or len(rows) > MOST_ROWS, max(len(names) - MOST_COLUMNS, 0))


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= MOST_CELL else f"{text[: MOST_CELL - 1]}…"


def _decoded(head: bytes, whole: bool, encoding: str) -> str:
    """Whole lines only, unless there is but one."""
    end = len(head) if whole else head.rfind(b"\n") + 1 or len(head)
    text = head[:end].decode(encoding, "replace" if not whole else "strict")
    if "\0" in text:
        raise ValueError("it is binary")
    return text


def _text(head: bytes, whole: bool) -> Text | None:
    if b"\0" in head:
        return None
    for cut in range(4):  # the last character may be cut
        try:
            text = head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            if whole:
                return None
            continue
        return Text(text[:MOST_TEXT], not whole or len(text) > MOST_TEXT)
    return None


def _only(found: Rows, names: Sequence[str]) -> Rows:
    places = [found.columns.index(name) for name in names]
    return replace(
        found,
        columns=tuple(found.columns[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in found.rows),
    )


def _ending(name: str) -> str:
    leaf = name.rsplit("/", 1)[-1].casefold()
    return f".{leaf.rsplit('.', 1)[1]}" if "." in leaf else ""


def is_parquet(name: str, head: bytes) -> bool:
    return head[:4] == b"PAR1" or _ending(name) == PARQUET
