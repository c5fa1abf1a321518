"""Brings a database to this version's schema when it is opened.

Empty: made from the DDL file and stamped. At HEAD: nothing is imported. Older: alembic. Newer: refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.domain.errors import TidemillError
from tidemill.store.migrations import HEAD, REVISIONS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_STAMP = (
    "CREATE TABLE alembic_version (\n\tversion_num VARCHAR(32) NOT NULL,\n"
    "\tCONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)\n)",
    f"INSERT INTO alembic_version (version_num) VALUES ('{HEAD}')",
)


def create_statements(dialect: str) -> Sequence[str]:
    """SQL that makes a fresh database at HEAD. `dialect` is "sqlite" or "postgresql"."""
    text = Path(__file__).with_name(f"schema_{dialect}.sql").read_text()
    statements = [part.strip().rstrip(";") for part in text.split(";\n")]
    return (*(part for part in statements if part), *_STAMP)


def check_revision(found: str, where: str) -> bool:
    """True when an upgrade is needed. Raises TidemillError for a revision this version does not know."""
    if found == HEAD:
        return False
    if found in REVISIONS:
        return True
    raise TidemillError(
        f"The database {where} is at revision {found!r}, made by a newer Tidemill; this one knows up to "
        f"{HEAD!r}. Upgrade Tidemill, or give another --home or --database.",
        "DatabaseTooNew",
        status=500,
    )


def upgrade(engine: Engine) -> None:
    """Runs alembic to HEAD on that SQLAlchemy engine, in one transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def upgrade_sqlite(path: str) -> None:
    """alembic on a SQLite file."""
    import sqlite3

    from sqlalchemy import create_engine, event

    # Python's sqlite3 would commit before each CREATE: a kill could leave half a migration.
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(path, timeout=30, isolation_level=None)
    )

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)
    upgrade(engine)


def upgrade_postgres(connect: Callable[[], Any]) -> None:
    """alembic over psycopg connections made by `connect`."""
    from sqlalchemy import create_engine

    upgrade(create_engine("postgresql+psycopg://", creator=connect))
