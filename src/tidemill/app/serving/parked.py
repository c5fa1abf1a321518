"""Instances that stand still while their deployment sleeps: the first request need not wait for imports.

One that is parked keeps its processes and their memory, in the sandbox, the user and the network that it has,
but no node in the books: the node's row is PARKED, which the scheduler, quotas and the ledger do not count.
The job's row stays Running, with `instance.parked_at`. A woken one waits for a node like any other, by the
same rules, and is given its own: `controllers/pool.py` opens that one again in place of a new one.
"""

from __future__ import annotations

from dataclasses import replace

from tidemill.app.jobs.transitions import Moment, close_intervals, job_event, node_in, with_progress
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.serving.instances import stop
from tidemill.domain.model import Event, JobState, Node, NodeState, Resource
from tidemill.store.api import Read, Tx


def is_parked(row: Resource) -> bool:
    """An instance that stands still. Of any job's row."""
    return parked_at(row) is not None


def parked_at(row: Resource) -> int | None:
    if not row.parent_uid or row.state != JobState.RUNNING:
        return None
    instance = job_status(row.status).instance
    return None if instance is None else instance.parked_at


def node_of(read: Read, row: Resource) -> Node | None:
    """Where its processes are."""
    for attempt in read.attempts_of(row.uid):
        if attempt.ended_at is None:
            node = read.node(attempt.nodes[0])
            return node if node is not None and node.attempt_id == attempt.id else None
    return None


def park(tx: Tx, row: Resource, why: str, when: Moment) -> None:
    """Its node is given back, and the bill ends; its processes stay where they are, and are to stand still.
    One whose node is not as it should be is stopped."""
    status = job_status(row.status)
    node = node_of(tx, row)
    gone = node is None or node.state is not NodeState.RUNNING
    if node is None or gone or status.instance is None or row.state != JobState.RUNNING:
        return stop(tx, row, "it cannot be parked: its node goes", when.at)
    tx.update_node(node_in(node, NodeState.PARKED, reason="What it runs stands still."))
    close_intervals(tx, node.id, when, "Parked", observed=True)
    text = f"Instance {row.key.name} stands still: the node is given back, and nothing is paid for it."
    tx.add_event(Event(node.id, "node", when.at, "NodeParked", text))
    tx.add_event(job_event(row, when.at, "InstanceParked", f"It stands still: {why}."))
    instance = replace(status.instance, parked_at=when.at, woken_at=None, ready=False)
    tx.update(replace(row, status=encode(replace(status, instance=instance)), modified_at=when.at))


def wake(tx: Tx, row: Resource, why: str, now: int) -> None:
    """It waits for a node as a new one would, by the same rules; it gets its own."""
    status = job_status(row.status)
    if not is_parked(row) or status.instance is None:
        return
    tx.add_event(job_event(row, now, "InstanceWoken", f"It goes on: {why}."))
    instance = replace(status.instance, parked_at=None, woken_at=now, draining_at=None, started_at=now)
    status = replace(status, instance=instance)
    tx.update(with_progress(row, status, JobState.QUEUED, now, status.progress))


def awaited(read: Read, compute_uid: str) -> Node | None:
    """The parked node of that compute whose instance was woken, and waits for it."""
    parked = [node for node in read.nodes_of(compute_uid) if node.state is NodeState.PARKED]
    for node, row in ((node, job_on(read, node)) for node in parked):
        if row is not None and row.state in (JobState.QUEUED, JobState.PROVISIONING):
            return node
    return None


def job_on(read: Read, node: Node) -> Resource | None:
    """The instance whose processes are there, unless they have ended."""
    attempt = read.attempt(node.attempt_id) if node.attempt_id else None
    return read.by_uid(attempt.job_uid) if attempt is not None and attempt.ended_at is None else None
