"""The store on one SQLite file: WAL, synchronous=FULL, group commit.

Three connections: the writer's (see groupcommit for which thread runs what), the reader's on the event loop,
and the checkpointer's in a thread of its own, so that a commit never pays for a checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tidemill.domain.errors import OutOfSpace, TidemillError
from tidemill.domain.model import Touched
from tidemill.store.api import Read, Tx
from tidemill.store.groupcommit import GroupWriter, Listener
from tidemill.store.migrate import check_revision, create_statements, upgrade_sqlite
from tidemill.store.sqltx import SqlRead, SqlTx

T = TypeVar("T")

CHECKPOINT_BYTES = 4 << 20  # a WAL of this size is copied into the database, beside running commits
TRUNCATE_BYTES = 32 << 20  # a WAL that grew to this in spite of it is emptied between two commits
BUSY_S = 30.0  # how long a commit waits for another process that writes


def connect(path: Path) -> sqlite3.Connection:
    """A connection with our settings; transactions are begun and ended by hand."""
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    for pragma in ("synchronous=FULL", "wal_autocheckpoint=0", "temp_store=MEMORY", "cache_size=-16000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def make_private(path: Path) -> None:
    """Creates the file 0600 before SQLite would with the umask's mode; -wal and -shm inherit it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def translate_sqlite(error: BaseException, path: Path) -> BaseException:
    """SQLite's own errors as ours: full disks and failing I/O become OutOfSpace, a held lock is named."""
    if not isinstance(error, sqlite3.Error):
        return error
    primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        free = shutil.disk_usage(path.parent).free
        return OutOfSpace(
            f"{path} could not be written: {error} ({free >> 20} MiB free on its disk). Nothing was stored. "
            "Free some space and send the request again."
        )
    if primary == sqlite3.SQLITE_BUSY:
        return TidemillError(
            f"{path} is locked by another process for more than {BUSY_S:.0f} s. Close what writes to it "
            "(a sqlite3 shell?) and send the request again.",
            "DatabaseLocked",
            status=503,
        )
    return error


class SqliteSession:
    """The writing connection. `make_tx` builds what closures are given; it has `touched`."""

    run_in_loop = True
    commit_in_loop = False

    def __init__(self, path: Path, make_tx: Callable[[sqlite3.Connection], Any]) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._connection = connect(path)
        self._execute = self._connection.execute
        # BEGIN is tried on the loop first, which must not wait; see begin.
        self._execute("PRAGMA busy_timeout=0")
        self._tx = make_tx(self._connection)
        self._touched: list[Touched] = self._tx.touched
        self._checkpointer = _Checkpointer(path)
        self._passed = 0  # WAL size at the last checkpoint that was asked for
        self._truncate = False

    @property
    def connection(self) -> sqlite3.Connection:
        return self._connection

    def begin(self, wait: bool) -> bool:
        self._touched.clear()
        give_up = time.monotonic() + BUSY_S
        while True:
            try:
                self._execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
            if not wait:
                return False
            time.sleep(0.005)

    def run(self, fn: Callable[[Any], T]) -> T:
        execute, touched = self._execute, self._touched
        execute("SAVEPOINT one")
        mark = len(touched)
        try:
            result = fn(self._tx)
        except BaseException:
            del touched[mark:]
            # A full disk can end the whole transaction, savepoint included.
            if self._connection.in_transaction:
                execute("ROLLBACK TO one")
                execute("RELEASE one")
            raise
        execute("RELEASE one")
        return result

    def alive(self) -> bool:
        return self._connection.in_transaction

    def commit(self) -> None:
        self._execute("COMMIT")
        try:
            size = self._wal.stat().st_size
        except OSError:
            return
        if size < self._passed:
            self._passed = 0
        if size - self._passed >= CHECKPOINT_BYTES:
            self._passed = size
            self._checkpointer.ask()
        self._truncate = size >= TRUNCATE_BYTES

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def touched(self) -> frozenset[Touched]:
        return frozenset(self._touched)

    def wants_retry(self, error: BaseException) -> bool:
        return False

    def unknown(self, error: BaseException) -> bool:
        return False

    def translate(self, error: BaseException) -> BaseException:
        return translate_sqlite(error, self._path)

    def maintenance_due(self) -> bool:
        return self._truncate

    def maintain(self) -> None:
        self._truncate = False
        # SQLite lets one checkpoint in at a time and would answer "busy".
        with self._checkpointer.running:
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._passed = 0

    def close(self) -> None:
        self._checkpointer.stop()
        self._connection.close()


class _Checkpointer:
    """Copies the WAL into the database while commits go on (PASSIVE waits for nobody and stops nobody)."""

    def __init__(self, path: Path) -> None:
        self.running = threading.Lock()
        self._path = path
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="checkpointer", daemon=True)
            self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self) -> None:
        connection = connect(self._path)
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopping:
                break
            try:
                with self.running:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error:
                # Full disk: the WAL still holds everything; the next one asked for tries again.
                continue
        connection.close()


class SqliteReader:
    """The reading half of a store: also for a process that only reads what another one writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path)
        self._connection.execute("PRAGMA query_only=1")
        self._read = SqlRead(self._connection.execute)

    async def read(self, fn: Callable[[Read], T]) -> T:
        """Runs at once, on the loop: a snapshot of the last commit."""
        execute = self._connection.execute
        execute("BEGIN")
        try:
            return fn(self._read)
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error
        finally:
            execute("COMMIT")

    def revision(self) -> str | None:
        """The schema's, None in a file that has none yet."""
        if not self._connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchone():
            return None
        return str(self._connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])

    async def close(self) -> None:
        self._connection.close()


class SqliteStore:
    """store.api.Store. Made by `open_sqlite`; used from one event loop at a time."""

    def __init__(self, path: Path) -> None:
        self._session = SqliteSession(path, lambda connection: SqlTx(connection.execute))
        self._writer: GroupWriter[Tx] = GroupWriter(self._session, "store-writer")
        self._reader = SqliteReader(path)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return await self._writer.submit(fn)

    async def read(self, fn: Callable[[Read], T]) -> T:
        return await self._reader.read(fn)

    def on_commit(self, listener: Listener) -> None:
        self._writer.on_commit(listener)

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()


def open_sqlite(path: Path) -> SqliteStore:
    """Opens or makes the database file. Raises OutOfSpace, or TidemillError when it is of a newer version."""
    make_private(path)
    try:
        prepare(path)
        return SqliteStore(path)
    except sqlite3.Error as error:
        raise translate_sqlite(error, path) from error


def prepare(path: Path) -> None:
    """Brings the file to this version's schema."""
    connection = connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            for statement in create_statements("sqlite"):
                connection.execute(statement)
        row = None
        if not tables or "alembic_version" in tables:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("COMMIT")
    finally:
        connection.close()
    if row is None:
        raise TidemillError(
            f"{path} is a SQLite database but not Tidemill's (no revision in it). "
            "Give another --home or --database.",
            "NotOurDatabase",
            status=500,
        )
    if check_revision(row[0], str(path)):
        upgrade_sqlite(str(path))


def open_sqlite_reader(path: Path) -> SqliteReader:
    """Raises TidemillError while the file is not there, or not of this version."""
    if not path.exists():
        raise TidemillError(
            f"{path} is not there yet: the control process makes it.", "DatabaseMissing", status=503
        )
    reader = SqliteReader(path)
    try:
        row = reader.revision()
    except sqlite3.Error as error:
        raise translate_sqlite(error, path) from error
    if row is None or check_revision(row, str(path)):
        raise TidemillError(f"{path} has not been upgraded yet.", "DatabaseTooOld", status=503)
    return reader
