"""Use cases over the store in memory, a real blob store in a scratch folder and a fake engine."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from tidemill.app.access_directory import AccessDirectory
from tidemill.app.people import principals
from tidemill.app.services import Addresses, Services, Settings
from tidemill.app.session_directory import SessionDirectory
from tidemill.app.workspaces import groups, workspaces
from tidemill.catalog.curated import CuratedCatalog
from tidemill.catalog.sizes import GIB, SizeCatalog
from tidemill.data.blobstore import BlobStore
from tidemill.domain.model import Caller, Scope, Vector
from tidemill.engines.base import HostCapacity
from tidemill.engines.fake import FakeEngine
from tidemill.identity.secrets import SecretBox
from tidemill.identity.storage_keys import StorageKeys
from tidemill.store.memory import MemoryStore
from tidemill.store.tracking import TrackingStore

SCOPE = Scope("11111111-1111-1111-1111-111111111111", "tidemill", "main")
OWNER = Caller("o", "owner", "User")


class TickingClock:
    """A second passes with each look, so that creation times differ."""

    def __init__(self) -> None:
        self.at = 1_800_000_000_000_000

    def now(self) -> int:
        self.at += 1_000_000
        return self.at

    def boottime(self) -> int:
        return self.at


class CountedIds:
    def __init__(self) -> None:
        self._next = itertools.count(1)

    def uid(self) -> str:
        return f"{next(self._next):032x}"

    def short(self) -> str:
        return f"{next(self._next):06x}"


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    clock, ids = TickingClock(), CountedIds()
    capacity = HostCapacity(Vector(4000, 16 * GIB, 0))
    store = MemoryStore()
    unused = cast(Any, None)
    made = Services(
        settings=Settings(tmp_path, SCOPE.subscription, "tenant", "westeurope", tmp_path / "ca.pem"),
        addresses=Addresses("https://localhost:8443", "http://127.0.0.1:8440", "https://localhost:8445"),
        clock=clock,
        ids=ids,
        store=store,
        access=AccessDirectory(store),
        sessions=SessionDirectory(store, clock.now),
        tracking=TrackingStore(tmp_path / "tracking.db"),
        blobs=BlobStore(tmp_path / "blobs", clock.now),
        sizes=SizeCatalog.load(capacity),
        curated=CuratedCatalog(),
        environments=unused,
        images=unused,
        dockerfiles=unused,
        engine=FakeEngine(tmp_path / "engine", clock, capacity=capacity),
        tokens=unused,
        secrets=SecretBox({"00000001": b"k" * 32}),
        storage_keys=StorageKeys(b"m" * 64),
        incarnation="test",
    )
    await principals.ensure_owner(made, OWNER.oid, OWNER.name, "app")
    group = Scope(SCOPE.subscription, SCOPE.group)
    await groups.put(made, OWNER, group, "westeurope", None)
    await workspaces.create(made, OWNER, group, workspaces.WorkspaceDraft(SCOPE.workspace))
    made.activity.start(store)
    yield made
    await made.activity.stop()
    await store.close()
    await made.tracking.close()
    made.blobs.close()


@pytest.fixture
def scope() -> Scope:
    return SCOPE


@pytest.fixture
def owner() -> Caller:
    return OWNER
