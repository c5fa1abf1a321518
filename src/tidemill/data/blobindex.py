"""The committed rows of blobs: one SQLite file that two processes write.

A write is a closure over the connection. Closures that wait together share one fsynced commit, each in a
savepoint of its own. An flock around the transaction lets the other process wait asleep instead of polling
SQLite's busy handler.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from tidemill.domain.errors import OutOfSpace

T = TypeVar("T")

_BATCH = 256  # closures per commit, so that one slow batch does not hold everyone
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts(
  account TEXT PRIMARY KEY, scope TEXT NOT NULL, created_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS containers(
  account TEXT NOT NULL, name TEXT NOT NULL, etag TEXT NOT NULL, created_at INTEGER NOT NULL,
  modified_at INTEGER NOT NULL, metadata TEXT NOT NULL, PRIMARY KEY(account, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs(
  account TEXT NOT NULL, container TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
  etag TEXT NOT NULL, generation TEXT NOT NULL, created_at INTEGER NOT NULL, modified_at INTEGER NOT NULL,
  md5 BLOB, content_type TEXT NOT NULL, metadata TEXT NOT NULL, headers TEXT NOT NULL, kind TEXT NOT NULL,
  parts INTEGER NOT NULL, PRIMARY KEY(account, container, name)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS blobs_generation ON blobs(generation);
CREATE TABLE IF NOT EXISTS blocks(
  account TEXT NOT NULL, container TEXT NOT NULL, name TEXT NOT NULL, id TEXT NOT NULL,
  size INTEGER NOT NULL, generation TEXT NOT NULL, created_at INTEGER NOT NULL,
  PRIMARY KEY(account, container, name, id)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS blocks_generation ON blocks(generation);
CREATE TABLE IF NOT EXISTS block_lists(generation TEXT PRIMARY KEY, blocks TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(slots=True)
class _Write:
    fn: Callable[[sqlite3.Connection], Any]
    directories: tuple[Path, ...]
    done: Future[Any] = field(default_factory=lambda: Future[Any]())
    outcome: tuple[Any, BaseException | None] = (None, None)


class BlobIndex:
    """Thread-safe; one per process and file. Raises OutOfSpace when a commit does not fit on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._create()

    def read(self) -> sqlite3.Connection:
        """This thread's own connection, in autocommit: each statement sees the last commit, nobody waits."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def write(self, fn: Callable[[sqlite3.Connection], T], directories: tuple[Path, ...] = ()) -> T:
        """Runs `fn` in a transaction; returns when it is on disk. `directories` are fsynced before the
        commit, so that a row never names a file whose directory entry could be lost."""
        job = _Write(fn, directories)
        with self._guard:
            if self._closed:
                raise RuntimeError("the blob index is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="blob-commit", daemon=True)
                self._thread.start()
            self._queue.put(job)
        return job.done.result()

    def close(self) -> None:
        """Finishes what is queued. Idempotent."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            self._queue.put(None)
        if thread is not None:
            thread.join()
        for connection in self._opened:
            connection.close()
        os.close(self._lock_fd)

    def _create(self) -> None:
        with self._exclusive(), out_of_space(self._path):
            db = self.read()
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA_VERSION:
                raise RuntimeError(
                    f"{self._path} was written by a newer Tidemill (schema {version}, this one reads up to "
                    f"{_SCHEMA_VERSION}). Install that version, or start with another --home."
                )
            if version < _SCHEMA_VERSION:
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_SCHEMA_VERSION}; COMMIT;")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-2048")
        with self._guard:
            self._opened.append(connection)
        return connection

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch, last = _drain(self._queue, first)
            try:
                with out_of_space(self._path):
                    self._commit(batch)
            except BaseException as error:
                for job in batch:
                    job.done.set_exception(error)
            else:
                for job in batch:
                    result, refused = job.outcome
                    job.done.set_exception(refused) if refused else job.done.set_result(result)
            if last:
                return

    def _commit(self, batch: list[_Write]) -> None:
        db = self.read()
        with self._exclusive():
            try:
                db.execute("BEGIN IMMEDIATE")
                for job in batch:
                    job.outcome = _savepoint(db, job.fn)
                for directory in {d for job in batch if job.outcome[1] is None for d in job.directories}:
                    sync_directory(directory)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def _drain(queue: SimpleQueue[_Write | None], first: _Write) -> tuple[list[_Write], bool]:
    batch = [first]
    while len(batch) < _BATCH:
        try:
            job = queue.get_nowait()
        except Empty:
            break
        if job is None:
            return batch, True
        batch.append(job)
    return batch, False


def _savepoint(
    db: sqlite3.Connection, fn: Callable[[sqlite3.Connection], Any]
) -> tuple[Any, BaseException | None]:
    db.execute("SAVEPOINT job")
    try:
        result = fn(db)
    except Exception as error:
        if not db.in_transaction:  # SQLite itself rolled everything back: the batch is lost
            raise
        db.execute("ROLLBACK TO job")
        db.execute("RELEASE job")
        return None, error
    db.execute("RELEASE job")
    return result, None


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def out_of_space(place: Path) -> Iterator[None]:
    """Turns "no space left" of the kernel or of SQLite into OutOfSpace."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(place) from error
        raise
    except sqlite3.OperationalError as error:
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and free_bytes(place) < 1 << 20):
            raise no_space(place) from error
        raise


def no_space(place: Path) -> OutOfSpace:
    return OutOfSpace(
        f"No space left on the disk that holds {place.parent}: nothing was stored. Free some space there and "
        "try again; what was stored before is untouched."
    )


def free_bytes(place: Path) -> int:
    """Free space for an ordinary user on the file system of `place`, in bytes."""
    status = os.statvfs(place.parent)
    return status.f_bavail * status.f_frsize
