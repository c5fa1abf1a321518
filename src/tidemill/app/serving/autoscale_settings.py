"""Autoscale settings of online deployments (Microsoft.Insights/autoscaleSettings): kept here, carried out by
the deployments controller.

Row: Key(group, "autoscaleSettings", name); `ref`: the deployment's uid; `spec`: ARM's properties as given.
A deployment has at most one, and takes it along when it goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.errors import absent
from tidemill.app.people import access
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.endpoint_rows import AUTOSCALE as TYPE
from tidemill.app.rows.endpoint_rows import event, find_deployment
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.serving.endpoint_bodies import merged
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.ids import PROVIDER, check_name, parse_workspace_id
from tidemill.domain.model import Caller, Key, Resource, Scope
from tidemill.domain.serving.autoscale import Setting, read_setting
from tidemill.store.api import Read, ResourceQuery, Tx

WRITE = f"{PROVIDER}/workspaces/onlineEndpoints/deployments/write"
_TARGET = "properties.targetResourceUri"


def setting_of(row: Resource) -> Setting:
    return read_setting(decode_object(row.spec))


def of_deployment(read: Read, deployment: Resource) -> Resource | None:
    found = read.find(ResourceQuery(TYPE, ref=deployment.uid, limit=1))
    return found[0] if found else None


async def put(
    s: Services, caller: Caller, group: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """-> (row, created). Whoever scales a deployment must be one who may change it. Raises InvalidRequest,
    NotFound, NotOffered, Conflict, AccessDenied."""
    check_name(name, "Autoscale setting")
    given = {k: v for k, v in object_at(body, "properties").items() if v is not None}
    setting = read_setting(given)
    scope, endpoint, deployment = _target(setting.target)
    await access.authorise(s, caller, WRITE, scope, f"onlineEndpoints/{endpoint}/deployments/{deployment}")
    now, uid = s.clock.now(), s.ids.uid()
    tags = encode(dict(object_at(body, "tags")))

    def change(tx: Tx) -> tuple[Resource, bool]:
        target = find_deployment(tx, scope, endpoint, deployment)
        old, other = tx.get(Key(group, TYPE, name)), of_deployment(tx, target)
        if other is not None and (old is None or other.uid != old.uid):
            raise Conflict(
                f"Deployment {deployment!r} of {endpoint!r} is scaled by the setting {other.key.name!r} of "
                f"resource group {other.key.scope.group!r}: change that one, or delete it first.",
                "TargetHasSetting",
                _TARGET,
            )
        said = f"It is scaled by the setting {name!r}, given by {caller.name}."
        if old is not None:
            changed = replace(old, spec=encode(given), tags=tags, ref=target.uid)
            if changed == old:
                return old, False
            if old.ref != target.uid:
                gone = f"The setting {name!r} scales it no more: {caller.name} gave it another target."
                _tell(tx, old.ref, gone, caller, now)
            _tell(tx, target.uid, said, caller, now)
            return tx.update(replace(changed, modified_at=now)), False
        _tell(tx, target.uid, said, caller, now)
        row = Resource(
            uid=uid,
            key=Key(group, TYPE, name),
            state="Succeeded",
            spec=encode(given),
            tags=tags,
            location=str(body.get("location") or s.settings.region),
            ref=target.uid,
            created_at=now,
            modified_at=now,
            created_by=caller.name,
        )
        return tx.insert(row), True

    return await put_row(s, change)


async def patch(s: Services, caller: Caller, group: Scope, name: str, body: Mapping[str, Any]) -> Resource:
    """Changes what is given. Raises NotFound, and as `put`."""
    row = await get(s, group, name)
    return (await put(s, caller, group, row.key.name, merged(row, body)))[0]


async def get(s: Services, group: Scope, name: str) -> Resource:
    """Raises NotFound naming the settings that exist."""

    def look(read: Read) -> Resource:
        row = read.get(Key(group, TYPE, name))
        if row is None:
            names = [one.key.name for one in read.find(ResourceQuery(TYPE, group))]
            raise absent("Autoscale setting", name, names, f"resource group {group.group!r}")
        return row

    return await s.store.read(look)


async def list_of(s: Services, group: Scope | None) -> Sequence[Resource]:
    """Oldest first. None: of all groups."""
    return await s.store.read(lambda read: read.find(ResourceQuery(TYPE, group, ascending=True)))


async def delete(s: Services, caller: Caller, group: Scope, name: str) -> bool:
    """-> False where there was none. The deployment keeps the instances that it has."""
    now = s.clock.now()

    def change(tx: Tx) -> bool:
        row = tx.get(Key(group, TYPE, name))
        if row is None:
            return False
        tx.delete(row)
        said = f"The setting {name!r} scales it no more: deleted by {caller.name}."
        _tell(tx, row.ref, said, caller, now)
        return True

    return await s.store.write(change)


def _tell(tx: Tx, deployment: str, said: str, caller: Caller, now: int) -> None:
    """In the time line of a deployment (its uid), while that is there."""
    row = tx.by_uid(deployment)
    if row is not None:
        tx.add_event(event(row, now, "AutoscaleSetting", said, caller.name))


def _target(text: str) -> tuple[Scope, str, str]:
    """-> (workspace, endpoint, deployment). Raises InvalidRequest."""
    parsed = parse_workspace_id(text)
    if parsed is not None and len(parsed[1]) == 4:
        kind, endpoint, below, deployment = parsed[1]
        if (kind.casefold(), below.casefold()) == ("onlineendpoints", "deployments"):
            return parsed[0], endpoint, deployment
    raise InvalidRequest(
        f"targetResourceUri {text!r} is not the id of an online deployment, the only thing that autoscale "
        "settings scale here: …/workspaces/NAME/onlineEndpoints/NAME/deployments/NAME.",
        target=_TARGET,
    )
