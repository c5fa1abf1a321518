"""Registries: assets that several workspaces share. Each is a scope with roles and storage of its own.

Row: see `registry_rows`; `status`: {"registryId": GUID, "storage_account": account}. Its assets are rows
of the same shape as a workspace's, in the registry's scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.people.access import decide
from tidemill.app.rows.asset_rows import KINDS
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.putting import put_row
from tidemill.app.rows.registry_rows import (
    CURATED,
    READ_ASSETS,
    TYPE,
    find_registry,
    need_registry,
    registry_key,
    scope_of_row,
)
from tidemill.app.services import Services
from tidemill.app.workspaces import groups
from tidemill.app.workspaces.workspaces import account_of
from tidemill.data.uris import RegistryUri, parse_uri
from tidemill.domain.components import maybe
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.ids import check_name
from tidemill.domain.model import Caller, Event, JobState, Resource, Scope
from tidemill.domain.units import join_words
from tidemill.store.api import ResourceQuery, Tx

_UNENDED = tuple(state.value for state in JobState if not state.final)
_KEPT = ("registryId", "discoveryUrl", "provisioningState", "regionDetails")


async def put(s: Services, caller: Caller, scope: Scope, body: Mapping[str, Any]) -> tuple[Resource, bool]:
    """-> (row, created). Of one that exists, tags and properties are changed. Raises NotFound for a resource
    group that does not exist, Conflict for a name that another group has."""
    name = scope.registry
    check_name(name, "Registry")
    if name.casefold().startswith(CURATED):
        raise InvalidRequest(f"Registry name {name!r} is Azure's own. Use another.", "InvalidName", "name")
    group = await groups.get(s, Scope(scope.subscription, scope.group))
    scope = Scope.of_registry(scope.subscription, group.key.name, name)
    given = dict(object_at(body, "properties"))
    tags = dict(object_at(body, "tags"))
    location = str(body.get("location") or s.settings.region)
    _check_regions(given.get("regionDetails"), location)
    now, uid = s.clock.now(), s.ids.uid()
    account = "tr" + uid[-14:]

    def change(tx: Tx) -> tuple[Resource, bool]:
        other = find_registry(tx, scope.subscription, name)
        if other is not None and scope_of_row(other) != scope:
            raise Conflict(
                f"Registry {name!r} exists in another resource group. Names of registries are unique in the "
                "subscription: use another.",
                "RegistryNameInUse",
                name,
            )
        if other is not None:
            spec = {**decode_object(other.spec), **{k: v for k, v in given.items() if k not in _KEPT}}
            changed = replace(other, spec=encode(spec), tags=encode(tags), modified_at=now)
            return tx.update(changed), False
        row = Resource(
            uid,
            registry_key(scope),
            "Succeeded",
            spec=encode({**given, "publicNetworkAccess": given.get("publicNetworkAccess") or "Enabled"}),
            status=encode({"registryId": _guid(uid), "storage_account": account}),
            tags=encode(tags),
            location=location,
            created_at=now,
            modified_at=now,
            created_by=caller.name,
        )
        tx.add_event(Event(uid, "registry", now, "Created", f"Registry {name} created.", caller.name))
        return tx.insert(row), True

    # The account is there before the commit that shows the registry; one for nothing is taken back.
    await asyncio.to_thread(s.blobs.ensure_account, account, scope)
    created = False
    try:
        row, created = await put_row(s, change)
    finally:
        if not created:
            await asyncio.to_thread(s.blobs.delete_account, account)
    return row, created


async def list_of(
    s: Services, scope: Scope, *, limit: int, after: str | None, shows: Callable[[str], bool] | None
) -> Sequence[Resource]:
    """Of a resource group, or of the subscription. Oldest first."""
    group = Scope(scope.subscription, scope.group) if scope.group else None
    query = ResourceQuery(TYPE, group, ascending=True, limit=0 if shows else limit, after=after)
    rows = await s.store.read(lambda read: read.find(query))
    if shows is None:
        return rows
    return [row for row in rows if shows(scope_of_row(row).arm_id)][:limit]


async def by_name(s: Services, caller: Caller, action: str, name: str) -> Resource:
    """One at which the caller may do `action`. Raises NotFound alike where there is none and where it may
    not: names are not told to whoever has no right to them."""
    subscription = Scope(s.settings.subscription)
    row = await s.store.read(lambda read: find_registry(read, subscription.subscription, name))
    where = subscription if row is None else scope_of_row(row)
    if not (await decide(s, caller, action, where)).allowed:
        raise NotFound(
            f"There is no registry {name!r} here, or {caller.name!r} may not use it: that takes {action} at "
            "the registry (role AzureML Registry User).",
            "RegistryNotFound",
            name,
        )
    return await s.store.read(lambda read: need_registry(read, subscription.subscription, name))


async def delete(s: Services, caller: Caller, scope: Scope) -> bool:
    """With all that is in it. -> False where there is none. Raises Conflict while something uses it; a delete
    that was cut off is finished by the next one."""
    now = s.clock.now()

    def begin(tx: Tx) -> Resource | None:
        row = tx.get(registry_key(scope))
        if row is None or row.state == "Deleting":
            return row
        users = _users(tx, row.key.name)
        if users:
            raise Conflict(
                f"Registry {row.key.name!r} is in use by {' and '.join(users)}. End or change them first.",
                "RegistryInUse",
                row.key.name,
            )
        tx.add_event(Event(row.uid, "registry", now, "Deleting", "Deletion requested.", caller.name))
        return tx.update(replace(row, state="Deleting", modified_at=now))

    row = await s.store.write(begin)
    if row is None:
        return False
    await asyncio.to_thread(s.blobs.delete_account, account_of(row))
    for kind in KINDS.values():
        for type_ in (kind.versions, kind.type):
            await _remove(s, scope_of_row(row), type_)

    def end(tx: Tx) -> None:
        left = tx.get(row.key)
        if left is not None:
            tx.delete(left)

    await s.store.write(end)
    return True


async def check_usable(s: Services, caller: Caller, definition: Any) -> None:
    """Whoever submits a definition must be allowed to read every registry that it names. Raises NotFound."""
    for name in sorted(set(registries_in(definition))):
        if not name.startswith(CURATED):
            await by_name(s, caller, READ_ASSETS, name)


def registries_in(value: Any) -> list[str]:
    """The names of the registries that a definition's addresses name, in lower case."""
    if isinstance(value, str):
        if not value.lower().removeprefix("azureml:").startswith(("//registries/", "azureml://registries/")):
            return []
        try:
            uri = parse_uri(value)
        except InvalidRequest:
            return []
        return [uri.registry.casefold()] if isinstance(uri, RegistryUri) else []
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in registries_in(item)]  # type: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [name for item in value for name in registries_in(item)]  # type: ignore[reportUnknownVariableType]
    return []


def _check_regions(details: Any, location: str) -> None:
    given = cast(list[Any], details) if isinstance(details, list) else []
    regions = [str(maybe(one).get("location") or location) for one in given]
    others = [region for region in regions if region.casefold() != location.casefold()]
    if others:
        raise NotOffered(
            f"Replication to {join_words(others)} is not offered: everything is on this server. Give only "
            f"the registry's own location ({location}).",
            "properties.regionDetails",
        )


def _users(tx: Tx, name: str) -> list[str]:
    """Counted: who deletes a registry need not be one who may see what is in workspaces."""
    found: list[str] = []
    for type_, states, word in (
        ("jobs", _UNENDED, "jobs that have not ended"),
        ("schedules", None, "schedules"),
        ("components/versions", None, "components of workspaces"),
    ):
        rows = tx.find(ResourceQuery(type_, states=states))
        count = sum(
            1
            for row in rows
            if not row.key.scope.registry and name.casefold() in registries_in(decode_object(row.spec))
        )
        if count:
            found.append(f"{count} {word}")
    return found


async def _remove(s: Services, scope: Scope, type_: str) -> None:
    def batch(tx: Tx) -> int:
        rows = tx.find(ResourceQuery(type_, scope, limit=200))
        for row in rows:
            tx.delete(row)
        return len(rows)

    while await s.store.write(batch):
        pass


def _guid(uid: str) -> str:
    return f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"
