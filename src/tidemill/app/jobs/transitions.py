"""The transitions of attempts and their jobs, each one unit of work: row, event and ledger in one commit.

All are safe to run twice: they look at the row first and do nothing when it has moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.assets.output_assets import register_outputs
from tidemill.app.computes import implicit_computes
from tidemill.app.jobs import notices
from tidemill.app.rows.codec import encode, job_status
from tidemill.domain.model import (
    Attempt,
    AttemptState,
    Event,
    Interval,
    JobState,
    Node,
    NodeState,
    Outcome,
    Resource,
)
from tidemill.domain.outcome import AttemptEnd
from tidemill.domain.plan import JobError, JobProgress, JobStatus, KeptNodes
from tidemill.domain.states import Accept, Retry, State, after_attempt, propose
from tidemill.domain.units import SECOND, human_duration, join_words
from tidemill.store.api import Read, Tx


@dataclass(frozen=True, slots=True)
class Moment:
    """One reading of both clocks."""

    at: int
    mono: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What was stored after an attempt: log files with their sizes, and asset rows to register."""

    logs: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""  # outputs could not be stored: the job fails with this


class IllegalMove(RuntimeError):
    """A transition that domain.states refuses: a fault of ours, never of a user."""


def moved(current: State, target: State) -> State:
    """`target`, if the rules of domain.states let `current` become it. Raises IllegalMove."""
    verdict = propose(current, target)
    if not isinstance(verdict, Accept):
        raise IllegalMove(verdict.reason)
    return target


def attempt_in(attempt: Attempt, state: AttemptState, **changes: Any) -> Attempt:
    """The attempt in `state`, with other changes. Raises IllegalMove."""
    moved(attempt.state, state)
    return replace(attempt, state=state, **changes)


def node_in(node: Node, state: NodeState, **changes: Any) -> Node:
    """The node in `state`, with other changes. Raises IllegalMove."""
    moved(node.state, state)
    return replace(node, state=state, **changes)


def with_progress(
    row: Resource, status: JobStatus, state: JobState, now: int, progress: JobProgress
) -> Resource:
    """The job's row in `state`. Raises IllegalMove."""
    moved(JobState(row.state), state)
    return replace(row, state=state, status=encode(replace(status, progress=progress)), modified_at=now)


def job_event(row: Resource, at: int, code: str, message: str, actor: str = "system") -> Event:
    return Event(row.uid, "job", at, code, message, actor)


def assign(
    tx: Tx,
    job_uid: str,
    nodes: Sequence[str],
    gpu_ids: Sequence[Sequence[str]],
    when: Moment,
    region_of: Callable[[str], str],
    message: str,
) -> tuple[Attempt, Resource] | None:
    """Gives a waiting job its nodes: attempt, allocations, states -> the attempt and the job's row.
    `region_of` says, of a compute's uid, whose prices hold.
    None if the job or a node has moved on. A service that was woken goes on where it is."""
    row = tx.by_uid(job_uid)
    if row is None or row.state not in (JobState.QUEUED, JobState.PROVISIONING):
        return None
    held = [tx.node(node) for node in nodes]
    if any(node is None or node.state is not NodeState.IDLE for node in held):
        return None
    status = job_status(row.status)
    if status.instance is not None:
        there = next((a for a in tx.attempts_of(job_uid) if a.ended_at is None), None)
        if there is not None:
            return _go_on(tx, row, there, nodes, when, region_of, message)
    number = status.progress.attempt + 1
    attempt = Attempt(
        id=f"{job_uid}.{number}",
        job_uid=job_uid,
        number=number,
        compute_uid=status.plan.compute_uid,
        nodes=tuple(nodes),
        gpu_ids=tuple(tuple(ids) for ids in gpu_ids),
        created_at=when.at,
    )
    tx.insert_attempt(attempt)
    for node in held:
        assert node is not None
        tx.update_node(node_in(node, NodeState.RUNNING, attempt_id=attempt.id, idle_since=None))
        tx.open_interval(allocation(attempt, node, row, when, region_of(node.compute_uid)))
    progress = replace(status.progress, attempt=number)
    row = tx.update(with_progress(row, status, JobState.STARTING, when.at, progress))
    tx.add_event(job_event(row, when.at, "Assigned", message))
    return attempt, row


def _go_on(
    tx: Tx,
    row: Resource,
    attempt: Attempt,
    nodes: Sequence[str],
    when: Moment,
    region_of: Callable[[str], str],
    message: str,
) -> tuple[Attempt, Resource] | None:
    """What was parked has its node again: the attempt goes on, and the bill with it."""
    if attempt.nodes != tuple(nodes):
        return None
    for node_id in nodes:
        node = tx.node(node_id)
        assert node is not None
        tx.update_node(node_in(node, NodeState.RUNNING, attempt_id=attempt.id, idle_since=None))
        held = allocation(attempt, node, row, when, region_of(node.compute_uid))
        tx.open_interval(replace(held, id=f"{held.id}:{when.at}"))
    moved(moved(JobState(row.state), JobState.STARTING), JobState.RUNNING)
    row = tx.update(replace(row, state=JobState.RUNNING, modified_at=when.at))
    tx.add_event(job_event(row, when.at, "Assigned", message))
    return attempt, row


def allocation(attempt: Attempt, node: Node, row: Resource, when: Moment, region: str) -> Interval:
    return Interval(
        id=f"{attempt.id}:{node.id}",
        kind="allocation",
        node_id=node.id,
        compute_uid=node.compute_uid,
        workspace=row.key.scope,
        size=node.size,
        tier=node.tier,
        region=region,
        started_at=when.at,
        started_mono=when.mono,
        boot_id=when.boot_id,
        last_seen_at=when.at,
        job_uid=row.uid,
        tags=row.tags,
    )


def running(tx: Tx, attempt_id: str, started_at: int, notes: Sequence[str]) -> None:
    """The first process has started."""
    attempt = tx.attempt(attempt_id)
    if attempt is None or attempt.state not in (
        AttemptState.ASSIGNED,
        AttemptState.STAGING,
        AttemptState.STARTING,
    ):
        return
    tx.update_attempt(attempt_in(attempt, AttemptState.RUNNING, started_at=started_at))
    row = tx.by_uid(attempt.job_uid)
    if row is None:
        return
    status = job_status(row.status)
    _started_events(tx, row, attempt, started_at, notes)
    if row.state == JobState.STARTING:
        progress = replace(status.progress, started_at=status.progress.started_at or started_at)
        tx.update(with_progress(row, status, JobState.RUNNING, started_at, progress))


def _started_events(tx: Tx, row: Resource, attempt: Attempt, at: int, notes: Sequence[str]) -> None:
    for note in notes:
        tx.add_event(job_event(row, at, "Note", note))
    where = ", ".join(attempt.nodes)
    again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
    tx.add_event(job_event(row, at, "Started", f"Started on {where}{again}."))


def stopping(tx: Tx, attempt_id: str, now: int, reason: str) -> None:
    """Marks a live attempt to be stopped; the attempts controller does it."""
    attempt = tx.attempt(attempt_id)
    if attempt is None or attempt.state is AttemptState.ENDED or attempt.stop_requested_at is not None:
        return
    # What has ended already is not stopped any more: its results are being stored.
    state = attempt.state if attempt.state is AttemptState.COLLECTING else AttemptState.STOPPING
    tx.update_attempt(attempt_in(attempt, state, stop_requested_at=now, stop_reason=reason))


def collecting(
    tx: Tx, attempt_id: str, now: int, message: str, started_at: int | None, notes: Sequence[str] = ()
) -> None:
    """Everything of it has ended, and its results are to be stored. `started_at` and `notes`: of its start,
    if that is not recorded yet."""
    attempt = tx.attempt(attempt_id)
    if attempt is None or attempt.state in (AttemptState.COLLECTING, AttemptState.ENDED):
        return
    began = attempt.started_at or started_at
    tx.update_attempt(attempt_in(attempt, AttemptState.COLLECTING, started_at=began))
    row = tx.by_uid(attempt.job_uid)
    if row is None:
        return
    if attempt.started_at is None and began is not None:
        _started_events(tx, row, attempt, began, notes)
    if row.state in (JobState.STARTING, JobState.RUNNING):
        status = job_status(row.status)
        progress = replace(status.progress, started_at=status.progress.started_at or began)
        tx.update(with_progress(row, status, JobState.FINALIZING, now, progress))
    tx.add_event(job_event(row, now, "Finalizing", message))


def end(
    tx: Tx,
    attempt_id: str,
    when: Moment,
    result: AttemptEnd,
    started_at: int | None,
    collected: Collected,
    notes: Sequence[str] = (),
    heard_at: int = 0,
) -> JobState | None:
    """Ends an attempt, frees its nodes, closes its allocations, and ends or requeues its job. `heard_at`:
    now, where that is later: the time for a look at kept nodes begins then.

    -> the job's new state; None if there was nothing to do.
    """
    attempt = tx.attempt(attempt_id)
    if attempt is None or attempt.state is AttemptState.ENDED:
        return None
    row = tx.by_uid(attempt.job_uid)
    if row is not None and attempt.started_at is None and started_at is not None:
        _started_events(tx, row, attempt, started_at, notes)
    tx.update_attempt(
        attempt_in(
            attempt,
            AttemptState.ENDED,
            outcome=result.outcome,
            exit_code=result.exit_code,
            signal=result.signal,
            reason=result.code,
            message=result.message,
            started_at=attempt.started_at or started_at,
            ended_at=when.at,
        )
    )
    state, kept = None, None
    if row is not None and not JobState(row.state).final:
        state, kept = _end_job(tx, row, attempt, when.at, result, started_at, collected, heard_at)
    for node_id in attempt.nodes:
        for allotted in _allotted(tx, row, attempt, node_id):
            tx.close_interval(allotted, when.at, when.mono, result.outcome.value)
        _leave_parked(tx, attempt, node_id, when.at)
        if kept is not None and node_id in kept.nodes:
            _hold_on(tx, attempt, node_id, when)
        elif (node := _runs(tx, attempt, node_id)) is not None:
            tx.update_node(node_in(node, NodeState.IDLE, attempt_id="", idle_since=when.at))
    return state


def _allotted(read: Read, row: Resource | None, attempt: Attempt, node_id: str) -> list[str]:
    """Of the ledger's rows for a node, those that may be open: a service that was woken has others."""
    first = f"{attempt.id}:{node_id}"
    if row is None or not row.parent_uid:
        return [first]
    held = read.intervals(job_uid=row.uid, node_id=node_id, kind="allocation", open_only=True)
    return [one.id for one in held]


def _leave_parked(tx: Tx, attempt: Attempt, node_id: str, now: int) -> None:
    """Nobody would open it again."""
    node = tx.node(node_id)
    if node is not None and node.attempt_id == attempt.id and node.state is NodeState.PARKED:
        message = "What stood still here has ended."
        tx.update_node(node_in(node, NodeState.CLOSING, reason=message))
        tx.add_event(Event(node.id, "node", now, "NodeClosing", message))


def _runs(read: Read, attempt: Attempt, node_id: str) -> Node | None:
    """The node, while it is the attempt's."""
    node = read.node(node_id)
    mine = node is not None and node.attempt_id == attempt.id and node.state is NodeState.RUNNING
    return node if mine else None


def kept_id(attempt_id: str, node_id: str) -> str:
    """Of the ledger's row for a node that stays after its job has failed."""
    return f"{attempt_id}:{node_id}:kept"


def _hold_on(tx: Tx, attempt: Attempt, node_id: str, when: Moment) -> None:
    """The node stays the job's, and is paid for as such."""
    held = next(i for i in tx.intervals(node_id=node_id, kind="allocation") if i.job_uid == attempt.job_uid)
    again = replace(
        held,
        id=kept_id(attempt.id, node_id),
        started_at=when.at,
        started_mono=when.mono,
        boot_id=when.boot_id,
        last_seen_at=when.at,
        ended_at=None,
        ended_mono=None,
        end_reason="",
    )
    tx.open_interval(again)


def _end_job(
    tx: Tx,
    row: Resource,
    attempt: Attempt,
    now: int,
    result: AttemptEnd,
    started_at: int | None,
    collected: Collected,
    heard_at: int,
) -> tuple[JobState, KeptNodes | None]:
    """-> the job's new state, and the nodes that stay."""
    status = job_status(row.status)
    progress = status.progress
    if result.outcome is Outcome.SYSTEM_FAILURE:
        progress = replace(progress, system_failures=progress.system_failures + 1)
    if result.outcome is Outcome.PREEMPTED:
        progress = replace(progress, preemptions=progress.preemptions + 1)
    parked = status.instance is not None and status.instance.parked_at is not None
    cancelled = row.state == JobState.CANCEL_REQUESTED or parked
    outcome = Outcome.CANCELED if cancelled else result.outcome
    code, message = result.code, result.message
    if outcome is not result.outcome:  # it ended by itself before the stop reached it
        code, message = "Canceled", f"Ended while parked: {result.message}" if parked else "Canceled."
    verdict = after_attempt(outcome, progress.system_failures, code, message, progress.preemptions)
    for note in collected.notes:
        tx.add_event(job_event(row, now, "Note", note))
    if isinstance(verdict, Retry):
        tx.add_event(job_event(row, now, result.code, verdict.message))
        tx.update(with_progress(row, status, JobState.QUEUED, now, progress))
        return JobState.QUEUED, None
    state, code, message = verdict.state, verdict.code, verdict.message
    if state is JobState.COMPLETED and collected.error:
        state, code, message = JobState.FAILED, "OutputsNotStored", collected.error
    error = None if state is JobState.COMPLETED else JobError(code, message)
    # Either the job is Completed and its assets exist, or neither.
    named = status.plan.outputs if state is JobState.COMPLETED else ()
    progress = replace(
        progress,
        started_at=progress.started_at or attempt.started_at or started_at,
        ended_at=now,
        exit_code=result.exit_code,
        error=error,
        logs=collected.logs,
        registered=register_outputs(tx, row, named, now),
    )
    tx.add_event(job_event(row, now, state.value, message.split("\n", 1)[0]))
    keep_s = status.plan.job.keep_s if state is JobState.FAILED else 0
    kept = _to_keep(tx, attempt, now, max(now, heard_at) + keep_s * SECOND) if keep_s else None
    if kept is not None:
        tx.add_event(job_event(row, now, "NodesKept", _kept_sentence(row, kept)))
        row = replace(row, next_at=kept.until)
    tx.update(with_progress(row, status, state, now, replace(progress, kept=kept)))
    notices.post(tx, row, status.plan, progress, state, status.kind)
    if status.plan.serverless and kept is None:
        implicit_computes.remove(tx, row, now)
    return state, kept


def _to_keep(read: Read, attempt: Attempt, now: int, until: int) -> KeptNodes | None:
    nodes = tuple(node_id for node_id in attempt.nodes if _runs(read, attempt, node_id) is not None)
    return KeptNodes(attempt.id, nodes, now, until) if nodes else None


def _kept_sentence(row: Resource, kept: KeptNodes) -> str:
    what = f"Node {kept.nodes[0]} stays" if len(kept.nodes) == 1 else f"Nodes {join_words(kept.nodes)} stay"
    name = row.key.name
    return (
        f"{what} for {human_duration(kept.until - kept.since)} with the job's files, at the same price. "
        f"A look: tidemill ssh {name}. To end it: tidemill job release --name {name}."
    )


def close_intervals(tx: Tx, node_id: str, when: Moment, reason: str, observed: bool) -> None:
    """The node's and those of what it runs, all at once: at its close where that was observed, else when it
    was last known to be there: at its last heartbeat, or at the end of what ran on it."""
    known = tx.intervals(node_id=node_id)
    held = [interval for interval in known if interval.ended_at is None]
    seen = max((interval.ended_at or interval.last_seen_at for interval in known), default=when.at)
    at, mono = (when.at, when.mono) if observed else (seen, None)
    for interval in held:
        tx.close_interval(interval.id, at, mono, reason)
