"""Use cases of workspaces. Deletion: `workspace_deletion`; resource groups: `groups`.

A workspace is a row of its resource group, `Key(Scope(sub, group), "workspaces", name)`. Its own rows have
the scope (sub, group, name). Status JSON: {"workspaceId": GUID, "storage_account": account, "kind", "sku",
"identity"}. Its storage account is its own; the default datastores point into it.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec

from tidemill.app.services import Caller, Services
from tidemill.app.workspaces import groups
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER, check_name
from tidemill.domain.model import Event, Key, Resource, Scope, Touched
from tidemill.store.api import AlreadyExists, Read, ResourceQuery, Store, Tx

# Default datastores: name -> (container, is it the default). All are blob containers.
DATASTORES = {
    "workspaceblobstore": ("azureml-blobstore", True),
    "workspaceartifactstore": ("azureml", False),
    "workspaceworkingdirectory": ("code", False),
    "workspacefilestore": ("azureml-filestore", False),
}
_IMMUTABLE = ("storageAccount", "keyVault", "hbiWorkspace")
_DERIVED = ("workspaceId", "discoveryUrl", "mlFlowTrackingUri", "provisioningState", "tenantId")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class WorkspaceDraft:
    """What a create asks for. `properties` are ARM's, without those the server derives."""

    name: str
    location: str = ""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    kind: str = "Default"
    sku: str = "Basic"
    identity: dict[str, Any] = field(default_factory=lambda: {"type": "SystemAssigned"})
    properties: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace that exists: `scope` as its owner spelled it."""

    scope: Scope
    uid: str
    account: str
    state: str


def status_of(row: Resource) -> dict[str, Any]:
    """The status JSON described at the top."""
    return cast(dict[str, Any], _decode(row.status))


def account_of(row: Resource) -> str:
    """The storage account of a workspace's row, or of a registry's."""
    return str(status_of(row)["storage_account"])


def workspace_key(scope: Scope) -> Key:
    return Key(Scope(scope.subscription, scope.group), "workspaces", scope.workspace)


class WorkspaceIndex:
    """Which workspaces exist, kept in memory: every request below one asks. Follows the commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Scope, Workspace] = {}  # by each spelling that was asked for
        self._generation = 0
        store.on_commit(self._on_commit)

    def _on_commit(self, touched: frozenset[Touched]) -> None:
        if any(change.kind == "resource:workspaces" for change in touched):
            self._known.clear()
            self._generation += 1

    async def find(self, scope: Scope) -> Workspace:
        """Raises NotFound with the names that exist."""
        known = self._known.get(scope)
        if known is None:
            generation = self._generation
            row = await self._store.read(lambda read: require_workspace(read, scope))
            known = Workspace(scope_of(row), row.uid, account_of(row), row.state)
            if generation == self._generation:
                if len(self._known) >= 4096:
                    self._known.clear()
                self._known[scope] = known
        return known


def require_workspace(read: Read, scope: Scope) -> Resource:
    """The row, or NotFound in ARM's words with what is there instead."""
    row = read.get(workspace_key(scope))
    if row is not None:
        return row
    names = [
        w.key.name for w in read.find(ResourceQuery("workspaces", Scope(scope.subscription, scope.group)))
    ]
    near = difflib.get_close_matches(scope.workspace, names, 1, 0.5)
    there = f" Did you mean '{near[0]}'?" if near else ""
    if not near:
        there = f" It has: {', '.join(sorted(names))}." if names else " It has no workspaces."
    raise NotFound(
        f"The Resource '{PROVIDER}/workspaces/{scope.workspace}' under resource group '{scope.group}' "
        f"was not found.{there}",
        target=scope.workspace,
    )


async def get(services: Services, scope: Scope) -> Resource:
    return await services.store.read(lambda read: require_workspace(read, scope))


async def list_of(
    services: Services,
    scope: Scope,
    *,
    limit: int = 0,
    after: str | None = None,
    shows: Callable[[str], bool] | None = None,
) -> Sequence[Resource]:
    """The workspaces of a resource group, or of the subscription where `scope.group` is "". Oldest first.
    `shows`: only those whose ARM id it takes."""
    group = Scope(scope.subscription, scope.group) if scope.group else None
    most = limit if shows is None else 0
    query = ResourceQuery("workspaces", group, ascending=True, limit=most, after=after)
    rows = await services.store.read(lambda read: read.find(query))
    if shows is None:
        return rows
    rows = [row for row in rows if shows(scope_of(row).arm_id)]
    return rows[:limit] if limit else rows


def scope_of(row: Resource) -> Scope:
    """The workspace that a row of workspaces is."""
    group = row.key.scope
    return Scope(group.subscription, group.group, row.key.name)


async def create(
    services: Services, caller: Caller, group: Scope, draft: WorkspaceDraft
) -> tuple[Resource, bool]:
    """-> (row, whether it is new). One that exists is brought to the draft, as a PUT does. The resource
    group must exist. Containers are made before the commit that shows the workspace."""
    check_name(draft.name, "Workspace")
    scope = Scope(group.subscription, group.group, draft.name)
    existing = await services.store.read(lambda read: read.get(workspace_key(scope)))
    if existing is not None:
        return await update(services, caller, scope, _patch_of(draft)), False
    await groups.get(services, group)
    row = _new_row(services, caller, scope, draft)
    account = account_of(row)
    datastores = tuple(_datastore_rows(services, caller, scope, account))
    await asyncio.to_thread(_make_containers, services, account, scope)

    def insert(tx: Tx) -> Resource:
        stored = tx.insert(row)
        for datastore in datastores:
            tx.insert(datastore)
        tx.add_event(
            Event(
                row.uid,
                "workspace",
                row.created_at,
                "Created",
                f"Workspace {draft.name} created.",
                caller.name,
            )
        )
        return stored

    try:
        return await services.store.write(insert), True
    except AlreadyExists:
        return await update(services, caller, scope, _patch_of(draft)), False


async def update(services: Services, caller: Caller, scope: Scope, patch: dict[str, Any]) -> Resource:
    """`patch` is ARM's: {"tags", "identity", "kind", "sku", "properties"}, each optional; properties are
    merged, tags replaced. Raises InvalidRequest for a property that cannot change."""
    now = services.clock.now()

    def change(tx: Tx) -> Resource:
        row = require_workspace(tx, scope)
        if row.state == "Deleting":
            raise Conflict(f"Workspace '{row.key.name}' is being deleted.", target=row.key.name)
        spec = cast(dict[str, Any], _decode(row.spec))
        status = status_of(row)
        wanted = cast(dict[str, Any], patch.get("properties") or {})
        _refuse_changes(spec, wanted)
        spec.update({k: v for k, v in wanted.items() if k not in _DERIVED and v is not None})
        for name in ("identity", "kind"):
            if patch.get(name):
                status[name] = patch[name]
        tags = patch.get("tags")
        return tx.update(
            replace(
                row,
                spec=_encode(spec),
                status=_encode(status),
                tags=row.tags if tags is None else _encode(tags),
                modified_at=now,
            )
        )

    return await services.store.write(change)


def keys_of(services: Services, row: Resource, holder: str) -> dict[str, Any]:
    """ARM's listKeys reply to the holder (`storage_access.account_holder`)."""
    account = account_of(row)
    return {
        "userStorageKey": services.storage_keys.key(account, holder),
        "userStorageResourceId": _decode(row.spec)["storageAccount"],
        "appInsightsInstrumentationKey": "",
        "containerRegistryCredentials": None,
        "notebookAccessKeys": None,
    }


async def ensure_defaults(services: Services, caller: Caller, scope: Scope) -> None:
    """At first start: the default resource group and workspace (`scope`). Later starts change nothing, and
    a default workspace that was deleted stays deleted."""
    made = await services.store.read(lambda read: read.meta("defaults"))
    if made is None:
        await groups.put(services, caller, scope, services.settings.region, None)
        await create(
            services, caller, Scope(scope.subscription, scope.group), WorkspaceDraft(scope.workspace)
        )
        await services.store.write(lambda tx: tx.set_meta("defaults", scope.arm_id.encode()))


def _patch_of(draft: WorkspaceDraft) -> dict[str, Any]:
    properties = {k: v for k, v in draft.properties.items() if k not in _IMMUTABLE}
    return {"tags": draft.tags, "identity": draft.identity, "properties": properties}


def _refuse_changes(spec: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in _IMMUTABLE:
        new, old = wanted.get(name), spec.get(name)
        if new is not None and old is not None and str(new).lower() != str(old).lower():
            raise InvalidRequest(
                f"Property '{name}' of a workspace cannot be changed: it is {old!r}, not {new!r}.",
                "PropertyChangeNotAllowed",
                f"properties.{name}",
            )


def _new_row(services: Services, caller: Caller, scope: Scope, draft: WorkspaceDraft) -> Resource:
    now, uid = services.clock.now(), services.ids.uid()
    account = "tm" + uid[-14:]
    group = f"/subscriptions/{scope.subscription}/resourceGroups/{scope.group}/providers"
    properties: dict[str, Any] = {
        "friendlyName": draft.name,
        "description": "",
        "keyVault": f"{group}/Microsoft.KeyVault/vaults/{account}",
        "applicationInsights": f"{group}/Microsoft.Insights/components/{account}",
        "hbiWorkspace": False,
        "publicNetworkAccess": "Enabled",
        "v1LegacyMode": False,
    }
    properties.update({k: v for k, v in draft.properties.items() if v is not None and k not in _DERIVED})
    # Always its own: whatever account was asked for, this is where its data is.
    properties["storageAccount"] = f"{group}/Microsoft.Storage/storageAccounts/{account}"
    status = {
        "workspaceId": f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}",
        "storage_account": account,
        "kind": draft.kind,
        "sku": draft.sku,
        "identity": draft.identity,
    }
    return Resource(
        uid,
        workspace_key(scope),
        "Succeeded",
        spec=_encode(properties),
        status=_encode(status),
        tags=_encode(draft.tags),
        location=draft.location or services.settings.region,
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )


def _datastore_rows(services: Services, caller: Caller, scope: Scope, account: str) -> Iterable[Resource]:
    """`accountName` is the bare account: where it is reached is known when it is rendered."""
    now = services.clock.now()
    for name, (container, default) in DATASTORES.items():
        spec = {
            "datastoreType": "AzureBlob",
            "accountName": account,
            "containerName": container,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "isDefault": default,
            "credentials": {"credentialsType": "AccountKey"},
            "serviceDataAccessAuthIdentity": "None",
            "properties": {},
            "tags": {},
            "description": None,
        }
        yield Resource(
            services.ids.uid(),
            Key(scope, "datastores", name),
            "Succeeded",
            spec=_encode(spec),
            created_at=now,
            modified_at=now,
            created_by=caller.name,
        )


def _make_containers(services: Services, account: str, scope: Scope) -> None:
    services.blobs.ensure_account(account, scope)
    for container, _ in DATASTORES.values():
        services.blobs.ensure_container(account, container)
