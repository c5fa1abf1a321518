"""Datastores: names for places in storage. The defaults are made with the workspace (app.workspaces).

Row: Key(ws, "datastores", name); `spec`: ARM's properties without secrets, `accountName` of our own
storage bare; `status`: {"secrets": base64 of the sealed secrets}, for user-made ones only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.assets.storage import DATASTORES as TYPE
from tidemill.app.assets.storage import account_for, bare_account
from tidemill.app.assets.storage_access import account_holder
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.putting import put_row
from tidemill.app.rows.sealed import seal, unseal
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import DATASTORES as DEFAULTS
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound, NotOffered
from tidemill.domain.ids import check_name
from tidemill.domain.model import Caller, Event, Key, Resource, Scope
from tidemill.domain.roles import Decision
from tidemill.store.api import Read, ResourceQuery, Tx

KINDS = {
    "AzureBlob": ("accountName", "containerName"),
    "AzureDataLakeGen2": ("accountName", "filesystem"),
    "AzureDataLakeGen1": ("storeName",),
    "AzureFile": ("accountName", "fileShareName"),
}
COMPUTED = ("isDefault", "provisioningState", "subscriptionId", "resourceGroup")


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """-> (row, created). Secrets are sealed before they are stored. A default one keeps what it points at.
    Raises InvalidRequest, NotOffered or Conflict."""
    check_name(name, "Datastore")
    given = dict(object_at(body, "properties"))
    _check(name, given)
    secrets = _take_secrets(given)
    account = await s.store.read(lambda read: account_for(read, scope))
    ours = bare_account(str(given.get("accountName", ""))) == account
    if ours:
        given["accountName"] = account
        container = str(given["containerName"])
        await asyncio.to_thread(s.blobs.ensure_container, account, container)
    now, uid = s.clock.now(), s.ids.uid()
    spec: dict[str, Any] = {
        "properties": {},
        "tags": {},
        "serviceDataAccessAuthIdentity": "None",
        **given,
        "isDefault": False,
    }
    row = Resource(
        uid=uid,
        key=Key(scope, TYPE, name),
        state="Succeeded",
        spec=encode(spec),
        tags=encode(spec["tags"] or {}),
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )

    def change(tx: Tx) -> tuple[Resource, bool]:
        existing = tx.get(row.key)
        if existing is None:
            stored = tx.insert(replace(row, status=seal(s, uid, secrets)))
            tx.add_event(Event(uid, "datastore", now, "Created", f"Datastore {name} created.", caller.name))
            return stored, True
        if _is_default(name):
            _refuse_default(name, decode_object(existing.spec), given)
            return existing, False
        status = seal(s, existing.uid, secrets) if secrets else existing.status
        if (existing.spec, existing.status) == (row.spec, status):
            return existing, False
        changed = replace(existing, spec=row.spec, tags=row.tags, status=status, modified_at=now)
        return tx.update(changed), False

    return await put_row(s, change)


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the datastores that exist."""
    return await s.store.read(lambda read: find(read, scope, name))


async def list_of(
    s: Services,
    scope: Scope,
    *,
    default: bool | None = None,
    names: Sequence[str] = (),
    ascending: bool = False,
    limit: int = 0,
    after: str | None = None,
) -> Sequence[Resource]:
    """`default`: only the default one, or only the others; `names`: only these."""
    rows = await s.store.read(lambda read: read.find(ResourceQuery(TYPE, scope, ascending=ascending)))
    wanted = {name.casefold() for name in names}
    found = [
        row
        for row in rows
        if (default is None or bool(decode_object(row.spec).get("isDefault")) is default)
        and (not wanted or row.key.name.casefold() in wanted)
    ]
    start = next((at + 1 for at, row in enumerate(found) if row.uid == after), 0)
    return found[start : start + limit] if limit else found[start:]


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> bool:
    """Forgets the name; the data stays. -> False where there is none. A default one is a Conflict."""
    if _is_default(name):
        raise Conflict(
            f"Datastore {name!r} belongs to the workspace and cannot be deleted.", "DatastoreIsDefault", name
        )
    now = s.clock.now()

    def change(tx: Tx) -> bool:
        row = tx.get(Key(scope, TYPE, name))
        if row is None:
            return False
        tx.delete(row)
        tx.add_event(Event(row.uid, "datastore", now, "Deleted", f"Datastore {name} deleted.", caller.name))
        return True

    return await s.store.write(change)


async def secrets_of(
    s: Services, caller: Caller, decision: Decision, scope: Scope, name: str
) -> dict[str, Any]:
    """ARM's listSecrets reply: the caller's own key of the account for our own storage, else what was stored.
    `decision` is what let the caller ask. Raises NotFound, also for a datastore without secrets; Forbidden
    for a key of the whole account that the decision does not reach to."""
    row, account = await s.store.read(lambda read: (find(read, scope, name), account_for(read, scope)))
    spec = decode_object(row.spec)
    if bare_account(str(spec.get("accountName", ""))) == account:
        # The SDK takes a SAS for an account key when it signs log addresses: it needs the key.
        holder = account_holder(caller, decision, scope.arm_id)
        return {"secretsType": "AccountKey", "key": s.storage_keys.key(account, holder)}
    secrets = unseal(s, row)
    if not secrets:
        raise NotFound(f"Datastore {name!r} has no stored secrets.", "SecretsNotFound", name)
    return secrets


def find(read: Read, scope: Scope, name: str) -> Resource:
    row = read.get(Key(scope, TYPE, name))
    if row is None:
        names = [found.key.name for found in read.find(ResourceQuery(TYPE, scope))]
        raise absent("Datastore", name, names, f"workspace {scope.workspace!r}")
    return row


def _check(name: str, given: dict[str, Any]) -> None:
    kind = str(given.get("datastoreType") or "")
    known = {found.casefold(): found for found in KINDS}.get(kind.casefold())
    if known is None:
        raise NotOffered(
            f"Datastore {name!r} is of type {kind or None!r}, which is not offered. Use {', '.join(KINDS)}.",
            "properties.datastoreType",
        )
    for field in KINDS[known]:
        if not given.get(field):
            raise InvalidRequest(f"Datastore {name!r} has no {field}.", target=f"properties.{field}")
    given["datastoreType"] = known
    for field in COMPUTED:
        given.pop(field, None)


def _take_secrets(given: dict[str, Any]) -> dict[str, Any]:
    """Removes the secrets from the properties -> them, {} if there are none."""
    credentials = dict(object_at(given, "credentials", "properties.credentials"))
    secrets = object_at(credentials, "secrets", "properties.credentials.secrets")
    credentials.pop("secrets", None)
    given["credentials"] = {"credentialsType": "None", **credentials}
    return dict(secrets)


def _is_default(name: str) -> bool:
    return name.casefold() in DEFAULTS


def _refuse_default(name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for field in ("datastoreType", "accountName", "containerName"):
        if given.get(field) != stored.get(field):
            raise Conflict(
                f"Datastore {name!r} belongs to the workspace: its {field} stays {stored.get(field)!r}.",
                "DatastoreIsDefault",
                f"properties.{field}",
            )
