from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from postgres_server import Server, find_binaries, running_server

from tidemill.store.api import Store
from tidemill.store.sql import open_store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    binaries = find_binaries()
    if binaries is None:
        missing = "no PostgreSQL server binaries (initdb) in /usr/lib/postgresql/*/bin or PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with running_server(binaries) as server:
        yield server


STORES = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=STORES)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What open_store is given: an empty database of each kind."""
    if request.param == "memory":
        return "memory:"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db/tidemill.db"
    server: Server = request.getfixturevalue("postgres_server")
    return server.new_database()


@pytest.fixture
async def store(target: str) -> AsyncIterator[Store]:
    opened = open_store(target)
    yield opened
    await opened.close()
