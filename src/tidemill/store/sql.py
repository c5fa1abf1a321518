"""Opening a store: by path, `sqlite:///path`, `postgresql://…`, or `memory:`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.domain.errors import InvalidRequest
from tidemill.store.api import Store

if TYPE_CHECKING:
    from tidemill.store.postgres import PostgresStore
    from tidemill.store.sqlite import SqliteReader


def open_store(target: str | Path) -> Store:
    """The store at a path or URL, its schema brought up to date first.

    `sqlite:///relative.db`, `sqlite:////absolute.db`, a path, `postgresql://user@host/db` or `memory:`.
    Raises InvalidRequest for another scheme, TidemillError when the database cannot be used, OutOfSpace.
    """
    text = str(target)
    scheme, separator, rest = text.partition("://")
    if text == "memory:":
        from tidemill.store.memory import MemoryStore

        return MemoryStore()
    if isinstance(target, Path) or not separator:
        from tidemill.store.sqlite import open_sqlite

        return open_sqlite(Path(text))
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from tidemill.store.sqlite import open_sqlite

        return open_sqlite(Path(rest[1:]))
    if scheme in ("postgresql", "postgres"):
        from tidemill.store.postgres import open_postgres

        return open_postgres(text)
    raise InvalidRequest(
        f"--database {text!r} is not understood. Use a path, sqlite:///path or postgresql://user@host/database.",
        target="--database",
    )


def open_reader(target: str | Path) -> SqliteReader | PostgresStore:
    """The same store for a process that only reads it; `target` as for `open_store`. Raises TidemillError
    while another process has not made or upgraded it yet."""
    text = str(target)
    if text.startswith(("postgresql://", "postgres://")):
        from tidemill.store.postgres import open_postgres

        return open_postgres(text)
    from tidemill.store.sqlite import open_sqlite_reader

    return open_sqlite_reader(Path(text.removeprefix("sqlite:///")))
