"""Assets: codes, environments, data and models. A version is what it was made as; its container follows it.

Container row: Key(ws, kind, name); `status`: {"latestVersion", "nextVersion", "aliases": {alias: version}};
`ref`: "listed", or "" where all its versions are anonymous. Version row: Key(ws, kind + "/versions", version,
parent=name); `ref` of a code: its content hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.assets import mltables
from tidemill.app.assets.asset_rules import complete, refuse_change, updated
from tidemill.app.assets.asset_usage import archived_note, refuse_if_used
from tidemill.app.assets.locations import Storage
from tidemill.app.assets.storage import account_for
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.rows.asset_rows import (
    CODES,
    DATA,
    DEFAULT_VERSION,
    AssetKind,
    container_key,
    find_container,
    find_version,
    newest_version,
    version_key,
)
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.data.staging import MLTABLE
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.ids import check_name
from tidemill.domain.model import Caller, Event, Resource, Scope
from tidemill.store.api import Read, ResourceQuery, Tx

LISTED = "listed"
SUCCEEDED = "Succeeded"


@dataclass(frozen=True, slots=True)
class AssetQuery:
    """`archived`: None for both. `hash`: content hash of codes, wherever in the workspace they are."""

    archived: bool | None = False
    ascending: bool = False
    limit: int = 0
    after: str | None = None
    hash: str = ""
    hash_version: str = ""


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A container of its own, for one upload."""

    id: str
    account: str
    container: str


async def put_version(
    s: Services,
    caller: Caller,
    scope: Scope,
    kind: AssetKind,
    name: str,
    version: str,
    body: Mapping[str, Any],
) -> tuple[Resource, bool]:
    """-> (row, created). The same body again is the same version; another is a Conflict, except for what may
    change (asset_rules.MUTABLE). Raises also InvalidRequest and NotFound."""
    check_name(name, kind.label)
    check_name(version, f"{kind.label} {name!r} version")
    if version.casefold() in ("latest", "default", DEFAULT_VERSION):
        raise InvalidRequest(f"{version!r} is a label, not a version. Use another word or a number.")
    given = object_at(body, "properties")
    now, uids = s.clock.now(), (s.ids.uid(), s.ids.uid())
    if kind is DATA and given.get("dataType") == MLTABLE:
        known = await s.store.read(lambda read: read.get(version_key(scope, kind, name, version)))
        given = await mltables.checked(s, scope, name, given) if known is None else given

    def change(tx: Tx) -> tuple[Resource, bool]:
        storage = Storage(scope, account_for(tx, scope), s.addresses.data_netloc)
        wanted = complete(tx, storage, kind, name, given, s.addresses.data)
        existing = tx.get(version_key(scope, kind, name, version))
        if existing is not None:
            stored = decode_object(existing.spec)
            refuse_change(kind, name, version, stored, wanted)
            return _keep(tx, existing, kind, updated(stored, given), now, caller.name), False
        return insert_version(tx, kind, scope, name, version, wanted, uids, now, caller.name), True

    return await put_row(s, change)


def insert_version(
    tx: Tx,
    kind: AssetKind,
    scope: Scope,
    name: str,
    version: str,
    properties: dict[str, Any],
    uids: tuple[str, str],
    now: int,
    by: str,
) -> Resource:
    """A new version and, if it is the first, its container (`uids` in that order)."""
    row = Resource(
        uid=uids[0],
        key=version_key(scope, kind, name, version),
        state=SUCCEEDED,
        spec=encode(properties),
        tags=encode(properties.get("tags") or {}),
        ref=_content_hash(properties) if kind is CODES else "",
        archived=bool(properties.get("isArchived")),
        created_at=now,
        modified_at=now,
        created_by=by,
    )
    stored = tx.insert(row)
    _follow(tx, kind, scope, name, stored, properties, uids[1], by)
    if not properties.get("isAnonymous"):
        tx.add_event(Event(row.uid, "asset", now, "Created", f"{kind.label} {name}:{version} created.", by))
    return stored


def save(tx: Tx, row: Resource, properties: dict[str, Any], now: int) -> Resource:
    """The row with these properties; nothing is written when they are what it has."""
    changed = replace(
        row,
        spec=encode(properties),
        tags=encode(properties.get("tags") or {}),
        archived=bool(properties.get("isArchived")),
    )
    return row if changed == row else tx.update(replace(changed, modified_at=now))


def _keep(tx: Tx, row: Resource, kind: AssetKind, properties: dict[str, Any], now: int, by: str) -> Resource:
    """As `save`; being archived or restored is an event, with who still uses it."""
    saved = save(tx, row, properties, now)
    if saved.archived != row.archived:
        word = "Archived" if saved.archived else "Restored"
        note = archived_note(tx, saved, kind) if saved.archived else ""
        tx.add_event(Event(row.uid, "asset", now, word, f"{word} by {by}.{' ' * bool(note)}{note}", by))
    return saved


async def note_of(s: Services, kind: AssetKind, row: Resource) -> str:
    """Who uses a name or a version that is archived, in a sentence; "" where nobody does or it is not."""
    return await s.store.read(lambda read: archived_note(read, row, kind)) if row.archived else ""


def next_version(tx: Read, scope: Scope, kind: AssetKind, name: str) -> str:
    container = tx.get(container_key(scope, kind, name))
    return str(decode_object(container.status).get("nextVersion", "1")) if container else "1"


async def get_version(s: Services, scope: Scope, kind: AssetKind, name: str, version: str) -> Resource:
    """Raises NotFound with the versions, or the names, that exist."""
    return await s.store.read(lambda read: find_version(read, scope, kind, name, version))


async def list_versions(
    s: Services, scope: Scope, kind: AssetKind, name: str, query: AssetQuery
) -> Sequence[Resource]:
    """By creation, newest first. With a hash: at most the one code of that content, whatever its name."""
    if query.hash:
        wanted = _hash_ref(query.hash, query.hash_version)
        found = await s.store.read(
            lambda read: read.find(ResourceQuery(kind.versions, scope, ref=wanted, archived=False, limit=1))
        )
        return found
    rows = ResourceQuery(
        kind.versions,
        scope,
        parent=name,
        archived=query.archived,
        ascending=query.ascending,
        limit=query.limit,
        after=query.after,
    )
    return await s.store.read(lambda read: read.find(rows))


async def delete_version(
    s: Services, caller: Caller, scope: Scope, kind: AssetKind, name: str, version: str
) -> bool:
    """-> False where there is none. What it points at stays in storage; the container goes with its last.
    Raises Conflict naming who uses it."""
    now = s.clock.now()

    def change(tx: Tx) -> bool:
        row = tx.get(version_key(scope, kind, name, version))
        if row is None:
            return False
        refuse_if_used(tx, scope, kind, name, version)
        tx.delete(row)
        tx.add_event(
            Event(row.uid, "asset", now, "Deleted", f"{kind.label} {name}:{version} deleted.", caller.name)
        )
        container = tx.get(container_key(scope, kind, name))
        newest = newest_version(tx, scope, kind, name)
        if container is None:
            return True
        if newest is None:
            tx.delete(container)
        else:
            status = without_aliases(decode_object(container.status), version)
            status["latestVersion"] = newest.key.name
            tx.update(replace(container, status=encode(status), modified_at=now))
        return True

    return await s.store.write(change)


def without_aliases(status: Mapping[str, Any], version: str) -> dict[str, Any]:
    """A container's status without the aliases of a version that goes."""
    aliases = {alias: held for alias, held in status.get("aliases", {}).items() if held != version}
    return {**status, **({"aliases": aliases} if "aliases" in status else {})}


async def put_container(
    s: Services, caller: Caller, scope: Scope, kind: AssetKind, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates a name without versions, or changes description, tags and isArchived of one."""
    check_name(name, kind.label)
    given = object_at(body, "properties")
    now, uid = s.clock.now(), s.ids.uid()

    def change(tx: Tx) -> tuple[Resource, bool]:
        existing = tx.get(container_key(scope, kind, name))
        if existing is not None:
            properties = updated(decode_object(existing.spec), given)
            return _keep(tx, existing, kind, properties, now, caller.name), False
        return insert_container(tx, kind, scope, name, given, uid, now, caller.name), True

    return await put_row(s, change)


def insert_container(
    tx: Tx, kind: AssetKind, scope: Scope, name: str, given: Mapping[str, Any], uid: str, now: int, by: str
) -> Resource:
    """A name without versions yet."""
    properties: dict[str, Any] = {"tags": {}, "properties": {}, "isArchived": False, **given}
    for computed in ("latestVersion", "nextVersion", "aliases", "provisioningState"):
        properties.pop(computed, None)
    row = _container_row(kind, scope, name, properties, uid, now, by)
    return tx.insert(replace(row, ref=LISTED, status=encode({"nextVersion": "1"})))


async def get_container(s: Services, scope: Scope, kind: AssetKind, name: str) -> Resource:
    return await s.store.read(lambda read: find_container(read, scope, kind, name))


async def list_containers(
    s: Services, scope: Scope, kind: AssetKind, query: AssetQuery
) -> Sequence[Resource]:
    """Newest first; names that have only anonymous versions are left out."""
    rows = ResourceQuery(
        kind.type,
        scope,
        ref=LISTED,
        archived=query.archived,
        ascending=query.ascending,
        limit=query.limit,
        after=query.after,
    )
    return await s.store.read(lambda read: read.find(rows))


async def delete_container(s: Services, caller: Caller, scope: Scope, kind: AssetKind, name: str) -> bool:
    """With all its versions. -> False where there is none. Raises Conflict naming who uses one."""
    now = s.clock.now()

    def change(tx: Tx) -> bool:
        row = tx.get(container_key(scope, kind, name))
        if row is None:
            return False
        refuse_if_used(tx, scope, kind, name)
        for version in tx.find(ResourceQuery(kind.versions, scope, parent=name)):
            tx.delete(version)
        tx.delete(row)
        tx.add_event(Event(row.uid, "asset", now, "Deleted", f"{kind.label} {name} deleted.", caller.name))
        return True

    return await s.store.write(change)


async def start_pending_upload(
    s: Services, scope: Scope, kind: AssetKind, name: str, version: str
) -> PendingUpload:
    """A new container for the bytes of one version. Azure's clients put them below a folder of it."""
    import asyncio

    account = await s.store.read(lambda read: account_for(read, scope))
    upload = s.ids.uid()
    # Named by what cannot be guessed from the asset: two uploads of one version never meet.
    digest = hashlib.sha256(f"{kind.type}/{name}/{version}/{upload}".encode()).hexdigest()
    container = f"{kind.type[0]}{digest[:32]}"
    await asyncio.to_thread(s.blobs.ensure_container, account, container)
    return PendingUpload(upload, account, container)


def _follow(
    tx: Tx,
    kind: AssetKind,
    scope: Scope,
    name: str,
    version: Resource,
    properties: Mapping[str, Any],
    uid: str,
    by: str,
) -> None:
    """Brings the container in line with its newest version."""
    container = tx.get(container_key(scope, kind, name))
    listed = "" if properties.get("isAnonymous") else LISTED
    if container is None:
        first: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "isArchived": False}
        if kind is DATA:
            first["dataType"] = properties["dataType"]
        row = _container_row(kind, scope, name, first, uid, version.created_at, by)
        status = {"latestVersion": version.key.name, "nextVersion": _after(version.key.name, "1")}
        tx.insert(replace(row, ref=listed, status=encode(status)))
        return
    problem = type_conflict(container, name, properties["dataType"]) if kind is DATA else ""
    if problem:
        raise Conflict(problem, "DataTypeMismatch", "properties.dataType")
    held = decode_object(container.status)
    following = _after(version.key.name, str(held.get("nextVersion", "1")))
    status = {**held, "latestVersion": version.key.name, "nextVersion": following}
    tx.update(
        replace(container, status=encode(status), ref=container.ref or listed, modified_at=version.created_at)
    )


def _container_row(
    kind: AssetKind, scope: Scope, name: str, properties: dict[str, Any], uid: str, now: int, by: str
) -> Resource:
    return Resource(
        uid=uid,
        key=container_key(scope, kind, name),
        state=SUCCEEDED,
        spec=encode(properties),
        tags=encode(properties.get("tags") or {}),
        archived=bool(properties.get("isArchived")),
        created_at=now,
        modified_at=now,
        created_by=by,
    )


def type_conflict(container: Resource | None, name: str, data_type: str) -> str:
    """Why a data asset's name cannot take a version of this type; "" when it can."""
    kept = decode_object(container.spec).get("dataType") if container is not None else None
    if not kept or kept == data_type:
        return ""
    return (
        f"Data asset {name!r} is of type {kept}, as all its versions are. "
        f"Register the {data_type} under another name."
    )


def _after(version: str, before: str) -> str:
    """The next number: one more than any version that is a number."""
    if not version.isascii() or not version.isdigit():
        return before
    return str(max(int(version) + 1, int(before)))


def _content_hash(properties: Mapping[str, Any]) -> str:
    inner = object_at(properties, "properties")
    digest = str(inner.get("hash_sha256") or "")
    return _hash_ref(digest, str(inner.get("hash_version") or "")) if digest else ""


def _hash_ref(digest: str, hash_version: str) -> str:
    return f"{hash_version}:{digest}"
