"""Deleting a workspace: refused while jobs run, then carried out in steps that survive a restart."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from tidemill.app.assets import package_usage
from tidemill.app.computes.compute_rules import IMPLICIT
from tidemill.app.computes.computes import local_uid
from tidemill.app.rows import batch_rows
from tidemill.app.rows.endpoint_rows import ENDPOINTS
from tidemill.app.services import Caller, Services
from tidemill.app.workspaces.workspaces import account_of, workspace_key
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Event, JobState, Resource, Scope, Touched
from tidemill.domain.units import join_words
from tidemill.store.api import ResourceQuery, Tx

# Every type of row that lives in a workspace. Computes are not here: their nodes are closed first, by the
# controllers, which then remove the row. Ledger and events stay: what was used was used.
CHILD_TYPES = (
    "jobs",
    "codes/versions",
    "codes",
    "environments/versions",
    "environments",
    "data/versions",
    "data",
    "models/versions",
    "models",
    "components/versions",
    "components",
    "stepResults",
    "connections",
    "secrets/versions",
    "secrets",
    "experiments",
    "schedules",
    "notices",
    "onlineEndpoints/deployments",
    "onlineEndpoints",
    "batchEndpoints/deployments",
    "batchEndpoints",
    "packages/versions",
    "pendingUploads",
    "datastores",
)
_COMPUTES = ("computes", IMPLICIT)
_BATCH = 500
_FINAL_JOBS = tuple(state.value for state in JobState if state.final)
_log = logging.getLogger("tidemill.workspaces")


async def delete(services: Services, caller: Caller, scope: Scope) -> Resource | None:
    """Begins the deletion and returns the row as it then is: state "Deleting", gone when everything in it
    is gone (`WorkspaceCleaner`). None when there is none. Raises Conflict while jobs of it are not final, it
    has endpoints, or container groups run in packages of its models."""
    now = services.clock.now()

    def begin(tx: Tx) -> Resource | None:
        row = tx.get(workspace_key(scope))
        if row is None or row.state == "Deleting":
            return row
        running = tx.find(ResourceQuery("jobs", scope, exclude_states=_FINAL_JOBS, limit=4))
        if running:
            names = ", ".join(job.key.name for job in running[:3]) + (" and more" if len(running) > 3 else "")
            raise Conflict(
                f"Workspace '{row.key.name}' has jobs that have not ended: {names}. Cancel them first.",
                "WorkspaceHasActiveJobs",
                row.key.name,
            )
        kinds = (ENDPOINTS, batch_rows.ENDPOINTS)
        endpoints = [one for kind in kinds for one in tx.find(ResourceQuery(kind, scope, limit=4))]
        if endpoints:
            names = ", ".join(endpoint.key.name for endpoint in endpoints)
            raise Conflict(
                f"Workspace '{row.key.name}' has endpoints: {names}. Delete them first.",
                "WorkspaceHasEndpoints",
                row.key.name,
            )
        groups = package_usage.groups_of_workspace(tx, scope)
        if groups:
            raise Conflict(
                f"Packages of workspace '{row.key.name}' are in use by {join_words(groups, most=3)}. Delete "
                "what uses them first.",
                "WorkspaceHasPackagesInUse",
                row.key.name,
            )
        for compute in (row for kind in _COMPUTES for row in tx.find(ResourceQuery(kind, scope))):
            if compute.state != "Deleting":
                tx.update(replace(compute, state="Deleting", modified_at=now, next_at=now))
        tx.add_event(Event(row.uid, "workspace", now, "Deleting", "Deletion requested.", caller.name))
        return tx.update(replace(row, state="Deleting", modified_at=now))

    return await services.store.write(begin)


class WorkspaceCleaner:
    """Finishes deletions: waits until a deleted workspace's computes are gone, then removes what is left."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wake = asyncio.Event()
        self._wake.set()
        self._waits = False  # for nodes to close
        self._task: asyncio.Task[None] | None = None
        services.store.on_commit(self._on_commit)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="workspace-cleaner")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_commit(self, touched: frozenset[Touched]) -> None:
        computes = (f"resource:{kind}" for kind in _COMPUTES)
        kinds = ("resource:workspaces", *computes, *(("node",) if self._waits else ()))
        if any(change.kind in kinds for change in touched):
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.sweep()
            except Exception:
                _log.exception("a workspace could not be removed; it is tried again at the next change")

    async def sweep(self) -> None:
        """Removes every workspace in state Deleting that has no computes and no nodes left."""
        services = self._services
        self._waits = False
        query = ResourceQuery("workspaces", states=("Deleting",))
        for row in await services.store.read(lambda read: read.find(query)):
            group = row.key.scope
            scope = Scope(group.subscription, group.group, row.key.name)
            if await services.store.read(
                lambda read, s=scope: sum(read.count(ResourceQuery(kind, s)) for kind in _COMPUTES)
            ):
                continue
            local = local_uid(row)
            if await services.store.read(lambda read, uid=local: read.nodes_of(uid)):
                self._waits = True
                continue
            for kind in CHILD_TYPES:
                await self._remove(scope, kind)
            await services.tracking.delete_workspace(scope.arm_id)
            await asyncio.to_thread(services.blobs.delete_account, account_of(row))
            await services.store.write(lambda tx, s=scope: _remove_row(tx, s))

    async def _remove(self, scope: Scope, kind: str) -> None:
        def batch(tx: Tx) -> int:
            rows = tx.find(ResourceQuery(kind, scope, limit=_BATCH))
            for row in rows:
                tx.delete(row)
            return len(rows)

        while await self._services.store.write(batch) == _BATCH:
            pass


def _remove_row(tx: Tx, scope: Scope) -> None:
    row = tx.get(workspace_key(scope))
    if row is not None:
        tx.delete(row)
