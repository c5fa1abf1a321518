"""What lies at a place of a workspace's storage, for its pages: the first rows of a table, text, a picture,
or what a folder holds.

A bounded part of a file is read, and nothing in it is executed. Parquet is read by pyarrow, where the
server's Python has it, in a process of its own (`data/parquet_rows.py`). Only the workspace's own storage is
looked at.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import posixpath
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.storage import account_for
from tidemill.app.assets.storage_access import KEY_ACTIONS, READ_BLOBS
from tidemill.app.people import access
from tidemill.app.rows.asset_rows import AssetKind
from tidemill.app.services import Services
from tidemill.data import parquet_rows, plain_yaml, preview
from tidemill.data.mltable import FILE, TablePath, matcher, read_paths
from tidemill.data.preview import Nothing, Preview
from tidemill.data.staging import MLTABLE
from tidemill.domain.errors import InvalidRequest, NotFound, TidemillError
from tidemill.domain.model import Caller, Scope
from tidemill.domain.plan import Place
from tidemill.serving.batch.spec import Refused
from tidemill.serving.batch.tables import PARQUET, Table, read_table
from tidemill.store.api import Read

MOST_ENTRIES = 200  # of a folder, a page
MOST_PICTURE = 8 * 1024 * 1024  # bytes
PARQUET_S = 10.0
_ANSWER = 4 * 1024 * 1024  # bytes of rows
# Wild cards are tried by backtracking: few of them, on names of some length, cost next to nothing.
_WILD, _NAME, _TRIED = 3, 128, 100


@dataclass(frozen=True, slots=True)
class Entry:
    """`size` None: a folder. `path`: from the asset's own place."""

    name: str
    path: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """`path`: what of the asset this is. `file`: what is shown of it; `note`: where that is from. `entries`:
    what the folder holds, further ones after `following`."""

    path: str
    size: int | None = None
    file: Preview | None = None
    note: str = ""
    entries: tuple[Entry, ...] = ()
    following: str = ""


async def may_read(s: Services, caller: Caller, scope: Scope) -> bool:
    """Whether the workspace's storage would give this caller its bytes."""
    for action in KEY_ACTIONS:
        if (await access.decide(s, caller, action, scope)).allowed:
            return True
    return (await access.decide(s, caller, READ_BLOBS, scope, data=True)).allowed


async def place_of(s: Services, scope: Scope, kind: AssetKind, address: str) -> Place | None:
    """None for what is not in this workspace's storage. Raises NotFound, InvalidRequest, NotOffered."""

    def look(read: Read) -> Place | None:
        storage = _storage(s, scope, read)
        place = locate(read, storage, address, kind).place
        return place if place is not None and place.account == storage.account else None

    return await s.store.read(look)


def _storage(s: Services, scope: Scope, read: Read) -> Storage:
    return Storage(scope, account_for(read, scope), s.addresses.data_netloc)


async def look(
    s: Services, scope: Scope, place: Place, path: str = "", after: str = "", kind: str = ""
) -> Seen:
    """`path`: below the place, a folder's ends in '/'; "" for the place itself. `kind`: "mltable" for one.
    Raises NotFound where nothing is stored there."""
    name = _name(place, path)
    if not name.endswith("/") and name:
        found = await asyncio.to_thread(s.blobs.get, place.account, place.container, name)
        if found is not None:
            return Seen(path, found.size, await _of_file(s, place, name))
    folder = f"{name.rstrip('/')}/" if name.strip("/") else ""
    seen = await asyncio.to_thread(_folder, s, place, folder, path, after)
    if kind == MLTABLE and not path and not after:
        rows, note = await _of_table(s, scope, place, folder)
        return Seen(seen.path, None, rows, note, seen.entries, seen.following)
    return seen


async def picture(s: Services, place: Place, path: str) -> tuple[bytes, str]:
    """-> (bytes, type). Raises NotFound for what is none, or larger than MOST_PICTURE."""
    name = _name(place, path)
    head, whole = await asyncio.to_thread(_head, s, place, name, MOST_PICTURE)
    kind = preview.picture_type(head)
    if not kind or not whole:
        raise NotFound(f"There is no picture of at most {MOST_PICTURE} bytes at {path or name!r}.")
    return head, kind


def _name(place: Place, path: str) -> str:
    return f"{place.path.rstrip('/')}/{path}".lstrip("/") if path else place.path


def _folder(s: Services, place: Place, folder: str, path: str, after: str) -> Seen:
    page = s.blobs.list(
        place.account,
        place.container,
        folder,
        "/",
        marker=f"{folder}{after}" if after else "",
        limit=MOST_ENTRIES,
    )
    above = f"{path.rstrip('/')}/" if path else ""

    def entry(name: str, size: int | None) -> Entry:
        leaf = name[len(folder) :]
        return Entry(leaf, above + leaf, size)

    found = [*(entry(one, None) for one in page.prefixes), *(entry(one.name, one.size) for one in page.blobs)]
    if not found and not after:
        raise NotFound(f"Nothing is stored at {place.container}/{folder}.")
    order = sorted(found, key=lambda one: one.name)
    return Seen(path, entries=tuple(order), following=page.next_marker.removeprefix(folder))


def _head(s: Services, place: Place, name: str, most: int) -> tuple[bytes, bool]:
    """-> (at most that many of its first bytes, whether they are all). Raises NotFound."""
    opened = s.blobs.open(place.account, place.container, name)
    if opened is None:
        raise NotFound(f"Nothing is stored at {place.container}/{name}.")
    info, descriptor = opened
    with os.fdopen(descriptor, "rb") as file:
        return file.read(min(most, info.size)), info.size <= most


async def _of_file(
    s: Services, place: Place, name: str, table: Table | None = None, path: str = ""
) -> Preview:
    head, whole = await asyncio.to_thread(_head, s, place, name, preview.MOST_BYTES)
    if table is not None and table.reader and table.reader != PARQUET:
        return await asyncio.to_thread(preview.of_table, table, path, head, whole)
    if (table is not None and table.reader == PARQUET) or preview.is_parquet(name, head):
        found = await _parquet(s, place, name)
        if table is not None and isinstance(found, preview.Rows):
            return preview.changed(found, table, path)
        return found
    return await asyncio.to_thread(preview.preview, name, head, whole)


async def _of_table(s: Services, scope: Scope, place: Place, folder: str) -> tuple[Preview, str]:
    """-> (the first rows of a table's first file, a sentence that says which that is)."""
    try:
        raw, whole = await asyncio.to_thread(_head, s, place, folder + FILE, preview.MOST_BYTES)
        if not whole:
            return Nothing(f"Its {FILE} is larger than {preview.MOST_BYTES} bytes."), ""
        document, paths = await asyncio.to_thread(_read_table, raw)
        table = read_table(document)
        places = await s.store.read(lambda read: _places(s, scope, read, place, folder, paths))
        found = await asyncio.to_thread(_first, s, folder, places)
        if found is None:
            return Nothing(f"No file that its {FILE} names is in this workspace's storage."), ""
        where, name, path = found
        rows = await _of_file(s, where, name, table, path)
        return rows, f"From {path}, the first file of the table."
    except Refused as error:
        return Nothing(str(error)), ""
    except (TidemillError, ValueError) as error:
        return Nothing(getattr(error, "message", "") or f"Its {FILE} cannot be read: {error}."), ""


def _read_table(raw: bytes) -> tuple[dict[str, object], tuple[TablePath, ...]]:
    document = plain_yaml.load(raw)
    if not isinstance(document, dict):
        raise ValueError("it is no mapping")
    return document, read_paths(raw, FILE)  # type: ignore[reportUnknownVariableType]


def _places(
    s: Services, scope: Scope, read: Read, place: Place, folder: str, paths: tuple[TablePath, ...]
) -> list[tuple[TablePath, Place, str]]:
    """Where the paths of a table begin, without those that lead out of this storage."""
    found: list[tuple[TablePath, Place, str]] = []
    for path in paths[:_TRIED]:
        if path.relative:
            joined = posixpath.normpath(posixpath.join(folder or ".", path.fixed))
            if joined != ".." and not joined.startswith("../"):
                found.append((path, place, "" if joined == "." else joined))
            continue
        where = locate(read, _storage(s, scope, read), path.fixed).place
        if where is not None and where.account == place.account:  # a registry's are not this workspace's
            found.append((path, where, where.path.rstrip("/")))
    return found


def _first(
    s: Services, folder: str, places: list[tuple[TablePath, Place, str]]
) -> tuple[Place, str, str] | None:
    """-> (whose container, name, path from the table's folder) of the first file that is there."""
    for path, where, start in places:
        name = _first_of(s, where, start, path)
        if name is not None:
            return where, name, name.removeprefix(folder)
    return None


def _first_of(s: Services, where: Place, start: str, path: TablePath) -> str | None:
    if path.kind == "file":
        return start if s.blobs.get(where.account, where.container, start) is not None else None
    below = f"{start}/" if start else ""
    if path.kind == "pattern" and sum(path.tail.count(wild) for wild in "*?[") > _WILD:
        raise InvalidRequest(f"The pattern {path.value!r} has too many wild cards to be looked through here.")
    rule = matcher(path.tail) if path.kind == "pattern" else None
    for blob in s.blobs.list(where.account, where.container, below, limit=_TRIED).blobs:
        leaf = blob.name[len(below) :]
        if leaf == FILE or (rule is not None and (len(leaf) > _NAME or rule.fullmatch(leaf) is None)):
            continue
        return blob.name
    return None


async def _parquet(s: Services, place: Place, name: str, python: str = "") -> Preview:
    """`python`: whose pyarrow reads it; the server's own where none is given."""
    if not python and importlib.util.find_spec("pyarrow") is None:
        return Nothing(
            "It is parquet, which is shown where the server's Python has pyarrow: "
            f"{sys.executable} -m pip install pyarrow"
        )
    opened = await asyncio.to_thread(s.blobs.open, place.account, place.container, name)
    if opened is None:
        return Nothing("It is gone.")
    try:
        return await parquet(opened[1], python or sys.executable)
    finally:
        os.close(opened[1])


async def parquet(descriptor: int, python: str) -> Preview:
    """The first rows of an open parquet file, by the pyarrow of `python`."""
    limits = (preview.MOST_ROWS, preview.MOST_COLUMNS, preview.MOST_CELL)
    process = await asyncio.create_subprocess_exec(
        python,
        "-I",
        str(Path(parquet_rows.__file__)),
        str(descriptor),
        *map(str, limits),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env={},
    )
    assert process.stdout is not None
    answer = b""
    try:
        async with asyncio.timeout(PARQUET_S):
            while len(answer) <= _ANSWER and (chunk := await process.stdout.read(65536)):
                answer += chunk
    except TimeoutError:
        return Nothing("It is parquet, and reading its first rows takes too long.")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # not wait(), which waits for a pipe's end that nobody reads up to
    try:
        found = json.loads(answer)
    except ValueError:
        return Nothing("It is called parquet, and its first rows cannot be read, or are too large.")
    rows = preview.bounded(found["columns"], found["rows"], bool(found["more"]))
    return preview.Rows(rows.columns, rows.rows, rows.more, int(found["wider"]))
