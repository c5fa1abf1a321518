"""From an input to its mini-batches, the same ones each time.

A batch is JSON: {"files": [path, …]} or {"slices": [[path, start, end, header, names], …]} (of parquet:
[path, row groups or None]), with "key" where it is all that one partition has.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from typing import Any

from .spec import Refused, Spec
from .tables import DELIMITED, PARQUET, Table, files_of, partition, read_table, walk

FILES, BYTES = 10, 1 << 20  # of a batch, where nothing is said


def batches_of(spec: Spec) -> list[dict[str, Any]]:
    """Raises Refused for an input that has nothing, or cannot be cut as asked."""
    if spec.table is None:
        if spec.partition_keys:
            raise Refused(
                "partition_keys need an mltable whose MLTable has extract_columns_from_partition_format; the "
                "input is plain files. Give an mltable, or mini_batch_size instead."
            )
        _root, paths = _plain(spec.input)
        return _need(spec, by_count(paths, spec.size or FILES))
    table = read_table(spec.table)
    paths = files_of(spec.input, spec.table)
    if spec.partition_keys:
        return _need(spec, _by_key(spec, table, paths))
    if not table.reader:
        return _need(spec, by_count(paths, spec.size or FILES))
    return _need(spec, _by_bytes(spec.input, table, paths, spec.size or BYTES))


def root_of(spec: Spec) -> str:
    """The folder that paths of batches are below."""
    return _plain(spec.input)[0] if spec.table is None else spec.input


def digest_of(batches: list[dict[str, Any]]) -> str:
    """Of what is in them, as far as names and places go."""
    return hashlib.sha256(json.dumps(batches, sort_keys=True).encode()).hexdigest()[:32]


def names_of(batch: dict[str, Any], most: int = 5) -> list[str]:
    """Its first items, for people."""
    if "files" in batch:
        found = list(batch["files"])
    else:
        found = [
            f"{item[0]} bytes {item[1]} to {item[2]}" if len(item) > 2 else str(item[0])
            for item in batch["slices"]
        ]
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return found[:most] + more


def by_count(paths: list[str], size: int) -> list[dict[str, Any]]:
    return [{"files": paths[at : at + size]} for at in range(0, len(paths), size)]


def _plain(path: str) -> tuple[str, list[str]]:
    if os.path.isdir(path):
        return path, walk(path)
    return os.path.dirname(path), [os.path.basename(path)]


def _need(spec: Spec, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not batches:
        raise Refused(f"The input {spec.input} has no files: there is nothing to do.")
    return batches


def _by_key(spec: Spec, table: Table, paths: list[str]) -> list[dict[str, Any]]:
    form = table.partition_format
    if not form:
        raise Refused(
            "partition_keys need extract_columns_from_partition_format in the input's MLTable, which has "
            "none. Add it, or give mini_batch_size instead."
        )
    found: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        values = partition(form, path)
        if values is None:
            raise Refused(f"The file {path} does not fit the partition format {form!r}.")
        missing = [key for key in spec.partition_keys if key not in values]
        if missing:
            raise Refused(
                f"partition_keys has {missing[0]!r}, but the partition format {form!r} has only "
                + ", ".join(values)
                + "."
            )
        found.setdefault(tuple(values[key] for key in spec.partition_keys), []).append(path)
    made: list[dict[str, Any]] = []
    for key in sorted(found):
        batch: dict[str, Any] = {"key": dict(zip(spec.partition_keys, key))}
        if table.reader:
            batch["slices"] = [_whole(spec.input, table, path, paths[0]) for path in found[key]]
        else:
            batch["files"] = found[key]
        made.append(batch)
    return made


def _whole(root: str, table: Table, path: str, first: str) -> list[Any]:
    if table.reader == PARQUET:
        return [path, None]
    start, header, names = _start(root, table, path, first)
    return [path, start, os.path.getsize(os.path.join(root, path)), header, names]


def _by_bytes(root: str, table: Table, paths: list[str], size: int) -> list[dict[str, Any]]:
    """About `size` bytes each: a row is never cut, small files go together."""
    made: list[dict[str, Any]] = []
    held: list[list[Any]] = []
    bytes_held = 0
    for path in paths:
        for item, length in _pieces(root, table, path, paths[0], size):
            if held and bytes_held + length > size:
                made.append({"slices": held})
                held, bytes_held = [], 0
            held.append(item)
            bytes_held += length
    if held:
        made.append({"slices": held})
    return made


def _pieces(root: str, table: Table, path: str, first: str, size: int) -> Iterator[tuple[list[Any], int]]:
    whole = os.path.join(root, path)
    if table.reader == PARQUET:
        yield from _row_groups(whole, path, size)
        return
    start, header, names = _start(root, table, path, first)
    end = os.path.getsize(whole)
    if not table.cuttable:
        if end > start:
            yield [path, start, end, header, names], end - start
        return
    quoted = bool(table.settings.get("support_multi_line"))
    for one, other in _cuts(whole, start, end, size, quoted):
        yield [path, one, other, header, names], other - one


def _start(root: str, table: Table, path: str, first: str) -> tuple[int, bool, list[str]]:
    """Where the rows of a file begin, whether its own header goes before them, or which names they have."""
    mode = str(table.settings.get("header", "all_files_same_headers"))
    if table.reader != DELIMITED or mode in ("no_header", "False"):
        return 0, False, []
    if mode == "from_first_file" and path != first:
        with open(os.path.join(root, first), "rb") as file:
            return 0, False, names_in(file.readline(), table)
    with open(os.path.join(root, path), "rb") as file:
        return len(file.readline()), True, []


def _cuts(path: str, start: int, end: int, size: int, quoted: bool) -> Iterator[tuple[int, int]]:
    with open(path, "rb") as file:
        at = start
        while at < end:
            if quoted:
                until = _quoted_end(file, at, size)
            else:
                file.seek(min(at + size - 1, end))
                file.readline()
                until = min(file.tell(), end)
            yield at, until
            at = until


def _quoted_end(file: Any, at: int, size: int) -> int:
    """After the first row that reaches `size`: a line's end within quotes is none."""
    file.seek(at)
    inside, read = False, 0
    for line in file:
        read += len(line)
        if line.count(b'"') % 2:
            inside = not inside
        if read >= size and not inside:
            break
    return at + read


def _row_groups(whole: str, path: str, size: int) -> Iterator[tuple[list[Any], int]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:  # another engine of pandas reads it, whole
        yield [path, None], os.path.getsize(whole)
        return
    meta = parquet.ParquetFile(whole).metadata
    held, length = [], 0
    for number in range(meta.num_row_groups):
        bytes_of = meta.row_group(number).total_byte_size
        if held and length + bytes_of > size:
            yield [path, held], length
            held, length = [], 0
        held.append(number)
        length += bytes_of
    if held:
        yield [path, held], length


def names_in(line: bytes, table: Table) -> list[str]:
    """Of a header's line."""
    text = line.decode(table.encoding, "replace").rstrip("\r\n")
    return next(csv.reader([text], delimiter=str(table.settings.get("delimiter") or ",")), [])
