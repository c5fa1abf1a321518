"""A table's file MLTable: which files it is made of, and how their rows are read.

The format's rules: https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable. What is not
known here is refused by its name, never passed over.
"""

from __future__ import annotations

import fnmatch
import importlib
import io
import os
import re
from dataclasses import dataclass
from typing import Any

from .spec import Refused

DELIMITED, LINES, PARQUET = "read_delimited", "read_json_lines", "read_parquet"
READERS = (DELIMITED, LINES, PARQUET)
CHANGES = ("extract_columns_from_partition_format", "drop_columns", "keep_columns", "convert_column_types")
# In these a row ends at the byte 10, wherever it is in the file.
CUTTABLE = ("utf8", "ascii", "latin1", "iso88591", "windows1252", "cp1252", "utf8bom", "utf8sig")
_CODECS = {"utf8bom": "utf-8-sig", "utf8": "utf-8", "iso88591": "latin1", "windows1252": "cp1252"}
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
_DATES = (("yyyy", 4), ("MM", 2), ("dd", 2), ("HH", 2), ("mm", 2), ("ss", 2))


@dataclass(frozen=True)
class Table:
    """`reader` "" : a list of files. `changes`: (what, its setting), in order."""

    reader: str
    settings: dict[str, Any]
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def encoding(self) -> str:
        word = re.sub(r"[^a-z0-9]", "", str(self.settings.get("encoding") or "utf8").lower())
        return _CODECS.get(word, word)

    @property
    def cuttable(self) -> bool:
        word = re.sub(r"[^a-z0-9]", "", str(self.settings.get("encoding") or "utf8").lower())
        return self.reader in (DELIMITED, LINES) and word in CUTTABLE

    @property
    def partition_format(self) -> str:
        for what, setting in self.changes:
            if what == CHANGES[0]:
                return (
                    str(setting.get("partition_format") or "") if isinstance(setting, dict) else str(setting)
                )
        return ""


def read_table(raw: dict[str, Any]) -> Table:
    """Raises Refused."""
    reader = ""
    settings: dict[str, Any] = {}
    changes: list[tuple[str, Any]] = []
    for entry in raw.get("transformations") or []:
        pairs = [(entry, {})] if isinstance(entry, str) else list(dict(entry).items())
        for what, setting in pairs:
            if what in READERS:
                if reader:
                    raise Refused(f"The MLTable has both {reader} and {what}: a table has one.")
                reader, settings = what, dict(setting or {})
            elif what in CHANGES:
                changes.append((what, setting))
            else:
                raise Refused(
                    "The MLTable's transformation {!r} is not offered for parallel jobs. Those that are: {}. "
                    "Write the table without it, or do it in run().".format(
                        what, ", ".join(READERS + CHANGES)
                    )
                )
    return Table(reader, settings, tuple(changes))


def files_of(root: str, raw: dict[str, Any]) -> list[str]:
    """Paths below `root`, sorted within each entry, each once. Raises Refused."""
    found: list[str] = []
    every = walk(root)
    for entry in raw.get("paths") or []:
        kind, value = next(iter(dict(entry).items()))
        word = os.path.normpath(str(value))
        if kind == "file":
            matching = [word] if word in every else []
        elif kind == "folder":
            matching = [path for path in every if word == "." or path.startswith(word + "/")]
        else:
            rule = re.compile(_pattern(str(value)))
            matching = [path for path in every if rule.fullmatch(path)]
        if not matching:
            raise Refused(f"The MLTable names {kind} {value!r}, and there is no such file in it.")
        found += matching
    return [path for path in dict.fromkeys(found) if path != "MLTable"]


def walk(root: str) -> list[str]:
    """Every file below, as sorted relative paths."""
    found = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return sorted(found)


def _pattern(value: str) -> str:
    text, at = re.sub(r"^(\./)+", "", value), 0
    parts = []
    while at < len(text):
        if text.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif text.startswith("**", at):
            parts.append(".*")
            at += 2
        elif text[at] in "*?":
            parts.append("[^/]*" if text[at] == "*" else "[^/]")
            at += 1
        elif text[at] == "[" and "]" in text[at:]:
            end = text.index("]", at) + 1
            parts.append(fnmatch.translate(text[at:end])[4:-3])
            at = end
        else:
            parts.append(re.escape(text[at]))
            at += 1
    return "".join(parts)


def partition(form: str, path: str) -> dict[str, str] | None:
    """The values that `form` finds in a path, texts; None where it does not fit."""
    form = form.lstrip("/")
    names, parts, at = [], [], 0
    for match in _FIELD.finditer(form):
        parts += [_fixed(form[at : match.start()]), _field(match.group(2))]
        names.append((match.group(1), match.group(2)))
        at = match.end()
    rule = re.compile("(?:^|.*/)" + "".join(parts) + _fixed(form[at:]) + r"\Z")
    found = rule.match(path)
    if found is None:
        return None
    return {name: value for (name, _), value in zip(names, found.groups())}


def _fixed(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("*"))


def _field(date: str | None) -> str:
    if not date:
        return "([^/]+?)"
    text = re.escape(date)
    for word, digits in _DATES:
        text = text.replace(word, rf"\d{{{digits}}}")
    return "(" + text + ")"


def frame(root: str, table: Table, slices: list[list[Any]]) -> Any:
    """A DataFrame of (path, start, end) of a delimited file or of lines, or (path, row groups). Raises what
    pandas does."""
    pandas: Any = importlib.import_module("pandas")
    frames = [_part(pandas, root, table, item) for item in slices]
    whole = frames[0] if len(frames) == 1 else pandas.concat(frames, ignore_index=True)
    for what, setting in table.changes:
        if what == "drop_columns":
            whole = whole.drop(columns=[name for name in _names(setting) if name in whole.columns])
        elif what == "keep_columns":
            whole = whole[_names(setting)]
        elif what == "convert_column_types":
            for entry in setting or []:
                for name in _names(entry["columns"]):
                    whole[name] = _converted(pandas, whole[name], entry["column_type"])
    return whole


def _names(setting: Any) -> list[str]:
    return [str(name) for name in setting] if isinstance(setting, (list, tuple)) else [str(setting)]


def _converted(pandas: Any, column: Any, kind: Any) -> Any:
    word = str(next(iter(kind)) if isinstance(kind, dict) else kind).lower()
    if word in ("int", "long", "integer"):
        return pandas.to_numeric(column).astype("int64")
    if word in ("float", "double", "number"):
        return pandas.to_numeric(column).astype("float64")
    if word in ("string", "str"):
        return column.astype(str)
    if word in ("boolean", "bool"):
        given = kind.get("boolean", {}) if isinstance(kind, dict) else {}
        true = [str(v).lower() for v in _names((given or {}).get("true_values") or ["true", "1", "yes"])]
        return column.map(lambda value: str(value).lower() in true)
    if word == "datetime":
        given = kind.get("datetime") if isinstance(kind, dict) else None
        formats = _names(given["formats"]) if isinstance(given, dict) and given.get("formats") else [None]
        return pandas.to_datetime(column, format=formats[0])
    raise Refused(f"convert_column_types: the type {kind!r} is not known here.")


def _part(pandas: Any, root: str, table: Table, item: list[Any]) -> Any:
    path = os.path.join(root, item[0])
    settings = table.settings
    if table.reader == PARQUET:
        groups = item[1]
        if groups is None:
            found = pandas.read_parquet(path)
        else:
            parquet: Any = importlib.import_module("pyarrow.parquet")
            found = parquet.ParquetFile(path).read_row_groups(groups).to_pandas()
    else:
        start, end = item[1], item[2]
        with open(path, "rb") as file:
            head = file.readline() if item[3] else b""
            file.seek(start)
            body = file.read(end - start)
        if table.reader == LINES:
            found = pandas.read_json(
                io.BytesIO(body), lines=True, encoding=table.encoding, convert_dates=False
            )
        else:
            found = pandas.read_csv(
                io.BytesIO(head + body),
                sep=str(settings.get("delimiter") or ","),
                header=0 if item[3] else None,
                names=item[4] or None,
                encoding=table.encoding,
                dtype=None if settings.get("infer_column_types", True) else str,
                keep_default_na=not settings.get("empty_as_string", False),
            )
            if not item[3] and not item[4]:
                found.columns = [f"Column{number + 1}" for number in range(len(found.columns))]
    if table.partition_format:
        for name, value in (partition(table.partition_format, item[0]) or {}).items():
            found[name] = value
    if settings.get("include_path_column"):
        found.insert(0, "Path", "/" + item[0])
    return found
