"""Full disks, locks, conflicting transactions, a server that restarts: nothing is lost or half done."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from postgres_server import Server
from rowmakers import event, job, uid

from tidemill.domain.errors import OutOfSpace, TidemillError
from tidemill.domain.model import Touched
from tidemill.store import sqlite as sqlite_module
from tidemill.store.api import ResourceQuery, Tx
from tidemill.store.sql import open_store
from tidemill.store.sqlite import SqliteStore, open_sqlite


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = open_sqlite(tmp_path / "t.db")
    yield store
    await store.close()


def integrity(path: Path) -> str:
    with sqlite3.connect(path) as db:
        return db.execute("PRAGMA integrity_check").fetchone()[0]


def insert(number: int, size: int = 10) -> object:
    def fn(tx: Tx) -> int:
        tx.insert(job(number, spec=b"x" * size))
        return number

    return fn


async def test_a_closure_that_does_not_fit_fails_alone(sqlite_store: SqliteStore, tmp_path: Path) -> None:
    await sqlite_store.write(insert(0))  # type: ignore[arg-type]
    connection = sqlite_store._session.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + 40}")
    heard: list[frozenset[Touched]] = []
    sqlite_store.on_commit(heard.append)
    results = await asyncio.gather(
        sqlite_store.write(insert(1)),  # type: ignore[arg-type]
        sqlite_store.write(insert(2, 1 << 20)),  # type: ignore[arg-type]
        sqlite_store.write(insert(3)),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    assert results[0] == 1
    assert results[2] == 3
    assert isinstance(results[1], OutOfSpace)
    assert "t.db" in str(results[1])
    assert "Free some space" in str(results[1])
    assert Touched("resource:jobs", uid(2)) not in frozenset().union(*heard)
    connection.execute("PRAGMA max_page_count=1000000")
    assert await sqlite_store.write(insert(2, 1 << 20)) == 2  # type: ignore[arg-type]
    assert await sqlite_store.read(lambda r: r.count(ResourceQuery("jobs"))) == 4
    assert integrity(tmp_path / "t.db") == "ok"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tidemill-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)


@pytest.mark.root
async def test_a_full_disk(small_disk: Path) -> None:
    store = open_sqlite(small_disk / "t.db")
    stored: list[int] = []
    for number in range(1000):
        try:
            stored.append(await store.write(insert(number, 20_000)))  # type: ignore[arg-type]
        except OutOfSpace:
            break
    assert 10 < len(stored) < 1000
    results = await asyncio.gather(
        *(store.write(insert(n, 50_000)) for n in range(2000, 2010)),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    assert all(isinstance(result, OutOfSpace) for result in results)
    # What was acknowledged can still be read.
    assert await store.read(lambda r: r.count(ResourceQuery("jobs"))) == len(stored)
    grow(small_disk)
    stored.append(await store.write(insert(5000, 50_000)))  # type: ignore[arg-type]
    found = await store.read(lambda r: r.find(ResourceQuery("jobs", ascending=True)))
    assert [int(row.uid, 16) for row in found] == stored
    await store.close()
    assert integrity(small_disk / "t.db") == "ok"


async def test_a_lock_held_by_another_process_is_waited_for(
    sqlite_store: SqliteStore, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(sqlite_store.write(insert(1)))  # type: ignore[arg-type]
    # The loop goes on, and so do reads.
    for _ in range(10):
        await asyncio.sleep(0.002)
        assert await sqlite_store.read(lambda r: r.count(ResourceQuery("jobs"))) == 0
    assert not writing.done()
    other.execute("COMMIT")
    assert await asyncio.wait_for(writing, 60) == 1
    other.close()


async def test_a_lock_that_is_never_let_go_is_named(
    sqlite_store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_S", 0.05)
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TidemillError, match="locked by another process"):
        await sqlite_store.write(insert(1))  # type: ignore[arg-type]
    other.execute("COMMIT")
    other.close()
    assert await sqlite_store.write(insert(1)) == 1  # type: ignore[arg-type]


def wal_size(folder: Path) -> int:
    return Path(folder, "t.db-wal").stat().st_size


async def test_every_commit_is_synced(sqlite_store: SqliteStore) -> None:
    connection = sqlite_store._session.connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0] == 0


async def test_the_wal_stays_bounded(
    sqlite_store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_BYTES", 1 << 18)
    monkeypatch.setattr(sqlite_module, "TRUNCATE_BYTES", 1 << 20)
    biggest = 0
    for number in range(150):
        await sqlite_store.write(insert(number, 60_000))  # type: ignore[arg-type]
        biggest = max(biggest, wal_size(tmp_path))
    assert await sqlite_store.read(lambda r: r.count(ResourceQuery("jobs"))) == 150
    assert biggest < 2 << 20


async def test_a_reader_sees_whole_commits_only(sqlite_store: SqliteStore) -> None:
    """Each commit adds an event to both subjects: a snapshot never has one without the other."""

    def both(tx: Tx) -> None:
        tx.add_event(event(1, "a"))
        tx.add_event(event(1, "b"))

    async def write() -> None:
        for _ in range(100):
            await sqlite_store.write(both)

    writing = asyncio.ensure_future(write())
    while not writing.done():
        a, b = await sqlite_store.read(lambda r: (len(r.events("a")), len(r.events("b"))))
        assert a == b
        await asyncio.sleep(0)
    await writing


@pytest.mark.postgres
async def test_postgres_runs_a_conflicting_batch_again(postgres_server: Server) -> None:
    import psycopg

    url = postgres_server.new_database()
    store = open_store(url)
    await store.write(lambda tx: tx.insert(job(1, status=b"0")))
    runs: list[int] = []
    in_closure, changed = threading.Event(), threading.Event()

    def other_writer() -> None:
        in_closure.wait(60)
        with psycopg.connect(url) as db:
            db.execute("UPDATE resources SET status = '10'")
        changed.set()

    thread = threading.Thread(target=other_writer)
    thread.start()

    def add_one(tx: Tx) -> bytes:
        row = tx.by_uid(uid(1))
        assert row is not None
        runs.append(1)
        in_closure.set()
        changed.wait(60)
        return tx.update(replace(row, status=str(int(row.status) + 1).encode())).status

    assert await store.write(add_one) == b"11"
    assert len(runs) == 2
    thread.join()
    await store.close()


@pytest.mark.postgres
async def test_postgres_restarts(postgres_server: Server) -> None:
    url = postgres_server.new_database()
    store = open_store(url)
    await store.write(insert(1))  # type: ignore[arg-type]
    assert await store.read(lambda r: r.count(ResourceQuery("jobs"))) == 1
    postgres_server.stop()
    try:
        with pytest.raises(TidemillError) as raised:
            await store.write(insert(2))  # type: ignore[arg-type]
        assert raised.value.status == 503
        with pytest.raises(TidemillError):
            await store.read(lambda r: r.count(ResourceQuery("jobs")))
    finally:
        postgres_server.start()
    assert await store.read(lambda r: r.count(ResourceQuery("jobs"))) == 1
    assert await store.write(insert(3)) == 3  # type: ignore[arg-type]
    await store.close()
