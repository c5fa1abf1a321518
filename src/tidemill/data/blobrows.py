"""The SQL of the blob index: pure functions over a connection, called inside its transactions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from tidemill.data.blobmodel import BlobInfo, Block, ContainerInfo, ListPage
from tidemill.domain.errors import Conflict, NotFound

_COLUMNS = (
    "account, container, name, size, etag, generation, created_at, modified_at, md5, content_type, metadata, "
    "headers, kind, parts"
)
_FIRST_BATCH, _LAST_BATCH = 32, 2048  # rows per statement: a step over a prefix throws the rest away


def find_blob(db: sqlite3.Connection, account: str, container: str, name: str) -> BlobInfo | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM blobs WHERE account=? AND container=? AND name=?", (account, container, name)
    ).fetchone()
    return blob_of(row) if row else None


def blob_of(row: Any) -> BlobInfo:
    return BlobInfo(
        account=row[0],
        container=row[1],
        name=row[2],
        size=row[3],
        etag=row[4],
        generation=row[5],
        created_at=row[6],
        modified_at=row[7],
        md5=row[8],
        content_type=row[9],
        metadata=json.loads(row[10]) if row[10] != "{}" else {},
        headers=json.loads(row[11]) if row[11] != "{}" else {},
        kind=row[12],
        parts=row[13],
    )


def save_blob(db: sqlite3.Connection, info: BlobInfo) -> None:
    db.execute(
        f"INSERT OR REPLACE INTO blobs({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            info.account,
            info.container,
            info.name,
            info.size,
            info.etag,
            info.generation,
            info.created_at,
            info.modified_at,
            info.md5,
            info.content_type,
            json.dumps(info.metadata) if info.metadata else "{}",
            json.dumps(info.headers) if info.headers else "{}",
            info.kind,
            info.parts,
        ),
    )


def find_container(db: sqlite3.Connection, account: str, name: str) -> ContainerInfo | None:
    row = db.execute(
        "SELECT account, name, etag, created_at, modified_at, metadata FROM containers "
        "WHERE account=? AND name=?",
        (account, name),
    ).fetchone()
    return ContainerInfo(row[0], row[1], row[2], row[3], row[4], json.loads(row[5])) if row else None


def save_container(db: sqlite3.Connection, info: ContainerInfo) -> None:
    db.execute(
        "INSERT OR REPLACE INTO containers(account, name, etag, created_at, modified_at, metadata) "
        "VALUES (?,?,?,?,?,?)",
        (info.account, info.name, info.etag, info.created_at, info.modified_at, json.dumps(info.metadata)),
    )


def need_container(db: sqlite3.Connection, account: str, container: str) -> None:
    """Raises NotFound(ContainerNotFound)."""
    found = db.execute("SELECT 1 FROM containers WHERE account=? AND name=?", (account, container)).fetchone()
    if found is None:
        raise NotFound(f"Storage account {account} has no container {container!r}.", "ContainerNotFound")


def refuse_file_beside_folder(db: sqlite3.Connection, account: str, container: str, name: str) -> None:
    """`a` and `a/b` cannot both exist: jobs see blobs as files and folders. Raises Conflict."""
    key = (account, container)
    cut = name.find("/")
    while 0 < cut < len(name) - 1:
        parent = name[:cut]
        taken = "SELECT 1 FROM blobs WHERE account=? AND container=? AND name=?"
        if db.execute(taken, (*key, parent)).fetchone():
            raise Conflict(
                f"Blob {name!r} cannot be stored in container {container!r}: {parent!r} is a file there, so "
                f"it cannot be a folder too. Use another name, or delete {parent!r} first.",
                "PathConflict",
            )
        cut = name.find("/", cut + 1)
    below = db.execute(
        "SELECT name FROM blobs WHERE account=? AND container=? AND name>=? AND name<? LIMIT 1",
        (*key, name + "/", name + "0"),  # "0" follows "/"
    ).fetchone()
    if below and not name.endswith("/"):
        raise Conflict(
            f"Blob {name!r} cannot be stored in container {container!r}: {below[0]!r} makes it a folder "
            "there, so it cannot be a file too. Use another name, or delete what is below it first.",
            "PathConflict",
        )


def drop_blocks(db: sqlite3.Connection, account: str, container: str, name: str) -> list[str]:
    """Forgets uncommitted blocks. -> their generations, to be unlinked after the commit."""
    gone = db.execute(
        "DELETE FROM blocks WHERE account=? AND container=? AND name=? RETURNING generation",
        (account, container, name),
    ).fetchall()
    return [row[0] for row in gone]


def uncommitted(
    db: sqlite3.Connection, account: str, container: str, name: str
) -> dict[str, tuple[int, str]]:
    """Block id -> (size, generation), in the order of the ids."""
    rows = db.execute(
        "SELECT id, size, generation FROM blocks WHERE account=? AND container=? AND name=? ORDER BY id",
        (account, container, name),
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def committed_blocks(db: sqlite3.Connection, generation: str) -> list[Block]:
    row = db.execute("SELECT blocks FROM block_lists WHERE generation=?", (generation,)).fetchone()
    return [Block(id, size) for id, size in json.loads(row[0])] if row else []


def save_block_list(db: sqlite3.Connection, generation: str, blocks: list[Block]) -> None:
    db.execute(
        "INSERT OR REPLACE INTO block_lists(generation, blocks) VALUES (?,?)",
        (generation, json.dumps([(block.id, block.size) for block in blocks])),
    )


def drop_generation(db: sqlite3.Connection, generation: str) -> None:
    db.execute("DELETE FROM block_lists WHERE generation=?", (generation,))


def is_used(db: sqlite3.Connection, generation: str) -> bool:
    for table in ("blobs", "blocks"):
        if db.execute(f"SELECT 1 FROM {table} WHERE generation=?", (generation,)).fetchone():
            return True
    return False


def meta(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
    return row[0] if row else None


def set_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO meta(key, value) VALUES (?,?)", (key, value))


def list_page(
    db: sqlite3.Connection,
    account: str,
    container: str,
    prefix: str,
    delimiter: str,
    marker: str,
    limit: int,
    with_uncommitted: bool,
) -> ListPage:
    """Steps over everything below a common prefix at once, so a page costs by what it shows."""
    blobs: list[BlobInfo] = []
    prefixes: list[str] = []
    start = max(prefix, marker)
    end = after(prefix)
    while True:
        skip_to: str | None = None
        for info in _blobs_from(db, account, container, start, end, with_uncommitted):
            if len(blobs) + len(prefixes) >= limit:
                return ListPage(tuple(blobs), tuple(prefixes), info.name)
            cut = info.name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                blobs.append(info)
            else:
                common = info.name[: cut + len(delimiter)]
                prefixes.append(common)
                skip_to = after(common)
                break
        else:
            return ListPage(tuple(blobs), tuple(prefixes), "")
        if skip_to is None:
            return ListPage(tuple(blobs), tuple(prefixes), "")
        start = skip_to


def after(prefix: str) -> str | None:
    """The least string above all that start with `prefix`, in the order of UTF-8; None: no limit."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            following = 0xE000 if code == 0xD7FF else code + 1  # surrogates have no UTF-8
            return prefix[:at] + chr(following)
    return None


def _blobs_from(
    db: sqlite3.Connection, account: str, container: str, start: str, end: str | None, with_uncommitted: bool
) -> Iterator[BlobInfo]:
    where = "account=? AND container=? AND name>=?" + ("" if end is None else " AND name<?")
    key = (account, container)
    bound = () if end is None else (end,)
    batch = _FIRST_BATCH
    while True:
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM blobs WHERE {where} ORDER BY name LIMIT {batch}", (*key, start, *bound)
        ).fetchall()
        found = [blob_of(row) for row in rows]
        whole = len(rows) < batch
        if with_uncommitted:
            upto = bound if whole else (rows[-1][2],)
            found = _merge(found, _uncommitted_names(db, account, container, start, upto))
        yield from found
        if whole:
            return
        start = rows[-1][2] + "\0"
        batch = min(batch * 4, _LAST_BATCH)


def _uncommitted_names(
    db: sqlite3.Connection, account: str, container: str, start: str, upto: tuple[str, ...]
) -> list[BlobInfo]:
    rows = db.execute(
        "SELECT name, min(created_at) FROM blocks b WHERE account=? AND container=? AND name>=?"
        + (" AND name<?" if upto else "")
        + " AND NOT EXISTS (SELECT 1 FROM blobs a "
        "WHERE a.account=b.account AND a.container=b.container AND a.name=b.name) "
        "GROUP BY name ORDER BY name",
        (account, container, start, *upto),
    )
    return [
        BlobInfo(account, container, name, 0, "", "", at, at, content_type="", committed=False)
        for name, at in rows
    ]


def _merge(first: list[BlobInfo], second: list[BlobInfo]) -> list[BlobInfo]:
    return sorted([*first, *second], key=lambda info: info.name) if second else first
