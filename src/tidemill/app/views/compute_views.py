"""Computes as people read them: ComputeSummary and NodeView of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.app.computes import computes, implicit_computes, isolation
from tidemill.app.jobs import costs
from tidemill.app.people.access import Part
from tidemill.app.rows.batch_rows import DEPLOYMENTS, spec_of
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.app.views import job_views
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.domain.isolation import level_of, reached, strictest
from tidemill.domain.model import JobState, Node, NodeState, Scope
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.domain.serving.batch import pipeline_settings
from tidemill.domain.units import human_duration
from tidemill.store.api import Read, ResourceQuery

_FINAL = tuple(state.value for state in JobState if state.final)
_WAITING = (JobState.QUEUED.value, JobState.PREPARING.value, JobState.PROVISIONING.value)


async def summaries(s: Services, scope: Scope, part: Part | None = None) -> list[dict[str, Any]]:
    """Every compute of a workspace, or of a part of it; the implicit one ("local") only once it has nodes or
    jobs."""

    def look(read: Read) -> list[tuple[ClusterSpec, str]]:
        granted = None if part is None else part.granted
        rows = read.find(ResourceQuery(computes.TYPE, scope, ascending=True, granted=granted))
        specs = [(spec, row.state) for row in rows if (spec := computes.cluster_of(s, row)) is not None]
        if part is not None:
            return specs
        local = computes.local_cluster(s, require_workspace(read, scope))
        if read.nodes_of(local.uid) or read.count(ResourceQuery("jobs", ref=local.uid)):
            specs.append((local, "Succeeded"))
        return specs

    found = await s.store.read(look)
    return [await _summary(s, spec, state) for spec, state in found]


async def detail(s: Services, scope: Scope, name: str) -> dict[str, Any]:
    """ComputeSummary with nodes, time line, queue and the batch deployments that name it. Raises NotFound."""
    spec, state = await _find(s, scope, name)
    body = await _summary(s, spec, state)
    nodes, events, queue = await s.store.read(
        lambda r: (
            r.nodes_of(spec.uid),
            r.events(spec.uid),
            r.find(ResourceQuery("jobs", ref=spec.uid, exclude_states=_FINAL, ascending=True, limit=100)),
        )
    )
    body["deployments"] = await s.store.read(lambda r: _deployments(r, scope, spec.name))
    _, tags, _ = await s.store.read(lambda r: computes.bill_of(r, spec.uid))
    required = strictest(s.settings.require_isolation, level_of(decode_object(tags), "tags"))
    body["required_isolation"] = required
    body["nodes_list"] = [await _node(s, node) for node in nodes]
    first = events[0].at if events else s.clock.now()
    body["timeline"] = [job_views.timeline_entry(event, first) for event in events[-50:]]
    body["queue"] = [
        {"name": row.key.name, "state": row.state, "why": job_views.waiting_sentence(s, row)} for row in queue
    ]
    return body


def _deployments(read: Read, scope: Scope, compute: str) -> list[str]:
    """ENDPOINT/DEPLOYMENT of the batch deployments whose jobs would run there."""
    found: list[str] = []
    for row in read.find(ResourceQuery(DEPLOYMENTS, scope, ascending=True)):
        spec = spec_of(row)
        named = spec.compute or str(pipeline_settings(spec).get("default_compute") or "")
        if computes.name_of(scope, named).casefold() == compute.casefold():
            found.append(f"{row.key.parent}/{row.key.name}")
    return found


async def nodes_of(s: Services, scope: Scope) -> list[dict[str, Any]]:
    """The open nodes of a workspace, those for one purpose last: NodeView with its `compute` and what it is
    for alone (`for_one`)."""
    found: list[dict[str, Any]] = []
    for compute in await summaries(s, scope):
        spec, _ = await _find(s, scope, compute["name"])
        nodes = await s.store.read(lambda r, uid=spec.uid: r.nodes_of(uid))
        found += [{**await _node(s, node), "compute": spec.name, "for_one": ""} for node in nodes]
    for spec, node in await s.store.read(lambda r: _for_one_purpose(s, r, scope)):
        found.append({**await _node(s, node), "compute": spec.name, "for_one": spec.purpose})
    return found


def _for_one_purpose(s: Services, read: Read, scope: Scope) -> list[tuple[ClusterSpec, Node]]:
    rows = read.find(ResourceQuery(implicit_computes.TYPE, scope, ascending=True))
    specs = (spec for row in rows if (spec := computes.cluster_of(s, row)) is not None)
    return [(spec, node) for spec in specs for node in read.nodes_of(spec.uid)]


async def _find(s: Services, scope: Scope, name: str) -> tuple[ClusterSpec, str]:
    if name.casefold() == computes.LOCAL:
        return await computes.resolve(s, scope, name), "Succeeded"
    row = (await computes.get(s, scope, name)).row
    spec = computes.cluster_of(s, row)
    return spec or await computes.resolve(s, scope, name), row.state


async def _summary(s: Services, spec: ClusterSpec, state: str) -> dict[str, Any]:
    nodes, running, queued = await s.store.read(
        lambda r: (
            r.nodes_of(spec.uid),
            r.count(ResourceQuery("jobs", ref=spec.uid, exclude_states=(*_FINAL, *_WAITING))),
            r.count(ResourceQuery("jobs", ref=spec.uid, states=_WAITING)),
        )
    )
    counts: dict[str, int] = dict.fromkeys(("idle", "running", "opening", "closing", "lost"), 0)
    for node in nodes:
        counts[node.state.value.lower()] += 1
    price = costs.usd_hour(s, spec.size, spec.region)
    return {
        "name": spec.name,
        "type": "amlcompute" if spec.name != computes.LOCAL else "local",
        "size": spec.size,
        "region": spec.region,
        "state": state,
        "min": spec.min_nodes,
        "max": spec.max_nodes,
        "idle_s": spec.idle_us / 1e6,
        "nodes": counts,
        "running_jobs": running,
        "queued_jobs": queued,
        "price_usd_hour": price,
        "run_rate_usd_hour": None if price is None else await costs.compute_run_rate(s, spec.uid),
        "capacity": s.settings.capacity,
        "next_action": _next_action(s, spec, nodes, queued),
    }


def _next_action(s: Services, spec: ClusterSpec, nodes: Sequence[Node], queued: int) -> str:
    """The next thing the autoscaler will do by itself, or ""."""
    if any(node.state is NodeState.OPENING for node in nodes):
        return "opening nodes"
    idle = [node for node in nodes if node.state is NodeState.IDLE and node.idle_since is not None]
    if idle and not queued and len(nodes) > spec.min_nodes:
        visits = s.visits.on([node.id for node in idle])
        visited = {visit.node_id for visit in visits}
        if len(visited) == len(idle):
            return f"closes a node after the shell of {visits[0].caller.name} on {visits[0].node_id}"
        now = s.clock.now()
        first = min(node.idle_since or now for node in idle if node.id not in visited)
        left = first + spec.idle_us - now
        return f"closes an idle node in {human_duration(max(left, 0) // 1_000_000 * 1_000_000)}"
    return ""


async def _node(s: Services, node: Node) -> dict[str, Any]:
    job = ""
    if node.attempt_id:
        row = await s.store.read(lambda r: r.by_uid(node.attempt_id.split(".", 1)[0]))
        job = row.key.name if row else ""
    return {
        "id": node.id,
        "state": node.state,
        "size": node.size,
        "granted": {
            "cpus": node.granted.cpu_milli / 1000,
            "memory_gib": round(node.granted.memory / 2**30, 3),
            "gpus": node.granted.gpus,
        },
        "gpu_ids": list(node.gpu_ids),
        "job": job,
        "visitors": [{"who": v.caller.name, "since": iso(v.since)} for v in s.visits.on((node.id,))],
        "since": iso(node.idle_since or node.ready_at or node.created_at),
        "ready_at": iso(node.ready_at),
        "isolation": reached(isolation.limits_of(node)),
        "limits": decode_object(node.limits),
        "cost_usd": await costs.node_usd(s, node.id),
    }
