"""What the pool controller reads before its first decision, and what it writes of jobs that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidemill.app.computes import computes, implicit_computes
from tidemill.app.jobs import kept_nodes, notices, transitions
from tidemill.app.jobs.transitions import Moment
from tidemill.app.rows.codec import job_status
from tidemill.app.serving import parked
from tidemill.domain.model import Attempt, JobState, Node, NodeState, Resource
from tidemill.domain.plan import JobError
from tidemill.domain.scheduling import types as sched
from tidemill.domain.scheduling.sentences import NODES_OPENING
from tidemill.store.api import Read, ResourceQuery, Tx

WAITING = (JobState.QUEUED, JobState.PROVISIONING)


def note_wait(tx: Tx, decision: sched.Wait, now: int) -> None:
    row = tx.by_uid(decision.job_uid)
    if row is None or row.state not in WAITING:
        return
    state = JobState.PROVISIONING if decision.code == NODES_OPENING else JobState.QUEUED
    if row.state != state:
        tx.update(replace(row, state=state, modified_at=now))
    tx.add_event(transitions.job_event(row, now, decision.code, decision.sentence))


def end_job(tx: Tx, decision: sched.EndJob, when: Moment) -> None:
    now = when.at
    row = tx.by_uid(decision.job_uid)
    if row is None:
        return
    if JobState(row.state).final:
        kept_nodes.release(tx, row, when.at, when.mono, decision.sentence)
        return
    status = job_status(row.status)
    if decision.running or status.instance is not None:
        for attempt in tx.attempts_of(row.uid):
            transitions.stopping(tx, attempt.id, now, "cancel")
    if decision.running:
        return
    progress = replace(
        status.progress,
        ended_at=now,
        error=JobError(decision.code, decision.sentence),
    )
    tx.update(transitions.with_progress(row, status, JobState.CANCELED, now, progress))
    notices.post(tx, row, status.plan, progress, JobState.CANCELED, status.kind)
    if status.plan.serverless:
        implicit_computes.remove(tx, row, now)
    tx.add_event(transitions.job_event(row, now, decision.code, decision.sentence))


@dataclass(frozen=True, slots=True)
class Found:
    """What the scheduler begins from."""

    clusters: Sequence[Resource]
    nodes: Sequence[Node]
    waiting: Sequence[Resource]
    preparing: Sequence[Resource]
    running: Sequence[tuple[Resource, Attempt]]
    kept: Sequence[tuple[Resource, Attempt]]  # failed jobs with nodes that stay for a look


def look(read: Read) -> Found:
    running: list[tuple[Resource, Attempt]] = []
    held: list[tuple[Resource, Attempt]] = []
    for attempt in read.live_attempts():
        row = read.by_uid(attempt.job_uid)
        if row is not None and row.state not in WAITING and not parked.is_parked(row):
            running.append((row, attempt))
    for row in kept_nodes.all_kept(read):
        kept = kept_nodes.of(row)
        attempt = read.attempt(kept.attempt) if kept is not None else None
        if attempt is not None:
            held.append((row, attempt))
    return Found(
        clusters=[
            *read.find(ResourceQuery(computes.TYPE, ascending=True)),
            *read.find(ResourceQuery(implicit_computes.TYPE, ascending=True)),
        ],
        nodes=[node for node in read.live_nodes() if node.state is not NodeState.PARKED],
        waiting=read.find(ResourceQuery("jobs", states=WAITING, ascending=True)),
        preparing=read.find(ResourceQuery("jobs", states=(JobState.PREPARING,))),
        running=running,
        kept=held,
    )
