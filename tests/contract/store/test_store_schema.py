"""Fresh DDL files, migrations and metadata agree; opening is fast, and refuses what it does not know."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server

from tidemill.domain.errors import TidemillError
from tidemill.store import migrate, schema
from tidemill.store.migrations import HEAD, REVISIONS
from tidemill.store.sql import open_store


def sqlite_shape(path: Path) -> dict[str, Any]:
    """Tables with columns, and indexes with columns, order and condition."""
    with sqlite3.connect(path) as db:
        shape: dict[str, Any] = {}
        for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
            if kind == "table":
                indexes = db.execute(
                    "SELECT name, [unique], origin, partial FROM pragma_index_list(?)", (name,)
                )
                shape[name] = (
                    db.execute("SELECT * FROM pragma_table_xinfo(?)", (name,)).fetchall(),
                    sorted(indexes.fetchall()),
                    "AUTOINCREMENT" in (sql or ""),
                )
            else:
                where = (sql or "").partition(" WHERE ")[2]
                shape[name] = db.execute("SELECT * FROM pragma_index_xinfo(?)", (name,)).fetchall(), where
        return shape


def postgres_shape(url: str) -> list[Any]:
    import psycopg

    with psycopg.connect(url) as db:
        columns = db.execute(
            "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default, "
            "collation_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 3"
        ).fetchall()
        indexes = db.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        ).fetchall()
        constraints = db.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
        return [columns, indexes, constraints]


def test_ddl_files_are_current() -> None:
    """`python -m tidemill.store.schema` writes them again."""
    for name, content in schema.generated().items():
        assert Path(schema.__file__).with_name(name).read_text() == content


def test_head_is_alembics() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).with_name("migrations")))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [HEAD]
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(REVISIONS)


async def test_sqlite_migrations_and_fresh_ddl_agree(tmp_path: Path) -> None:
    fresh, migrated = tmp_path / "fresh.db", tmp_path / "migrated.db"
    await open_store(fresh).close()
    migrate.upgrade_sqlite(str(migrated))
    assert sqlite_shape(fresh) == sqlite_shape(migrated)
    assert "resources_due" in sqlite_shape(fresh)


@pytest.mark.postgres
async def test_postgres_migrations_and_fresh_ddl_agree(postgres_server: Server) -> None:
    import psycopg

    fresh, migrated = postgres_server.new_database(), postgres_server.new_database()
    await open_store(fresh).close()
    migrate.upgrade_postgres(lambda: psycopg.connect(migrated))
    shape = postgres_shape(fresh)
    assert shape == postgres_shape(migrated)
    assert len(shape[0]) > 100


def test_migrations_match_the_metadata(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    migrate.upgrade_sqlite(str(tmp_path / "m.db"))
    engine = create_engine(f"sqlite:///{tmp_path}/m.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_a_fresh_home_is_made_without_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tidemill.store.sql import open_store; from tidemill.store.tracking import TrackingStore\n"
        "for _ in range(2):\n"
        f"    open_store(Path({str(tmp_path)!r}, 'a.db')); TrackingStore(Path({str(tmp_path)!r}, 't.db'))\n"
        "print([m for m in ('sqlalchemy', 'alembic', 'psycopg') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600


async def test_a_database_from_the_future_is_refused(target: str) -> None:
    if target == "memory:":
        pytest.skip("a store in memory has no revision")
    await open_store(target).close()
    if target.startswith("sqlite"):
        with sqlite3.connect(target.removeprefix("sqlite:///")) as db:
            db.execute("UPDATE alembic_version SET version_num = '9999'")
    else:
        import psycopg

        with psycopg.connect(target) as db:
            db.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(TidemillError, match=r"'9999'.*newer.*Upgrade"):
        open_store(target)


async def test_an_older_database_is_upgraded(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A revision after the newest one, as the next version would bring it."""
    if target == "memory:":
        pytest.skip("a store in memory has no revision")
    await open_store(target).close()
    import shutil

    package = tmp_path / "package"
    shutil.copytree(Path(migrate.__file__).with_name("migrations"), package / "migrations")
    (package / "migrations/versions/9998_next.py").write_text(
        f"from alembic import op\nrevision = '9998'\ndown_revision = {HEAD!r}\n"
        "def upgrade():\n    op.execute(\"INSERT INTO meta (key, value) VALUES ('upgraded', '1')\")\n"
    )
    monkeypatch.setattr(migrate, "__file__", str(package / "migrate.py"))
    monkeypatch.setattr(migrate, "REVISIONS", (*REVISIONS, "9998"))
    monkeypatch.setattr(migrate, "HEAD", "9998")
    store = open_store(target)
    assert await store.read(lambda r: r.meta("upgraded")) in (b"1", "1")
    await store.close()


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "theirs.db") as db:
        db.execute("CREATE TABLE photos (id INTEGER)")
    with pytest.raises(TidemillError, match="not Tidemill's"):
        open_store(tmp_path / "theirs.db")


def test_unknown_urls_name_what_works() -> None:
    with pytest.raises(TidemillError, match="postgresql://"):
        open_store("mysql://host/db")
