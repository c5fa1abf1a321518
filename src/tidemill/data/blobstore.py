"""Blobs: an immutable generation file and a committed row, the row being the truth.

A write puts its bytes in a file of its own, fsyncs it, then commits the row that names it; the file of the
version before is unlinked afterwards. A kill at any instant leaves either the old blob or the new one, and
at worst a file that no row names, which `sweep` removes. Two processes may use one store at once; every
method is synchronous and thread-safe. Nothing is returned before it is on disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tidemill.data import blobblocks
from tidemill.data import blobrows as rows
from tidemill.data.blobcommit import Committer, need_blob, new_generation
from tidemill.data.blobfiles import GenerationFiles, Upload, discarded_on_error
from tidemill.data.blobindex import BlobIndex
from tidemill.data.blobmodel import (
    DEFAULT_TYPE,
    BlobInfo,
    BlobProperties,
    Block,
    BlockRef,
    Check,
    ContainerInfo,
    ListPage,
    check_blob_name,
)
from tidemill.data.blobtree import Skipped, copy_blobs_out, files_below
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Scope

_BLOCKS_KEPT_US = 7 * 24 * 3600 * 1_000_000
_SAFE_AGE_S = 60.0
_TRIES = 16  # how often a read follows a blob that is being overwritten


class BlobStore:
    """`root` is home/blobs; `now` gives microseconds since the epoch."""

    def __init__(self, root: Path, now: Callable[[], int]) -> None:
        self.root = root
        self._now = now
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._index = BlobIndex(root / "index.db")
        self._files = GenerationFiles(root / "files", lambda: new_generation(now()))
        self._committer = Committer(self._index, self._files, now)

    def close(self) -> None:
        """Finishes queued commits. Idempotent."""
        self._index.close()

    # Accounts and containers

    def ensure_account(self, account: str, scope: Scope | None = None) -> None:
        """Makes the account known. `scope` is the workspace that owns it: its jobs' tokens open it."""
        owner = scope.arm_id.lower() if scope else ""

        def apply(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO accounts(account, scope, created_at) VALUES (?,?,?) "
                "ON CONFLICT(account) DO UPDATE SET scope=excluded.scope WHERE excluded.scope<>''",
                (account, owner, self._now()),
            )

        self._index.write(apply)

    def account_scope(self, account: str) -> str | None:
        """The owning workspace's ARM id in lower case ("" where none was named); None: no such account."""
        row = self._index.read().execute("SELECT scope FROM accounts WHERE account=?", (account,)).fetchone()
        return row[0] if row else None

    def delete_account(self, account: str) -> None:
        """With everything in it. An absent one is left alone."""

        def apply(db: sqlite3.Connection) -> list[str]:
            gone = _drop_blobs(db, "account=?", (account,))
            db.execute("DELETE FROM containers WHERE account=?", (account,))
            db.execute("DELETE FROM accounts WHERE account=?", (account,))
            return gone

        self._files.remove(self._index.write(apply))

    def ensure_container(
        self, account: str, container: str, *, metadata: dict[str, str] | None = None, new: bool = False
    ) -> ContainerInfo:
        """Makes container and account unless they exist; `new`: Conflict(ContainerAlreadyExists) if so."""
        found = rows.find_container(self._index.read(), account, container)
        if found is not None and not new:
            return found
        self.ensure_account(account)

        def apply(db: sqlite3.Connection) -> ContainerInfo:
            existing = rows.find_container(db, account, container)
            if existing is not None:
                if new:
                    raise Conflict(f"Container {container!r} already exists.", "ContainerAlreadyExists")
                return existing
            now = self._now()
            made = ContainerInfo(account, container, self._committer.new_etag(), now, now, metadata or {})
            rows.save_container(db, made)
            return made

        return self._index.write(apply)

    def container(self, account: str, container: str) -> ContainerInfo | None:
        return rows.find_container(self._index.read(), account, container)

    def containers(self, account: str) -> list[ContainerInfo]:
        """In the order of their names."""
        db = self._index.read()
        names = db.execute("SELECT name FROM containers WHERE account=? ORDER BY name", (account,)).fetchall()
        found = (rows.find_container(db, account, name) for (name,) in names)
        return [info for info in found if info is not None]

    def set_container_metadata(self, account: str, container: str, metadata: dict[str, str]) -> ContainerInfo:
        def apply(db: sqlite3.Connection) -> ContainerInfo:
            rows.need_container(db, account, container)
            old = rows.find_container(db, account, container)
            assert old is not None
            new = replace(old, metadata=metadata, etag=self._committer.new_etag(), modified_at=self._now())
            rows.save_container(db, new)
            return new

        return self._index.write(apply)

    def delete_container(
        self, account: str, container: str, check: Callable[[ContainerInfo], None] | None = None
    ) -> None:
        """Raises NotFound(ContainerNotFound)."""

        def apply(db: sqlite3.Connection) -> list[str]:
            rows.need_container(db, account, container)
            if check is not None:
                info = rows.find_container(db, account, container)
                assert info is not None
                check(info)
            gone = _drop_blobs(db, "account=? AND container=?", (account, container))
            db.execute("DELETE FROM containers WHERE account=? AND name=?", (account, container))
            return gone

        self._files.remove(self._index.write(apply))

    # Reading

    def get(self, account: str, container: str, name: str) -> BlobInfo | None:
        return rows.find_blob(self._index.read(), account, container, name)

    def path_of(self, info: BlobInfo) -> Path:
        """Its file. Only the first `info.size` bytes are the blob's (an append blob's file may be longer);
        it is unlinked when the blob is overwritten or deleted."""
        return self._files.path(info.generation)

    def open(self, account: str, container: str, name: str) -> tuple[BlobInfo, int] | None:
        """-> (blob, open descriptor of its bytes, to be closed by the caller), or None."""
        for _ in range(_TRIES):
            info = self.get(account, container, name)
            if info is None:
                return None
            try:
                return info, os.open(self.path_of(info), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # overwritten between the row and the file: look again
                continue
        raise RuntimeError(f"the file of blob {container}/{name} is missing in {self._files.root}")

    def read_bytes(self, account: str, container: str, name: str) -> bytes | None:
        """A small blob whole."""
        opened = self.open(account, container, name)
        if opened is None:
            return None
        info, fd = opened
        with os.fdopen(fd, "rb") as file:
            return file.read(info.size)

    def list(
        self,
        account: str,
        container: str,
        prefix: str = "",
        delimiter: str = "",
        marker: str = "",
        limit: int = 5000,
        *,
        uncommitted: bool = False,
    ) -> ListPage:
        """Raises NotFound(ContainerNotFound)."""
        db = self._index.read()
        rows.need_container(db, account, container)
        return rows.list_page(db, account, container, prefix, delimiter, marker, limit, uncommitted)

    def copy_out(
        self,
        account: str,
        container: str,
        prefix_or_name: str,
        destination: Path,
        *,
        going: Callable[[], None] = lambda: None,
    ) -> int:
        """A blob -> the file `destination`; else what is below the prefix -> a tree there. -> bytes copied.
        Raises NotFound where nothing is there, InvalidRequest for a name that would leave `destination`,
        and what `going` raises, which is called now and then."""
        rows.need_container(self._index.read(), account, container)
        return copy_blobs_out(self, account, container, prefix_or_name, destination, going)

    def total_size(self) -> int:
        """Bytes of all blobs of all accounts."""
        return int(self._index.read().execute("SELECT coalesce(sum(size), 0) FROM blobs").fetchone()[0])

    # Writing

    def begin_upload(self, expected: int = 0) -> Upload:
        """A file to stream bytes into; ends with `commit_upload`, `stage_block` or `discard`."""
        return self._files.create(expected)

    def commit_upload(
        self,
        upload: Upload,
        account: str,
        container: str,
        name: str,
        properties: BlobProperties,
        *,
        kind: str = "BlockBlob",
        check: Check | None = None,
    ) -> BlobInfo:
        """The bytes become the blob; uncommitted blocks of that name are dropped. Ends the upload."""
        with discarded_on_error(upload):
            check_blob_name(name)

        def apply(db: sqlite3.Connection) -> tuple[BlobInfo, list[str]]:
            return self._committer.replace(db, upload, (account, container, name), properties, kind, check)

        return self._committer.publish([upload], apply)

    def put_bytes(
        self,
        account: str,
        container: str,
        name: str,
        data: bytes,
        *,
        metadata: dict[str, str] | None = None,
        content_type: str = DEFAULT_TYPE,
    ) -> BlobInfo:
        """Raises NotFound (no such container), Conflict (a file beside a folder), OutOfSpace."""
        upload = self._files.create(len(data))
        with discarded_on_error(upload):
            upload.write((data,))
        return self.commit_upload(
            upload, account, container, name, BlobProperties(content_type, metadata or {})
        )

    def put_file(
        self,
        account: str,
        container: str,
        name: str,
        path: Path,
        *,
        move: bool = False,
        metadata: dict[str, str] | None = None,
        content_type: str = DEFAULT_TYPE,
    ) -> BlobInfo:
        """A regular file's bytes become a blob. `move`: the file is taken over without copying where the
        file system allows, and is gone afterwards. An MD5 is stored up to 64 MiB."""
        upload, md5 = self._files.take(path, move)
        properties = BlobProperties(content_type, metadata or {}, md5=md5)
        info = self.commit_upload(upload, account, container, name, properties)
        if move:
            path.unlink(missing_ok=True)
        return info

    def put_tree(
        self,
        account: str,
        container: str,
        prefix: str,
        directory: Path,
        *,
        move: bool = False,
        skipped: Skipped | None = None,
    ) -> Infos:
        """Every regular file below `directory` becomes `prefix/…`, in one commit: all or none. Links are
        followed only inside `directory`; what cannot be stored is told to `skipped(path, reason)`."""
        base = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        uploads: list[tuple[str, Upload, bytes | None]] = []
        taken: list[Path] = []
        try:
            for relative, path in files_below(directory, skipped):
                name = check_blob_name(base + relative)
                uploads.append((name, *self._files.take(path, move)))
                taken.append(path)
        except BaseException:
            for _, upload, _ in uploads:
                upload.discard()
            raise
        if not uploads:
            return []

        def apply(db: sqlite3.Connection) -> tuple[Infos, list[str]]:
            infos: Infos = []
            gone: list[str] = []
            for name, upload, md5 in uploads:
                properties = BlobProperties(md5=md5)
                info, old = self._committer.replace(db, upload, (account, container, name), properties)
                infos.append(info)
                gone += old
            return infos, gone

        infos = self._committer.publish([upload for _, upload, _ in uploads], apply)
        for path in taken if move else ():
            path.unlink(missing_ok=True)
        return infos

    def copy_blob(
        self,
        source: BlobInfo,
        account: str,
        container: str,
        name: str,
        properties: BlobProperties,
        *,
        check: Check | None = None,
    ) -> BlobInfo:
        """A second name for the same bytes (a hard link); an append blob is copied. FileNotFoundError where
        the source is overwritten meanwhile."""
        if source.kind == "BlockBlob":
            upload = self._files.link(source.generation, source.size)
        else:
            upload = self._files.copied([(self.path_of(source), 0, source.size)])
        return self.commit_upload(upload, account, container, name, properties, kind=source.kind, check=check)

    def set_properties(
        self,
        account: str,
        container: str,
        name: str,
        change: Callable[[BlobInfo], BlobInfo],
        check: Check | None = None,
    ) -> BlobInfo:
        """A new row over the same bytes. Raises NotFound(BlobNotFound)."""

        def apply(db: sqlite3.Connection) -> BlobInfo:
            old = need_blob(db, (account, container, name))
            if check is not None:
                check(old)
            new = replace(change(old), etag=self._committer.new_etag(), modified_at=self._now())
            rows.save_blob(db, new)
            return new

        return self._index.write(apply)

    def delete(self, account: str, container: str, name: str, *, check: Check | None = None) -> bool:
        """-> False where there is none. NotFound(ContainerNotFound) without the container."""

        def apply(db: sqlite3.Connection) -> list[str] | None:
            rows.need_container(db, account, container)
            old = rows.find_blob(db, account, container, name)
            if check is not None:
                check(old)
            if old is None:
                return None
            rows.drop_generation(db, old.generation)
            key = (account, container, name)
            db.execute("DELETE FROM blobs WHERE account=? AND container=? AND name=?", key)
            return [old.generation, *rows.drop_blocks(db, *key)]

        gone = self._index.write(apply)
        self._files.remove(gone or ())
        return gone is not None

    def delete_prefix(self, account: str, container: str, prefix: str) -> int:
        """Every blob whose name starts with `prefix`, in one commit. -> how many."""
        end = rows.after(prefix)
        where = "account=? AND container=? AND name>=?" + ("" if end is None else " AND name<?")
        key = (account, container, prefix) if end is None else (account, container, prefix, end)
        gone = self._index.write(lambda db: _drop_blobs(db, where, key))
        self._files.remove(gone)
        return len(gone)

    # Blocks

    def stage_block(self, upload: Upload, account: str, container: str, name: str, block_id: str) -> Block:
        """An uncommitted block, kept a week. Ends the upload. InvalidRequest(InvalidBlobOrBlock) where its
        id has another length than those before."""
        with discarded_on_error(upload):
            check_blob_name(name)
        return blobblocks.stage_block(self._committer, upload, (account, container, name), block_id)

    def blocks(self, account: str, container: str, name: str) -> tuple[list[Block], list[Block]]:
        """-> (committed, uncommitted). Raises NotFound(BlobNotFound) where there is neither."""
        return blobblocks.list_blocks(self._index.read(), (account, container, name))

    def commit_blocks(
        self,
        account: str,
        container: str,
        name: str,
        refs: Sequence[BlockRef],
        properties: BlobProperties,
        *,
        check: Check | None = None,
    ) -> BlobInfo:
        """Put Block List: the named blocks, in that order, become the blob. InvalidRequest(InvalidBlockList)
        names the first block that does not exist."""
        key = (account, container, check_blob_name(name))
        return blobblocks.commit_blocks(self._committer, key, refs, properties, check)

    def append(
        self, account: str, container: str, name: str, source: Upload, *, check: Check | None = None
    ) -> tuple[BlobInfo, int]:
        """Appends the upload's bytes to an append blob. -> (blob, offset they were put at). The file is
        written beyond the committed size, which a reader never passes, then the row moves on."""
        return blobblocks.append(self._committer, (account, container, name), source, check)

    # Upkeep

    def sweep(self) -> int:
        """Removes files that no row names (left by a kill) and blocks that were never committed for a week.
        Files of the last minute or locked by a writer are left alone. -> how many files were removed."""
        started = self._now() / 1e6
        db = self._index.read()
        since = float(rows.meta(db, "swept_at") or 0)
        limit = self._now() - _BLOCKS_KEPT_US

        def expire(db: sqlite3.Connection) -> list[str]:
            gone = db.execute("DELETE FROM blocks WHERE created_at<? RETURNING generation", (limit,))
            return [row[0] for row in gone.fetchall()]

        expired: list[str] = []
        if db.execute("SELECT 1 FROM blocks WHERE created_at<? LIMIT 1", (limit,)).fetchone():
            expired = self._index.write(expire)
            self._files.remove(expired)
        removed, left = self._files.sweep(
            lambda generation: rows.is_used(db, generation), since, started - _SAFE_AGE_S
        )
        mark = min(left, started - 2 * _SAFE_AGE_S) if left is not None else started - 2 * _SAFE_AGE_S
        value = str(max(mark, since) if left is None else mark)
        self._index.write(
            lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES ('swept_at', ?)", (value,)) and None
        )
        return removed + len(expired)


Infos = list[BlobInfo]


def _drop_blobs(db: sqlite3.Connection, where: str, key: tuple[str, ...]) -> list[str]:
    """Deletes rows of blobs and blocks. -> generations, to be unlinked after the commit."""
    db.execute(
        f"DELETE FROM block_lists WHERE generation IN (SELECT generation FROM blobs WHERE {where})", key
    )
    gone = db.execute(f"DELETE FROM blobs WHERE {where} RETURNING generation", key).fetchall()
    gone += db.execute(f"DELETE FROM blocks WHERE {where} RETURNING generation", key).fetchall()
    return [row[0] for row in gone]
