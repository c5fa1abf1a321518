"""Nodes that stay for a look when their job has failed (`tidemill.keep_on_failure`), and how that ends.

While they do, the job's row names them (`progress.kept`) and has `next_at`, their end; the nodes' rows are
RUNNING with the ended attempt, so that nobody else gets them; the scheduler counts the job as one that holds
them, and the ledger has a row for each (`transitions.kept_id`). The job itself is Failed, and final.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.computes import implicit_computes
from tidemill.app.jobs import costs, transitions
from tidemill.app.jobs.jobs import get, key_of
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import Conflict, NotFound
from tidemill.domain.model import Attempt, Caller, JobState, Node, NodeState, Resource, Scope
from tidemill.domain.plan import KeptNodes
from tidemill.domain.units import human_duration
from tidemill.store.api import Read, Tx

FAR = 2**62
RELEASED = "NodesReleased"


def of(row: Resource | None) -> KeptNodes | None:
    """What it keeps now."""
    if row is None or row.next_at is None or not JobState(row.state).final:
        return None
    return job_status(row.status).progress.kept


def all_kept(read: Read) -> list[Resource]:
    """Jobs that keep nodes, the first to end first."""
    return [row for row in read.due("jobs", FAR, 1_000_000) if of(row) is not None]


def release(tx: Tx, row: Resource, at: int, mono: int, why: str, actor: str = "system") -> Resource:
    """Their end; nothing where it keeps none. `why`: a sentence."""
    kept = of(row)
    if kept is None:
        return row
    for node_id in kept.nodes:
        tx.close_interval(transitions.kept_id(kept.attempt, node_id), at, mono, RELEASED)
        node = tx.node(node_id)
        if node is not None and node.attempt_id == kept.attempt and node.state is NodeState.RUNNING:
            tx.update_node(transitions.node_in(node, NodeState.IDLE, attempt_id="", idle_since=at))
    status = job_status(row.status)
    if status.plan.serverless:
        implicit_computes.remove(tx, row, at)
    message = f"{why} Its nodes were kept for {human_duration(at - kept.since)}."
    tx.add_event(transitions.job_event(row, at, RELEASED, message, actor))
    freed = encode(replace(status, progress=replace(status.progress, kept=None)))
    return tx.update(replace(row, status=freed, next_at=None, modified_at=at))


async def release_now(s: Services, caller: Caller, scope: Scope, name: str) -> Resource:
    """Before their time. Raises NotFound, Conflict where the job keeps none."""
    at, mono = s.clock.now(), s.clock.boottime()

    def change(tx: Tx) -> Resource:
        row = tx.get(key_of(scope, name))
        if row is None:
            raise NotFound(f"Job {name!r} was not found in workspace {scope.workspace!r}.", target=name)
        if of(row) is None:
            raise Conflict(f"Job {name!r} ({row.state}) keeps no nodes: there is nothing to release.")
        return release(tx, row, at, mono, f"Released by {caller.name}.", caller.name)

    return await s.store.write(change)


def node_gone(tx: Tx, node: Node, at: int, mono: int) -> None:
    """A node that was lost or closed has nothing to look at; without any other, neither has its job."""
    attempt = tx.attempt(node.attempt_id) if node.attempt_id else None
    row = tx.by_uid(attempt.job_uid) if attempt is not None and attempt.ended_at is not None else None
    kept = of(row)
    if row is None or kept is None or kept.attempt != node.attempt_id:
        return
    others = (tx.node(node_id) for node_id in kept.nodes if node_id != node.id)
    if not any(one is not None and one.attempt_id == kept.attempt for one in others):
        release(tx, row, at, mono, f"Node {node.id} is gone.")


async def live(s: Services, scope: Scope, name: str) -> tuple[Resource, KeptNodes | None, Attempt | None]:
    """(the job, what it keeps, the attempt whose files are there). Raises NotFound."""
    row = await get(s, scope, name)
    kept = of(row)
    if kept is None:
        return row, None, None
    return row, kept, await s.store.read(lambda r: r.attempt(kept.attempt))


async def shown(s: Services, row: Resource) -> dict[str, Any] | None:
    """`{nodes, since, until, seconds_left, usd, usd_hour}` of what it keeps; the money is of the time since
    it failed, None for a size without a price."""
    kept = of(row)
    if kept is None:
        return None
    ids = {transitions.kept_id(kept.attempt, node_id) for node_id in kept.nodes}
    held = await s.store.read(lambda r: [i for i in r.intervals(job_uid=row.uid) if i.id in ids])
    usd, usd_hour = costs.of_intervals(s, held)
    return {
        "nodes": list(kept.nodes),
        "since": iso(kept.since),
        "until": iso(kept.until),
        "seconds_left": max(kept.until - s.clock.now(), 0) / 1e6,
        "usd": usd,
        "usd_hour": usd_hour,
    }


def next_steps(name: str, shown: dict[str, Any]) -> Sequence[str]:
    left = human_duration(round(shown["seconds_left"]) * 1_000_000)
    return (
        f"Its nodes stay for {left} more: tidemill ssh {name}",
        f"Release them: tidemill job release --name {name}",
    )
