"""Workspaces and resource groups, over the in-memory store and real blob files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.app.services import Caller, Services
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.workspaces import groups, workspaces
from tidemill.data.blobstore import BlobStore
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.model import Key, Resource, Scope
from tidemill.identity.storage_keys import StorageKeys
from tidemill.server.ports import SystemClock, SystemIds
from tidemill.store.api import ResourceQuery
from tidemill.store.memory import MemoryStore
from tidemill.store.tracking import TrackingStore

MAIN = Scope("sub", "grp", "main")
GROUP = Scope("sub", "grp")
OWNER = Caller("o", "ann", "User")


@pytest.fixture
async def services(tmp_path: Path):
    """The ports that these use cases use, and no others."""
    blobs = BlobStore(tmp_path / "blobs", lambda: time.time_ns() // 1000)
    made = SimpleNamespace(
        store=MemoryStore(),
        blobs=blobs,
        tracking=TrackingStore(tmp_path / "tracking.db"),
        clock=SystemClock(),
        ids=SystemIds(),
        settings=SimpleNamespace(region="eastus", tenant="t", subscription="sub"),
        storage_keys=StorageKeys(b"x" * 64),
    )
    await workspaces.ensure_defaults(cast(Services, made), OWNER, MAIN)
    yield made
    await made.store.close()
    await made.tracking.close()
    blobs.close()


async def add(services: Any, kind: str, name: str, state: str = "", scope: Scope = MAIN) -> Resource:
    row = Resource(services.ids.uid(), Key(scope, kind, name), state)
    return await services.store.write(lambda tx: tx.insert(row))


async def test_defaults_are_made_once_and_stay_deleted(services):
    row = await workspaces.get(services, MAIN)
    await workspaces.ensure_defaults(services, OWNER, MAIN)
    assert (await workspaces.get(services, MAIN)).uid == row.uid
    await workspace_deletion.delete(services, OWNER, MAIN)
    await workspace_deletion.WorkspaceCleaner(services).sweep()
    await workspaces.ensure_defaults(services, OWNER, MAIN)
    with pytest.raises(NotFound):
        await workspaces.get(services, MAIN)


async def test_create_makes_account_containers_and_datastores(services):
    row, new = await workspaces.create(services, OWNER, GROUP, workspaces.WorkspaceDraft("w2"))
    assert new
    account = workspaces.account_of(row)
    assert account != workspaces.account_of(await workspaces.get(services, MAIN))
    containers = {found.name for found in services.blobs.containers(account)}
    rows = await services.store.read(lambda r: r.find(ResourceQuery("datastores", Scope("sub", "grp", "w2"))))
    assert {r.key.name for r in rows} == set(workspaces.DATASTORES)
    specs = [json.loads(r.spec) for r in rows]
    assert {spec["containerName"] for spec in specs} == containers
    assert {spec["accountName"] for spec in specs} == {account}
    assert [spec["containerName"] for spec in specs if spec["isDefault"]] == ["azureml-blobstore"]


async def test_create_twice_is_one_workspace_and_needs_its_group(services):
    draft = workspaces.WorkspaceDraft("w2", tags={"a": "1"}, properties={"storageAccount": "/theirs"})
    first, _ = await workspaces.create(services, OWNER, GROUP, draft)
    again, new = await workspaces.create(services, OWNER, GROUP, draft)
    assert (again.uid, new) == (first.uid, False)
    with pytest.raises(NotFound, match="There is: grp"):
        await workspaces.create(services, OWNER, Scope("sub", "nope"), draft)
    with pytest.raises(InvalidRequest, match="name"):
        await workspaces.create(services, OWNER, GROUP, workspaces.WorkspaceDraft("-bad/"))


async def test_update_merges_and_refuses_what_cannot_change(services):
    patch = {"tags": {"a": "1"}, "properties": {"description": "d", "workspaceId": "forged"}}
    row = await workspaces.update(services, OWNER, MAIN, patch)
    spec = json.loads(row.spec)
    assert (spec["description"], spec["friendlyName"]) == ("d", "main")
    assert "workspaceId" not in spec
    with pytest.raises(InvalidRequest, match="storageAccount"):
        await workspaces.update(services, OWNER, MAIN, {"properties": {"storageAccount": "/other"}})


async def test_keys_are_those_of_its_account(services):
    row = await workspaces.get(services, MAIN)
    account = workspaces.account_of(row)
    mine = workspaces.keys_of(services, row, "ann.1")["userStorageKey"]
    assert mine == services.storage_keys.key(account, "ann.1")
    assert mine != workspaces.keys_of(services, row, "bob.1")["userStorageKey"]


async def test_index_follows_commits_and_keeps_the_owners_spelling(services):
    index = workspaces.WorkspaceIndex(services.store)
    found = await index.find(Scope("SUB", "GRP", "MAIN"))
    assert found.scope == MAIN
    with pytest.raises(NotFound, match="Did you mean 'main'"):
        await index.find(Scope("sub", "grp", "mian"))
    await workspace_deletion.delete(services, OWNER, MAIN)
    assert (await index.find(MAIN)).state == "Deleting"
    await workspace_deletion.WorkspaceCleaner(services).sweep()
    with pytest.raises(NotFound):
        await index.find(MAIN)


async def test_delete_is_refused_while_jobs_run(services):
    await add(services, "jobs", "busy", "Running")
    await add(services, "jobs", "done", "Completed")
    with pytest.raises(Conflict, match="busy") as caught:
        await workspace_deletion.delete(services, OWNER, MAIN)
    assert "done" not in caught.value.message
    assert (await workspaces.get(services, MAIN)).state == "Succeeded"


async def test_delete_waits_for_computes_then_removes_everything(services):
    other, _ = await workspaces.create(services, OWNER, GROUP, workspaces.WorkspaceDraft("w2"))
    compute = await add(services, "computes", "cpu", "Succeeded")
    for n in range(3):
        await add(services, "jobs", f"j{n}", "Completed")
    account = workspaces.account_of(await workspaces.get(services, MAIN))
    await workspace_deletion.delete(services, OWNER, MAIN)
    cleaner = workspace_deletion.WorkspaceCleaner(services)
    await cleaner.sweep()
    assert (await workspaces.get(services, MAIN)).state == "Deleting"
    now = await services.store.read(lambda r: r.by_uid(compute.uid))
    assert now.state == "Deleting"
    await services.store.write(lambda tx: tx.delete(tx.by_uid(compute.uid)))
    await cleaner.sweep()
    with pytest.raises(NotFound):
        await workspaces.get(services, MAIN)
    left = await services.store.read(
        lambda r: [r.count(ResourceQuery(kind, MAIN)) for kind in workspace_deletion.CHILD_TYPES]
    )
    assert sum(left) == 0
    assert not services.blobs.containers(account)
    assert services.blobs.containers(workspaces.account_of(other))
    assert await workspace_deletion.delete(services, OWNER, MAIN) is None


async def test_groups(services):
    row, new = await groups.put(services, OWNER, Scope("sub", "g2"), "westeurope", {"a": "1"})
    assert (new, row.location) == (True, "westeurope")
    again, new = await groups.put(services, OWNER, Scope("sub", "G2"), "", None)
    assert (again.uid, new, json.loads(again.tags)) == (row.uid, False, {"a": "1"})
    assert [g.key.name for g in await groups.list_of(services, "sub")] == ["grp", "g2"]
