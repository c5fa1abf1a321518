"""Computes that exist for one purpose: the nodes of a job without a compute, of a deployment, of a container
group.

To the scheduler, the ledger and quotas one is a compute like any other; no list of computes shows it. Each
belongs to one row, its owner (a job, a deployment), is made in the commit that makes the owner or begins what
it is for, and goes in the commit that ends it: then its nodes close, and the row with the last of them.
`unwanted` finds what no owner needs any more, whatever has happened.

Row: Key(the owner's scope, "implicitComputes", OWNER'S UID); `state`: "Succeeded" | "Deleting"; `spec`: size
and scale as a cluster's, with `label` and `purpose`; `tags`: what goes on the bill, and `tidemill.egress`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tidemill.app.computes.compute_rules import IMPLICIT as TYPE
from tidemill.app.rows.codec import decode_object, encode
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Event, JobState, Key, Resource, Scope
from tidemill.domain.units import plural
from tidemill.store.api import Read, ResourceQuery, Tx

SUCCEEDED, DELETING = "Succeeded", "Deleting"


@dataclass(frozen=True, slots=True)
class Wanted:
    """`label`: the first part of its nodes' names, and the compute that its quota is set for ("serverless",
    "ENDPOINT.DEPLOYMENT": never a name that a cluster can have). `purpose`: what it is for, in sentences
    ("job 'train'"). An idle node above the minimum is closed at once. `region` "": the home's."""

    label: str
    purpose: str
    size: str
    maximum: int
    minimum: int = 0
    region: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


def make(tx: Tx, uid: str, owner: Resource, wanted: Wanted, now: int) -> Resource:
    """In the commit that makes the owner, or begins what it is for. `uid` is the compute's own, a new one.
    Raises Conflict where the workspace is being deleted, AlreadyExists where the owner has one."""
    scope = owner.key.scope
    row = Resource(
        uid=uid,
        key=Key(scope, TYPE, owner.uid),
        state=SUCCEEDED,
        spec=_spec(wanted.size, wanted.minimum, wanted.maximum, wanted.label, wanted.purpose),
        tags=encode(dict(wanted.tags)),
        location=wanted.region or _region(tx, scope),
        parent_uid=owner.uid,
        created_at=now,
        modified_at=now,
        created_by=owner.created_by,
    )
    nodes = f"{wanted.minimum} to {plural(wanted.maximum, 'node')}"
    text = f"Nodes for {wanted.purpose} alone: {nodes} of {wanted.size}."
    tx.add_event(Event(uid, "compute", now, "Created", text))
    return tx.insert(row)


def _region(read: Read, scope: Scope) -> str:
    """The workspace's. Raises Conflict where that is being deleted."""
    workspace = read.get(Key(Scope(scope.subscription, scope.group), "workspaces", scope.workspace))
    if workspace is None or workspace.state == DELETING:
        raise Conflict(f"Workspace {scope.workspace!r} is being deleted.", "WorkspaceDeleting")
    return workspace.location


def resize(tx: Tx, owner: Resource, minimum: int, maximum: int, now: int) -> Resource | None:
    """So many nodes at least and at most from now on; those too many that run nothing close at once. None:
    the owner has none, or it goes."""
    row = of_owner(tx, owner)
    if row is None or row.state == DELETING:
        return None
    spec = decode_object(row.spec)
    changed = _spec(spec["properties"]["vmSize"], minimum, maximum, spec["label"], spec["purpose"])
    if changed == row.spec:
        return row
    text = f"{minimum} to {plural(maximum, 'node')} from now on."
    tx.add_event(Event(row.uid, "compute", now, "Updated", text))
    return tx.update(replace(row, spec=changed, modified_at=now))


def remove(tx: Tx, owner: Resource, now: int) -> None:
    """In the commit that ends what it was for; nothing where there is none. Its nodes close as soon as they
    run nothing, and jobs of it that have not ended are ended."""
    row = of_owner(tx, owner)
    if row is not None:
        remove_row(tx, row, now)


def remove_row(tx: Tx, row: Resource, now: int) -> None:
    if row.state == DELETING:
        return
    if tx.nodes_of(row.uid):
        tx.update(replace(row, state=DELETING, modified_at=now))
    else:
        tx.delete(row)
        tx.add_event(Event(row.uid, "compute", now, "Deleted", "Gone, with what it was for."))


def of_owner(read: Read, owner: Resource) -> Resource | None:
    return read.get(Key(owner.key.scope, TYPE, owner.uid))


def unwanted(read: Read) -> list[Resource]:
    """Those whose owner is gone, or a job that has ended and keeps no nodes for a look."""
    rows = read.find(ResourceQuery(TYPE, states=(SUCCEEDED,)))
    return [row for row in rows if _is_unwanted(read.by_uid(row.key.name))]


def _is_unwanted(owner: Resource | None) -> bool:
    if owner is None:
        return True
    return owner.key.type == "jobs" and JobState(owner.state).final and owner.next_at is None


def _spec(size: str, minimum: int, maximum: int, label: str, purpose: str) -> bytes:
    scale = {"minNodeCount": minimum, "maxNodeCount": maximum, "nodeIdleTimeBeforeScaleDown": "PT0S"}
    return encode(
        {"label": label, "purpose": purpose, "properties": {"vmSize": size, "scaleSettings": scale}}
    )
