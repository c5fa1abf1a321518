"""Computes: AmlCompute clusters as rows, and the compute "local" that every workspace has without one.

Row: Key(ws, "computes", name); `state`: provisioningState ("Succeeded" | "Deleting"); `spec`: ARM's
properties as given, without what is computed; `status`: {"identity", "sku"} where given.
Nodes are opened and closed by the pool controller, which reads `cluster_of`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.computes import egress, identities
from tidemill.app.computes.compute_rules import (
    DEFAULT_IDLE_S,
    IMPLICIT,
    RESERVED,
    SECOND,
    SERVERLESS,
    check_compute_name,
    object_at,
    read_compute,
    read_scale,
    refuse_change,
)
from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.catalog.sizes import HOST
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.ids import parse_workspace_id
from tidemill.domain.isolation import level_of
from tidemill.domain.model import Caller, Event, JobState, Key, Node, NodeState, Resource, Scope, Vector
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.domain.units import human_duration, plural
from tidemill.store.api import Granted, Read, ResourceQuery, Tx

TYPE = "computes"
LOCAL = "local"
_NO_RESOURCE = {
    LOCAL: "Compute 'local' is this host itself: jobs name it (compute: local), but there is no resource "
    "to get, change or delete.",
    SERVERLESS: "'serverless' is no resource to get, change or delete: each job without a compute has nodes "
    "that exist for it alone.",
}
SUCCEEDED, DELETING = "Succeeded", "Deleting"
_FINAL = tuple(state.value for state in JobState if state.final)


@dataclass(frozen=True, slots=True)
class ComputeView:
    """A compute with its live nodes, oldest first."""

    row: Resource
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class NodeLine:
    """`job`: the name of the job it runs, "" for none."""

    node: Node
    job: str


@dataclass(frozen=True, slots=True)
class Usage:
    """`unit`: "Cores" | "Gpus" | "Clusters"."""

    unit: str
    current: int
    limit: int


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """Creates or updates -> (row, created). Raises InvalidRequest, NotOffered or Conflict."""
    check_compute_name(name)
    properties, size, scale = read_compute(name, body, s.sizes)
    tags = object_at(body, "tags")
    level_of(tags, "tags")
    egress.check_tags(tags, "tags")
    now = s.clock.now()
    identity = await identities.asked_for(s, caller, body, Key(scope, TYPE, name))
    oid = identities.new_oid(s)
    row = Resource(
        uid=s.ids.uid(),
        key=Key(scope, TYPE, name),
        state=SUCCEEDED,
        spec=encode(properties),
        status=encode({"sku": body["sku"]} if body.get("sku") else {}),
        tags=encode(tags),
        location=str(body.get("location") or s.settings.region),
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )
    shape = f"{scale.minimum} to {plural(scale.maximum, 'node')} of {size.name}"
    shape += f", closed after {human_duration(scale.idle_us)} idle"

    def with_identity(tx: Tx, key: Key, before: Mapping[str, Any]) -> Resource:
        """The row with its identity settled; a body without one leaves it as it is."""
        status = decode_object(row.status)
        if identity is not None:
            status["identity"] = identities.settle(
                tx, key, identity, oid=oid, tenant=s.settings.tenant, now=now, by=caller.name
            )
        elif before.get("identity"):
            status["identity"] = before["identity"]
        return replace(row, status=encode(status))

    def change(tx: Tx) -> tuple[Resource, bool]:
        existing = tx.get(row.key)
        if existing is not None:
            wanted = with_identity(tx, existing.key, decode_object(existing.status))
            return _updated(tx, existing, wanted, caller), False
        stored = tx.insert(with_identity(tx, row.key, {}))
        message = f"Compute {name} created by {caller.name}: {shape}."
        tx.add_event(Event(row.uid, "compute", now, "Created", message, caller.name))
        return stored, True

    return await put_row(s, change)


async def patch(s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]) -> Resource:
    """ARM's ClusterUpdateParameters: only scaleSettings, merged.
    Raises NotFound, InvalidRequest or Conflict."""
    asked = object_at(object_at(object_at(body, "properties"), "properties"), "scaleSettings")
    wanted = {field: value for field, value in asked.items() if value is not None}

    def change(tx: Tx) -> Resource:
        row = find(tx, scope, name)
        spec = decode_object(row.spec)
        merged = {**spec["properties"]["scaleSettings"], **wanted}
        read_scale(name, merged)
        spec["properties"]["scaleSettings"] = merged
        return _updated(tx, row, replace(row, spec=encode(spec), modified_at=s.clock.now()), caller)

    return await s.store.write(change)


def _updated(tx: Tx, existing: Resource, wanted: Resource, caller: Caller) -> Resource:
    name, now = existing.key.name, wanted.modified_at
    if existing.state == DELETING:
        raise Conflict(f"Compute {name!r} is being deleted. Wait until it is gone.", "ComputeDeleting", name)
    old, new = decode_object(existing.spec), decode_object(wanted.spec)
    refuse_change(name, old, new)
    updated = replace(
        existing,
        spec=wanted.spec,
        tags=wanted.tags,
        status=wanted.status if wanted.status != b"{}" else existing.status,
        modified_at=now,
    )
    if (updated.spec, updated.tags, updated.status) == (existing.spec, existing.tags, existing.status):
        return existing
    changes = _scale_changes(old["properties"]["scaleSettings"], new["properties"]["scaleSettings"])
    message = f"Compute {name} updated by {caller.name}{': ' + changes if changes else ''}."
    tx.add_event(Event(existing.uid, "compute", now, "Updated", message, caller.name))
    return tx.update(updated)


def _scale_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    words = {"minNodeCount": "min", "maxNodeCount": "max", "nodeIdleTimeBeforeScaleDown": "idle time"}
    changed = ((word, old.get(field), new.get(field)) for field, word in words.items())
    return ", ".join(f"{word} {before} -> {after}" for word, before, after in changed if before != after)


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> Resource | None:
    """Gone at once when nothing is on it (None: there was none); else `Deleting` until its jobs have ended
    and its nodes are closed. Its events and ledger stay. Raises InvalidRequest for a reserved name."""
    if name.casefold() in RESERVED:
        raise InvalidRequest(_NO_RESOURCE[name.casefold()], target=name)
    now = s.clock.now()

    def change(tx: Tx) -> Resource | None:
        row = tx.get(Key(scope, TYPE, name))
        if row is None or row.state == DELETING:
            return row
        jobs = tx.count(ResourceQuery("jobs", ref=row.uid, exclude_states=_FINAL))
        nodes = len(tx.nodes_of(row.uid))
        if not jobs and not nodes:
            tx.delete(row)
            tx.add_event(Event(row.uid, "compute", now, "Deleted", f"Deleted by {caller.name}.", caller.name))
            return row
        message = (
            f"Being deleted by {caller.name}: {plural(jobs, 'job')} to end, {plural(nodes, 'node')} to close."
        )
        tx.add_event(Event(row.uid, "compute", now, DELETING, message, caller.name))
        return tx.update(replace(row, state=DELETING, modified_at=now, next_at=now))

    return await s.store.write(change)


async def get(s: Services, scope: Scope, name: str) -> ComputeView:
    """Raises NotFound naming the computes that exist."""

    def look(read: Read) -> ComputeView:
        row = find(read, scope, name)
        return ComputeView(row, tuple(read.nodes_of(row.uid)))

    return await s.store.read(look)


async def list_of(
    s: Services,
    scope: Scope,
    *,
    limit: int = 0,
    after: str | None = None,
    granted: Granted | None = None,
) -> Sequence[ComputeView]:
    """Oldest first. `granted`: only those with a role of their own (`access.Part`)."""

    def look(read: Read) -> list[ComputeView]:
        query = ResourceQuery(TYPE, scope, ascending=True, limit=limit, after=after, granted=granted)
        rows = read.find(query)
        return [ComputeView(row, tuple(read.nodes_of(row.uid))) for row in rows]

    return await s.store.read(look)


async def nodes_of(s: Services, scope: Scope, name: str) -> Sequence[NodeLine]:
    """The live nodes of a compute, of the implicit one for the name "local"."""

    def look(read: Read) -> list[NodeLine]:
        if name.casefold() == LOCAL:
            uid = local_uid(require_workspace(read, scope))
        else:
            uid = find(read, scope, name).uid
        return [NodeLine(node, _job_on(read, node)) for node in read.nodes_of(uid)]

    return await s.store.read(look)


async def usages(s: Services) -> Sequence[Usage]:
    """What this host has, and what live nodes hold of it now."""
    host = (await s.engine.capacity()).total
    live, clusters = await s.store.read(lambda r: (r.live_nodes(), r.count(ResourceQuery(TYPE))))
    nodes = [node for node in live if node.state is not NodeState.PARKED]
    held = Vector(sum(n.granted.cpu_milli for n in nodes), 0, sum(n.granted.gpus for n in nodes))
    return (
        Usage("Cores", math.ceil(held.cpu_milli / 1000), host.cpu_milli // 1000),
        Usage("Gpus", held.gpus, host.gpus),
        Usage("Clusters", clusters, 10_000),
    )


def find(read: Read, scope: Scope, name: str, besides: Sequence[str] = ()) -> Resource:
    """Raises NotFound naming the computes that exist, and what else could have been meant."""
    row = read.get(Key(scope, TYPE, name))
    if row is None and name.casefold() in RESERVED:
        raise NotFound(_NO_RESOURCE[name.casefold()], target=name)
    if row is None:
        names = [r.key.name for r in read.find(ResourceQuery(TYPE, scope))]
        raise absent("Compute", name, [*names, *besides], f"workspace {scope.workspace!r}")
    return row


async def resolve(s: Services, scope: Scope, compute: str) -> ClusterSpec:
    """`resolve_in` with a reading of its own."""
    return await s.store.read(lambda r: resolve_in(s, r, scope, compute, require_workspace(r, scope)))


def resolve_in(s: Services, read: Read, scope: Scope, compute: str, workspace: Resource) -> ClusterSpec:
    """`compute`: an ARM id, a name or `azureml:name`; "local" is this host.

    Raises NotFound naming the computes that exist, Conflict for one that is being deleted.
    """
    name = name_of(scope, compute)
    if name.casefold() == LOCAL:
        return local_cluster(s, workspace)
    spec = cluster_of(s, find(read, scope, name, besides=(LOCAL,)))
    if spec is None:
        raise InvalidRequest(
            f"Compute {name!r} has a VM size that the catalogue does not know any more. Create another."
        )
    if spec.deleting:
        raise Conflict(f"Compute {name!r} is being deleted. Use another.", "ComputeDeleting", name)
    return spec


def bill_of(read: Read, compute_uid: str) -> tuple[Scope, bytes, str]:
    """The workspace that pays for a compute's nodes, the tags that go on their bill, and the region."""
    uid = compute_uid.removeprefix(f"{LOCAL}:")
    row = read.by_uid(uid)
    if row is None:
        return Scope(""), b"{}", ""
    if row.key.type in (TYPE, IMPLICIT):
        return row.key.scope, row.tags, row.location
    group = row.key.scope
    return Scope(group.subscription, group.group, row.key.name), b"{}", row.location


def is_there(read: Read, compute_uid: str) -> bool:
    """False when it goes or is gone."""
    row = read.by_uid(compute_uid.removeprefix(f"{LOCAL}:"))
    return row is not None and row.state != DELETING


def check_there(read: Read, compute_uid: str, name: str) -> None:
    """In the commit that puts a job on it: raises Conflict when it goes or is gone since it was found."""
    if not is_there(read, compute_uid):
        raise Conflict(f"Compute {name!r} is being deleted. Use another.", "ComputeDeleting", name)


async def resolve_uid(s: Services, compute_uid: str) -> ClusterSpec | None:
    """What a job's plan points at, also when it has no row. None: it is gone."""

    def look(read: Read) -> Resource | None:
        if compute_uid.startswith(f"{LOCAL}:"):
            return read.by_uid(compute_uid.split(":", 1)[1])
        return read.by_uid(compute_uid)

    row = await s.store.read(look)
    if row is None:
        return None
    return cluster_of(s, row) if row.key.type in (TYPE, IMPLICIT) else local_cluster(s, row)


def cluster_of(s: Services, row: Resource) -> ClusterSpec | None:
    """What the scheduler knows of a compute's row, also of one that is in no list (`implicit_computes`).
    None: its size is not in the catalogue."""
    spec = decode_object(row.spec)
    inner = spec["properties"]
    size = s.sizes.get(str(inner["vmSize"]))
    if size is None:
        return None
    scale = read_scale(row.key.name, inner["scaleSettings"])
    return ClusterSpec(
        uid=row.uid,
        name=spec["label"] if row.key.type == IMPLICIT else row.key.name,
        workspace=row.key.scope,
        size=size.name,
        node=size.vector,
        min_nodes=scale.minimum,
        max_nodes=scale.maximum,
        idle_us=scale.idle_us,
        deleting=row.state == DELETING,
        region=row.location,
        family=size.family,
        purpose=spec["purpose"] if row.key.type == IMPLICIT else "",
    )


def local_uid(workspace: Resource) -> str:
    return f"{LOCAL}:{workspace.uid}"


def local_cluster(s: Services, workspace: Resource) -> ClusterSpec:
    """The compute that every workspace has: this host, at most one node per core."""
    size = s.sizes.require(HOST)
    group = workspace.key.scope
    return ClusterSpec(
        uid=local_uid(workspace),
        name=LOCAL,
        workspace=Scope(group.subscription, group.group, workspace.key.name),
        size=size.name,
        node=size.vector,
        min_nodes=0,
        max_nodes=max(1, size.vcpus),
        idle_us=round(DEFAULT_IDLE_S * SECOND),
        deleting=workspace.state == DELETING,
        region=workspace.location,
    )


def name_of(scope: Scope, compute: str) -> str:
    """Of an ARM id, a name or `azureml:name`. Raises InvalidRequest for an id of something else."""
    text = compute.strip().removeprefix("azureml:")
    if not text.startswith("/"):
        return text
    parsed = parse_workspace_id(text)
    if parsed is None or len(parsed[1]) != 2 or parsed[1][0].casefold() != TYPE:
        raise InvalidRequest(
            f"computeId {compute!r} is not the id of a compute.", target="properties.computeId"
        )
    if parsed[0].arm_id.casefold() != scope.arm_id.casefold():
        raise InvalidRequest(
            f"computeId {compute!r} is in another workspace ({parsed[0].workspace!r}); "
            f"a job runs on a compute of its own ({scope.workspace!r}).",
            "CrossWorkspace",
            "properties.computeId",
        )
    return parsed[1][1]


def _job_on(read: Read, node: Node) -> str:
    if not node.attempt_id or node.state is not NodeState.RUNNING:
        return ""
    attempt = read.attempt(node.attempt_id)
    job = read.by_uid(attempt.job_uid) if attempt is not None else None
    return job.key.name if job is not None else ""
