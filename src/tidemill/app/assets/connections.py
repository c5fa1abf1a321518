"""Workspace connections: how to reach something outside (a registry, a feed, a bucket, a service), and the
credentials for it.

Row: Key(ws, "connections", name); `spec`: ARM's properties without secrets; `status`: the sealed secrets.
Of the credentials only what names somebody (`PUBLIC`) is ever shown again; everything else is a secret,
also what this version does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.errors import absent, instead
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.putting import put_row
from tidemill.app.rows.sealed import seal, unseal
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest, OutOfSpace
from tidemill.domain.ids import PROVIDER, check_name
from tidemill.domain.model import Caller, Event, Key, Resource, Scope
from tidemill.store.api import Read, ResourceQuery, Tx

TYPE = "connections"
# What ARM calls `authType`, and what each must carry to be of use.
AUTH_TYPES: dict[str, tuple[str, ...]] = {
    "PAT": ("pat",),
    "UsernamePassword": ("username", "password"),
    "AccessKey": ("accessKeyId", "secretAccessKey"),
    "SAS": ("sas",),
    "ApiKey": ("key",),
    "AccountKey": (),  # the SDK sends it as `sas`, others as `key`
    "ServicePrincipal": ("clientId", "clientSecret", "tenantId"),
    "CustomKeys": ("keys",),
    "OAuth2": ("clientId",),
    "ManagedIdentity": (),
    "AAD": (),
    "None": (),
}
WITHOUT_SECRETS = ("ManagedIdentity", "AAD", "None")
PUBLIC = ("username", "clientId", "tenantId", "resourceId", "accessKeyId", "authUrl")
COMPUTED = ("provisioningState", "createdByWorkspaceArmId", "group", "error", "peStatus", "peRequirement")
_FIELD = "properties.credentials"
# Kept secrets go only to whom they were given for.
_BOUND = ("authType", "category", "target")


@dataclass(frozen=True, slots=True)
class RegistryCredentials:
    """What a container registry wants. `connection` is the name of the connection they come from."""

    connection: str
    username: str
    password: str = field(repr=False)


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """-> (row, created). A body without secrets keeps those that are stored, as long as the connection goes
    to the same place in the same way. Raises InvalidRequest."""
    check_name(name, "Connection")
    given = dict(object_at(body, "properties"))
    return await _store(s, caller, scope, name, given)


async def update(s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]) -> Resource:
    """Changes the properties that are given. Raises NotFound, InvalidRequest."""
    row = await get(s, scope, name)
    changed = {**decode_object(row.spec), **object_at(body, "properties")}
    return (await _store(s, caller, scope, name, changed))[0]


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the connections that exist."""
    return await s.store.read(lambda read: _find(read, scope, name))


async def list_of(
    s: Services,
    scope: Scope,
    *,
    category: str = "",
    target: str = "",
    limit: int = 0,
    after: str | None = None,
) -> Sequence[Resource]:
    """Oldest first, of that category and target where they are given."""
    rows = await s.store.read(lambda read: read.find(ResourceQuery(TYPE, scope, ascending=True, after=after)))
    found = [row for row in rows if _matches(row, category, target)]
    return found[:limit] if limit else found


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> bool:
    """-> False where there is none."""
    now = s.clock.now()

    def change(tx: Tx) -> bool:
        row = tx.get(Key(scope, TYPE, name))
        if row is None:
            return False
        tx.delete(row)
        tx.add_event(Event(row.uid, "connection", now, "Deleted", f"Connection {name} deleted.", caller.name))
        return True

    return await s.store.write(change)


async def secrets_of(s: Services, scope: Scope, name: str) -> tuple[Resource, dict[str, Any]]:
    """The row, and its properties with the secrets in them. Raises NotFound."""
    row = await get(s, scope, name)
    return row, _with_secrets(s, row)


async def registry_credentials(s: Services, scope: Scope, host: str) -> RegistryCredentials | None:
    """Those of the workspace's ContainerRegistry connection to `host` (`ghcr.io`, `localhost:5000`). None:
    there is no such connection, or it is used without credentials of its own. The look is on disk in the
    activity log before this returns. Raises OutOfSpace where it cannot be put there."""
    wanted = _host_of(host)
    for row in await list_of(s, scope, category="ContainerRegistry"):
        if _host_of(str(decode_object(row.spec)["target"])) != wanted:
            continue
        credentials = object_at(_with_secrets(s, row), "credentials", _FIELD)
        if credentials.get("password"):
            action, where = f"{PROVIDER}/workspaces/{TYPE}/listsecrets/action", f"{scope.arm_id}/{TYPE}"
            why = f"To pull an image from {host}."
            s.activity.system(s.clock.now(), action, scope.arm_id, f"{where}/{row.key.name}", why)
            if not await s.activity.flush():
                raise OutOfSpace("The activity log cannot be written, so no secret is used. Make space.")
            return RegistryCredentials(
                row.key.name, str(credentials.get("username", "")), str(credentials["password"])
            )
    return None


async def _store(
    s: Services, caller: Caller, scope: Scope, name: str, given: dict[str, Any]
) -> tuple[Resource, bool]:
    _check(name, given)
    secrets = _take_secrets(given)
    spec = encode({"metadata": {}, "isSharedToAll": True, **given})
    now, uid = s.clock.now(), s.ids.uid()

    def change(tx: Tx) -> tuple[Resource, bool]:
        existing = tx.get(Key(scope, TYPE, name))
        status = _kept(s, existing, name, given) if not secrets else b""
        if existing is None:
            row = Resource(
                uid=uid,
                key=Key(scope, TYPE, name),
                state="Succeeded",
                spec=spec,
                status=status or seal(s, uid, secrets),
                created_at=now,
                modified_at=now,
                created_by=caller.name,
            )
            tx.add_event(Event(uid, "connection", now, "Created", f"Connection {name} created.", caller.name))
            return tx.insert(row), True
        status = status or seal(s, existing.uid, secrets)
        tx.add_event(
            Event(existing.uid, "connection", now, "Updated", f"Connection {name} changed.", caller.name)
        )
        return tx.update(replace(existing, spec=spec, status=status, modified_at=now)), False

    return await put_row(s, change)


def _kept(s: Services, existing: Resource | None, name: str, given: Mapping[str, Any]) -> bytes:
    """The status of a row that is given no secrets. Raises InvalidRequest where it needs some."""
    kind = given["authType"]
    if kind in WITHOUT_SECRETS:
        return b"{}"
    old = {} if existing is None else decode_object(existing.spec)
    if existing is not None and all(old.get(part) == given.get(part) for part in _BOUND):
        return existing.status
    why = "is new" if existing is None else "goes somewhere else now, so the stored credentials are not kept"
    raise InvalidRequest(
        f"Connection {name!r} {why}: give the {kind} credentials"
        f"{' (' + ', '.join(AUTH_TYPES[kind]) + ')' if AUTH_TYPES[kind] else ''}.",
        target=_FIELD,
    )


def _check(name: str, given: dict[str, Any]) -> None:
    """Refuses what cannot be a connection, and spells `authType` as ARM does."""
    for part in COMPUTED:
        given.pop(part, None)
    if not isinstance(given.get("category"), str) or not given["category"]:
        raise InvalidRequest(
            f"Connection {name!r} has no category, for example ContainerRegistry, Git or PythonFeed.",
            target="properties.category",
        )
    kind = str(given.get("authType") or "None")
    known = {found.casefold(): found for found in AUTH_TYPES}.get(kind.casefold())
    if known is None:
        raise InvalidRequest(
            f"authType {kind!r} of connection {name!r} is not known. {instead(kind, AUTH_TYPES)}",
            target="properties.authType",
        )
    given["authType"] = known
    if not isinstance(given.get("target", ""), str):
        raise InvalidRequest(f"The target of connection {name!r} must be text.", target="properties.target")
    if _password_in(name, given.get("target") or ""):
        raise InvalidRequest(
            f"The target of connection {name!r} has a password in it. Put it into the credentials: a target "
            "is shown to everybody who may read the connection.",
            target="properties.target",
        )
    credentials = object_at(given, "credentials", _FIELD)
    missing = [part for part in AUTH_TYPES[known] if not credentials.get(part)]
    if missing and any(credentials.get(part) for part in credentials if part not in PUBLIC):
        raise InvalidRequest(
            f"The {known} credentials of connection {name!r} lack {', '.join(missing)}.", target=_FIELD
        )


def _take_secrets(given: dict[str, Any]) -> dict[str, Any]:
    """Removes the secrets from the properties -> them. `value` is how older API versions gave them."""
    credentials = dict(object_at(given, "credentials", _FIELD))
    secrets = {part: credentials.pop(part) for part in [*credentials] if part not in PUBLIC}
    given.pop("credentials", None)
    if credentials := {part: value for part, value in credentials.items() if value is not None}:
        given["credentials"] = credentials
    taken = {"credentials": {part: value for part, value in secrets.items() if value not in (None, {}, "")}}
    if given.pop("value", None):
        raise InvalidRequest(
            "The property 'value' is of an older API version: give 'credentials'.", target="properties.value"
        )
    return taken if taken["credentials"] else {}


def _with_secrets(s: Services, row: Resource) -> dict[str, Any]:
    spec = decode_object(row.spec)
    hidden: Mapping[str, Any] = unseal(s, row).get("credentials", {})
    shown: Mapping[str, Any] = spec.get("credentials") or {}
    return {**spec, "credentials": {**shown, **hidden} or None}


def _find(read: Read, scope: Scope, name: str) -> Resource:
    row = read.get(Key(scope, TYPE, name))
    if row is None:
        names = [found.key.name for found in read.find(ResourceQuery(TYPE, scope))]
        raise absent("Connection", name, names, f"workspace {scope.workspace!r}")
    return row


def _matches(row: Resource, category: str, target: str) -> bool:
    spec = decode_object(row.spec)
    return (not category or str(spec["category"]).casefold() == category.casefold()) and (
        not target or spec.get("target") == target
    )


def _password_in(name: str, target: str) -> bool:
    try:
        return urlsplit(target).password is not None
    except ValueError as error:
        raise InvalidRequest(
            f"The target {target[:200]!r} of connection {name!r} is no address: {error}.",
            target="properties.target",
        ) from error


def _host_of(target: str) -> str:
    """`https://ghcr.io/team`, `ghcr.io/team`, `GHCR.io` -> `ghcr.io`; a port is part of it."""
    return urlsplit(target if "://" in target else f"//{target}").netloc.rpartition("@")[2].casefold()
