"""Blobs that come in pieces: blocks staged and committed by a list, and blobs that grow by appends."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidemill.data import blobrows as rows
from tidemill.data.blobcommit import Committer, need_blob, no_blob
from tidemill.data.blobfiles import Upload, copy_range
from tidemill.data.blobindex import out_of_space
from tidemill.data.blobmodel import BlobInfo, BlobProperties, Block, BlockRef, Check
from tidemill.domain.errors import Conflict, InvalidRequest

Key = tuple[str, str, str]  # account, container, name
_TRIES = 16


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a block list means for the rows as they were read."""

    pieces: list[tuple[str, int, int]]  # generation, offset, size
    blocks: list[Block]
    used: dict[str, str]  # uncommitted id -> generation
    base: str  # generation of the blob it starts from; "" where there is none


def stage_block(committer: Committer, upload: Upload, key: Key, block_id: str) -> Block:
    """See BlobStore.stage_block."""

    def apply(db: sqlite3.Connection) -> tuple[Block, list[str]]:
        rows.need_container(db, *key[:2])
        other = db.execute(
            "SELECT length(id) FROM blocks WHERE account=? AND container=? AND name=? LIMIT 1", key
        ).fetchone()
        if other and other[0] != len(block_id):
            raise InvalidRequest(
                f"Block id {block_id!r} has {len(block_id)} characters, the uncommitted ones of {key[2]!r} "
                f"have {other[0]}: all ids of one blob must have the same length.",
                "InvalidBlobOrBlock",
            )
        old = db.execute(
            "SELECT generation FROM blocks WHERE account=? AND container=? AND name=? AND id=?",
            (*key, block_id),
        ).fetchall()
        db.execute(
            "INSERT OR REPLACE INTO blocks VALUES (?,?,?,?,?,?,?)",
            (*key, block_id, upload.size, upload.generation, committer.now()),
        )
        return Block(block_id, upload.size), [row[0] for row in old]

    return committer.publish([upload], apply)


def list_blocks(db: sqlite3.Connection, key: Key) -> tuple[list[Block], list[Block]]:
    """See BlobStore.blocks."""
    rows.need_container(db, *key[:2])
    waiting = rows.uncommitted(db, *key)
    info = rows.find_blob(db, *key)
    if info is None and not waiting:
        raise no_blob(key)
    done = rows.committed_blocks(db, info.generation) if info else []
    return done, [Block(id, size) for id, (size, _) in waiting.items()]


def commit_blocks(
    committer: Committer, key: Key, refs: Sequence[BlockRef], properties: BlobProperties, check: Check | None
) -> BlobInfo:
    """See BlobStore.commit_blocks. Bytes are joined outside the transaction; where another writer was
    faster, the list is resolved again."""
    while True:
        db = committer.index.read()
        rows.need_container(db, *key[:2])
        info = rows.find_blob(db, *key)
        if check is not None:
            check(info)  # before bytes are copied; the transaction looks again
        plan = _plan(refs, rows.uncommitted(db, *key), info, db)
        segments = [(committer.files.path(piece[0]), piece[1], piece[2]) for piece in plan.pieces]
        try:
            upload = committer.files.joined(segments)
        except FileNotFoundError:
            continue
        result = _commit_plan(committer, key, plan, upload, properties, check)
        if result is not None:
            return result


def append(committer: Committer, key: Key, source: Upload, check: Check | None) -> tuple[BlobInfo, int]:
    """See BlobStore.append."""
    try:
        while True:
            info, fd = _lock_append(committer, key)
            try:
                if check is not None:
                    check(info)
                with out_of_space(committer.files.root):
                    copy_range(source.fd, 0, fd, info.size, source.size)
                    os.fsync(fd)
                done = _commit_append(committer, key, info, source.size, check)
                if done is not None:
                    return done, info.size
            finally:
                os.close(fd)
    finally:
        source.discard()


def _plan(
    refs: Sequence[BlockRef],
    waiting: dict[str, tuple[int, str]],
    info: BlobInfo | None,
    db: sqlite3.Connection,
) -> _Plan:
    offsets: dict[str, tuple[int, int]] = {}
    at = 0
    for block in rows.committed_blocks(db, info.generation) if info else ():
        offsets.setdefault(block.id, (at, block.size))
        at += block.size
    plan = _Plan([], [], {}, info.generation if info else "")
    for ref in refs:
        if ref.source != "Committed" and ref.id in waiting:
            size, generation = waiting[ref.id]
            plan.used[ref.id] = generation
            plan.pieces.append((generation, 0, size))
        elif ref.source != "Uncommitted" and ref.id in offsets:
            offset, size = offsets[ref.id]
            plan.pieces.append((plan.base, offset, size))
        else:
            raise InvalidRequest(
                f"The block list names block {ref.id!r} ({ref.source}), which does not exist.",
                "InvalidBlockList",
            )
        plan.blocks.append(Block(ref.id, size))
    return plan


def _commit_plan(
    committer: Committer,
    key: Key,
    plan: _Plan,
    upload: Upload,
    properties: BlobProperties,
    check: Check | None,
) -> BlobInfo | None:
    """None where the rows are no longer those of the plan."""

    def apply(db: sqlite3.Connection) -> tuple[BlobInfo | None, list[str]]:
        info = rows.find_blob(db, *key)
        waiting = rows.uncommitted(db, *key)
        same_base = (info.generation if info else "") == plan.base
        same_blocks = all(waiting.get(id, (0, ""))[1] == file for id, file in plan.used.items())
        if not (same_base and same_blocks):
            return None, [upload.generation]
        done = committer.replace(db, upload, key, properties, "BlockBlob", check)
        rows.save_block_list(db, upload.generation, plan.blocks)
        return done

    return committer.publish([upload], apply)


def _lock_append(committer: Committer, key: Key) -> tuple[BlobInfo, int]:
    """The blob as it is once we hold its file's lock: appends take turns, in both processes."""
    for _ in range(_TRIES):
        info = need_blob(committer.index.read(), key)
        if info.kind != "AppendBlob":
            raise Conflict(f"Blob {key[2]!r} is a {info.kind}, not an append blob.", "InvalidBlobType")
        try:
            fd = os.open(committer.files.path(info.generation), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        locked = rows.find_blob(committer.index.read(), *key)
        if locked is not None and locked.generation == info.generation:
            return locked, fd
        os.close(fd)
    raise no_blob(key)


def _commit_append(
    committer: Committer, key: Key, before: BlobInfo, added: int, check: Check | None
) -> BlobInfo | None:
    def apply(db: sqlite3.Connection) -> BlobInfo | None:
        info = need_blob(db, key)
        if (info.generation, info.size) != (before.generation, before.size):
            return None
        if check is not None:
            check(info)
        new = replace(
            info,
            size=info.size + added,
            parts=info.parts + 1,
            md5=None,
            etag=committer.new_etag(),
            modified_at=committer.now(),
        )
        rows.save_blob(db, new)
        return new

    return committer.index.write(apply)
