"""The store on PostgreSQL: serializable transactions, batched like SQLite's, retried when the database asks.

The writer and each reader have a connection of their own and use it from a thread; a connection that broke is
made again for the next transaction. Needs psycopg 3 (`pip install tidemill[postgres]`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from tidemill.domain.errors import InvalidRequest, OutOfSpace, TidemillError
from tidemill.domain.model import Touched
from tidemill.store.accesssql import Cursor
from tidemill.store.api import Read, Tx
from tidemill.store.groupcommit import GroupWriter, Listener
from tidemill.store.migrate import check_revision, create_statements, upgrade_postgres
from tidemill.store.sqltx import SqlRead, SqlTx

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

READERS = 4
_LOCK = 0x7469_6465  # advisory lock of whoever makes or upgrades the tables
_statements: dict[str, str] = {}


def _connect(url: str) -> psycopg.Connection[Any]:
    try:
        import psycopg
    except ImportError as error:
        raise InvalidRequest(
            "A PostgreSQL database needs psycopg, which is not installed: pip install 'tidemill[postgres]'.",
            "MissingDependency",
            "--database",
        ) from error
    try:
        return psycopg.connect(url, autocommit=True)
    except psycopg.OperationalError as error:
        raise TidemillError(
            f"The PostgreSQL server {describe(url)} cannot be reached: {str(error).strip()}. "
            "Start it, or correct --database.",
            "DatabaseUnreachable",
            status=503,
        ) from error


def describe(url: str) -> str:
    """The address without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or '(socket)'}:{parts.port or 5432}{parts.path}"


class _Connection:
    """A connection that is made on first use and again after it broke; `execute` takes our `?` parameters."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._held: psycopg.Connection[Any] | None = None

    def get(self) -> psycopg.Connection[Any]:
        if self._held is None or self._held.closed:
            self._held = _connect(self._url)
        return self._held

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Cursor:
        text = _statements.get(sql)
        if text is None:
            text = _statements[sql] = sql.replace("?", "%s")
        held = self._held if self._held is not None else self.get()
        return held.execute(cast(Any, text), params)

    @property
    def alive(self) -> bool:
        return self._held is not None and not self._held.closed

    def close(self) -> None:
        if self._held is not None:
            self._held.close()


def _sqlstate(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def _translate(error: BaseException, url: str) -> BaseException:
    import psycopg

    if not isinstance(error, psycopg.Error):
        return error
    state = _sqlstate(error)
    if state in ("53100", "58030"):
        return OutOfSpace(
            f"The PostgreSQL server {describe(url)} could not write: {str(error).strip()}. "
            "Nothing was stored."
        )
    if isinstance(error, psycopg.OperationalError):
        return TidemillError(
            f"The PostgreSQL server {describe(url)} did not finish the request: {str(error).strip()}. "
            "Look whether it was stored before sending it again.",
            "DatabaseUnreachable",
            status=503,
        )
    return error


class PostgresSession:
    """The writing connection; used from the writer thread, and from the loop only between its jobs."""

    run_in_loop = False
    commit_in_loop = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = _Connection(url)
        self._tx = SqlTx(self._connection.execute)
        self._open = False

    def begin(self, wait: bool) -> bool:
        self._tx.touched.clear()
        self._connection.get()
        self._connection.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        self._open = True
        return True

    def run(self, fn: Callable[[Any], T]) -> T:
        execute, touched = self._connection.execute, self._tx.touched
        execute("SAVEPOINT one")
        mark = len(touched)
        try:
            result = fn(self._tx)
        except BaseException as error:
            del touched[mark:]
            if self._connection.alive and not self.wants_retry(error):
                execute("ROLLBACK TO one")
                execute("RELEASE one")
            raise
        execute("RELEASE one")
        return result

    def alive(self) -> bool:
        return self._connection.alive

    def commit(self) -> None:
        self._connection.execute("COMMIT")
        self._open = False

    def rollback(self) -> None:
        if self._open and self._connection.alive:
            self._connection.execute("ROLLBACK")
        self._open = False

    def touched(self) -> frozenset[Touched]:
        return frozenset(self._tx.touched)

    def wants_retry(self, error: BaseException) -> bool:
        return _sqlstate(error) in ("40001", "40P01")

    def unknown(self, error: BaseException) -> bool:
        return not self._connection.alive

    def translate(self, error: BaseException) -> BaseException:
        return _translate(error, self._url)

    def maintenance_due(self) -> bool:
        return False

    def maintain(self) -> None: ...

    def close(self) -> None:
        self._connection.close()


class PostgresStore:
    """store.api.Store. Made by `open_postgres`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._writer: GroupWriter[Tx] = GroupWriter(PostgresSession(url), "store-writer")
        self._pool = ThreadPoolExecutor(READERS, "store-reader")
        self._local = threading.local()
        self._readers: list[_Connection] = []

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return await self._writer.submit(fn)

    async def read(self, fn: Callable[[Read], T]) -> T:
        """Runs in a reader's thread, on a snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, fn)

    def on_commit(self, listener: Listener) -> None:
        self._writer.on_commit(listener)

    async def close(self) -> None:
        await self._writer.close()
        self._pool.shutdown()
        for reader in self._readers:
            reader.close()

    def _read(self, fn: Callable[[Read], T]) -> T:
        import psycopg

        try:
            return self._read_once(fn)
        except psycopg.OperationalError as error:
            if self._reader().alive:
                raise _translate(error, self._url) from error
        # The server was restarted since the last read: nothing was changed, so it is read again.
        try:
            return self._read_once(fn)
        except psycopg.Error as error:
            raise _translate(error, self._url) from error

    def _read_once(self, fn: Callable[[Read], T]) -> T:
        reader = self._reader()
        reader.get()
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            return fn(SqlRead(reader.execute))
        finally:
            if reader.alive:
                reader.execute("ROLLBACK")

    def _reader(self) -> _Connection:
        reader: _Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = _Connection(self._url)
            self._readers.append(reader)
        return reader


def open_postgres(url: str) -> PostgresStore:
    """Connects, makes or upgrades the tables. Raises TidemillError when unreachable or of a newer version."""
    connection = _connect(url)
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            row = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
            if row is None or row[0] is None:
                for statement in create_statements("postgresql"):
                    connection.execute(cast(Any, statement))
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    finally:
        connection.close()
    if check_revision("" if found is None else found[0], describe(url)):
        upgrade_postgres(lambda: _connect(url))
    return PostgresStore(url)
