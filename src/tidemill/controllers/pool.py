"""The pool controller: feeds the scheduler with what commits changed and carries out what it decides.

One per capacity pool (this host), under one lease per server incarnation (the home's lock). Decisions are
applied in one unit of work per round; what could not be applied is told back to the scheduler (NotDone).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tidemill.app.computes import computes, implicit_computes, quotas
from tidemill.app.computes.compute_rules import SERVERLESS
from tidemill.app.jobs import kept_nodes, transitions
from tidemill.app.jobs.transitions import Moment
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.services import Services
from tidemill.app.serving import parked
from tidemill.app.waiting import wait_set
from tidemill.controllers import pool_rows
from tidemill.controllers.pool_rows import WAITING
from tidemill.domain.model import (
    Attempt,
    Event,
    JobState,
    Node,
    NodeState,
    Resource,
    Vector,
)
from tidemill.domain.quota import Quotas
from tidemill.domain.scheduling import types as sched
from tidemill.domain.scheduling.pool import PoolState
from tidemill.store.access import TOUCHED_PRINCIPAL
from tidemill.store.api import Tx

log = logging.getLogger("tidemill.pool")

COMPUTES = ("resource:computes", f"resource:{implicit_computes.TYPE}")


@dataclass(slots=True)
class Carried:
    """What one round of decisions did."""

    attempts: list[tuple[Attempt, Resource]] = field(default_factory=list)
    opened: list[Node] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    events: list[sched.Event] = field(default_factory=list)  # to apply once the commit is on disk


class Pool:
    def __init__(
        self,
        services: Services,
        moment: Callable[[], Moment],
        host: sched.Host,
        on_attempt: Callable[[Attempt, Resource], None],
        on_open: Callable[[Node], None],
        on_close: Callable[[str], None],
        on_job: Callable[[Resource], None],
        on_stop: Callable[[str], None],
    ) -> None:
        self._s = services
        self._moment = moment
        self._host = host
        self._state = PoolState(host)
        self._on_attempt, self._on_open, self._on_close = on_attempt, on_open, on_close
        self._on_job, self._on_stop = on_job, on_stop
        self._wake = asyncio.Event()
        self._jobs: set[str] = set()
        self._computes: set[str] = set()
        self._nodes: set[str] = set()
        self._known_nodes: dict[str, NodeState] = {}
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._clusters: set[str] = set()
        self._quotas_changed = False
        self._serverless = False  # there have been jobs without a compute, so their own limit counts
        self._stale = True  # what is known here must be read from the rows again
        self._task: asyncio.Task[None] | None = None

    # --- what others tell us -------------------------------------------------------------------

    def touched(self, kind: str, uid: str) -> None:
        if kind == "resource:jobs":
            self._jobs.add(uid)
        elif kind in COMPUTES:
            self._computes.add(uid)
        elif kind == "resource:workspaces" and f"{computes.LOCAL}:{uid}" in self._clusters:
            self._computes.add(f"{computes.LOCAL}:{uid}")
        elif kind == "node":
            self._nodes.add(uid)
        elif kind in ("resource:quotas", TOUCHED_PRINCIPAL):
            self._quotas_changed = True
        else:
            return
        self._wake.set()

    def scheduler(self) -> PoolState:
        """To ask; it is another one after a round that failed."""
        return self._state

    def size_of(self, compute_uid: str) -> Vector | None:
        """The full size of one node of a cluster."""
        cluster = self._state.cluster(compute_uid)
        return cluster.node if cluster else None

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads what is, before the first decision."""
        await self._load()
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="pool")

    async def _load(self) -> None:
        """The scheduler anew, as the rows say. Repeats to the others what they may not have been told."""
        now = self._s.clock.now()
        usages = self._state.usages(now)
        for known in (self._jobs, self._computes, self._nodes, self._waiting, self._running, self._clusters):
            known.clear()
        self._known_nodes.clear()
        self._quotas_changed = False
        found = await self._s.store.read(pool_rows.look)
        self._serverless = any(row.key.type == implicit_computes.TYPE for row in found.clusters)
        self._state = PoolState(self._host, quotas=await self._read_quotas())
        for usage in usages:
            self._state.apply(usage)
        for row in found.clusters:
            self._set_cluster(row, now)
        used = {job_status(row.status).plan.compute_uid for row in found.waiting}
        used |= {attempt.compute_uid for _, attempt in (*found.running, *found.kept)}
        for compute_uid in used | {node.compute_uid for node in found.nodes}:
            await self._ensure_cluster(compute_uid, now)
        for node in found.nodes:
            self._restore_node(node, now)
        for row, attempt in (*found.running, *found.kept):
            self._running.add(row.uid)
            self._state.apply(sched.JobAssigned(self._request(row), attempt.nodes, attempt.created_at))
        for row in found.waiting:
            self._queue(row, now)
        self._stale = False
        self._tell_again(found)

    def _tell_again(self, found: pool_rows.Found) -> None:
        """All of it changes nothing for those who know it."""
        for row, attempt in found.running:
            self._on_attempt(attempt, row)
            if attempt.stop_requested_at is not None:
                self._on_stop(row.uid)
        for node in found.nodes:
            if node.state is NodeState.OPENING:
                self._on_open(node)
            elif node.state is NodeState.CLOSING:
                self._on_close(node.id)
        for row in found.preparing:
            self._on_job(row)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            now = self._s.clock.now()
            due = self._state.next_wakeup(now)
            timeout = None if due is None else max((due - now) / 1e6, 0.0) + 0.001
            await wait_set(self._wake, timeout)
            self._wake.clear()
            try:
                await self._round()
            except asyncio.CancelledError:
                raise
            except Exception:
                # The scheduler takes its decisions as done, and a change that was not taken in is not told
                # again: it begins anew from the rows.
                log.exception("a scheduling round failed; again in 1 s")
                self._stale = True
                await asyncio.sleep(1)
                self._wake.set()

    # --- taking in changes ---------------------------------------------------------------------

    async def _round(self) -> None:
        if self._stale:
            await self._load()
        now = self._s.clock.now()
        computes_changed, self._computes = self._computes, set()
        nodes_changed, self._nodes = self._nodes, set()
        jobs_changed, self._jobs = self._jobs, set()
        rows = await self._s.store.read(
            lambda r: (
                [(uid, r.by_uid(uid)) for uid in computes_changed],
                [(uid, r.node(uid)) for uid in nodes_changed],
                [(uid, r.by_uid(uid)) for uid in jobs_changed],
            )
        )
        for uid, row in rows[0]:
            if uid.startswith(f"{computes.LOCAL}:"):
                self._clusters.discard(uid)
                await self._ensure_cluster(uid, now)
            elif row is not None:
                self._set_cluster(row, now)
            elif uid in self._clusters:
                self._clusters.discard(uid)
                self._state.apply(sched.ClusterRemoved(uid, now))
        if self._quotas_changed:
            self._quotas_changed = False
            self._state.apply(sched.QuotasSet(await self._read_quotas(), now))
        for uid, row in rows[2]:
            await self._job_changed(uid, row, now)
        for uid, node in rows[1]:
            self._node_changed(uid, node, now)
        await self._decide(now)

    async def _job_changed(self, uid: str, row: Resource | None, now: int) -> None:
        waits = row is not None and row.state in WAITING
        ended = row is None or (JobState(row.state).final and kept_nodes.of(row) is None)
        if uid in self._running and (ended or waits or (row is not None and parked.is_parked(row))):
            self._running.discard(uid)
            self._state.apply(sched.JobReleased(uid, now))
        if waits and uid not in self._waiting:
            assert row is not None
            await self._ensure_cluster(job_status(row.status).plan.compute_uid, now)
            self._queue(row, now)
        elif not waits and uid in self._waiting:
            self._waiting.discard(uid)
            self._state.apply(sched.JobGone(uid, now))
        if row is not None:
            self._on_job(row)
            if row.state == JobState.CANCEL_REQUESTED:
                self._on_stop(uid)

    def _queue(self, row: Resource, now: int) -> None:
        self._waiting.add(row.uid)
        self._state.apply(sched.JobQueued(self._request(row), now))

    def _request(self, row: Resource) -> sched.JobRequest:
        plan = job_status(row.status).plan
        estimate = plan.job.timeout_s * 1_000_000 if plan.job.timeout_s else None
        return sched.JobRequest(
            row.uid,
            row.key.name,
            row.key.scope,
            plan.team,
            plan.compute_uid,
            plan.job.node_count,
            plan.job.priority,
            row.created_at,
            estimate,
            plan.user or plan.team,
        )

    def _set_cluster(self, row: Resource, now: int) -> None:
        spec = computes.cluster_of(self._s, row)
        if spec is None:
            return
        self._clusters.add(spec.uid)
        if spec.name == SERVERLESS and not self._serverless:
            self._serverless = self._quotas_changed = True
        self._state.apply(sched.ClusterSet(spec, now))

    async def _read_quotas(self) -> Quotas:
        most = quotas.nodes_of_host(self._host.total, self._host.strict) if self._serverless else 0
        return await self._s.store.read(lambda r: quotas.load(r, most))

    async def _ensure_cluster(self, compute_uid: str, now: int) -> None:
        """The implicit compute of a workspace has no row: it is made known with its first job or node."""
        if compute_uid in self._clusters:
            return
        target = await computes.resolve_uid(self._s, compute_uid)
        if target is not None:
            self._clusters.add(compute_uid)
            self._state.apply(sched.ClusterSet(target, now))

    def _restore_node(self, node: Node, now: int) -> None:
        since = node.idle_since or node.ready_at or node.created_at
        view = sched.NodeView(
            node.id,
            node.compute_uid,
            node.state,
            node.granted,
            node.gpu_ids,
            # A woken one has its attempt already, but the job is not assigned yet.
            "" if node.state in (NodeState.OPENING, NodeState.IDLE) else node.attempt_id.split(".", 1)[0],
            since,
        )
        self._known_nodes[node.id] = node.state
        self._state.apply(sched.NodeOpened(view, now))

    def _node_changed(self, uid: str, node: Node | None, now: int) -> None:
        before = self._known_nodes.get(uid)
        # One that is parked is nobody's room: it comes back as one that opens.
        state = NodeState.CLOSED if node is None or node.state is NodeState.PARKED else node.state
        if before is None:
            return
        if before is state:
            if node is not None and state is NodeState.IDLE and node.idle_since:
                self._state.apply(sched.NodeUsed(uid, node.idle_since))
            return
        if state is NodeState.CLOSED:
            del self._known_nodes[uid]
            self._state.apply(sched.NodeGone(uid, now))
            return
        self._known_nodes[uid] = state
        assert node is not None
        if state is NodeState.IDLE:
            # From RUNNING: the scheduler learns it with its job's release.
            if before is not NodeState.RUNNING:
                self._state.apply(sched.NodeReady(uid, now))
        elif state is NodeState.CLOSING:
            self._state.apply(sched.NodeClosing(uid, now))
        elif state is NodeState.LOST:
            self._state.apply(sched.NodeLost(uid, now))
        elif state is NodeState.RUNNING:
            self._state.apply(sched.NodeBusy(uid, node.attempt_id.split(".", 1)[0], now))

    # --- carrying out decisions ----------------------------------------------------------------

    async def _decide(self, now: int) -> None:
        decisions = self._state.decide(now)
        if not decisions:
            return
        when = self._moment()
        carried = await self._s.store.write(lambda tx: self._carry_out(tx, decisions, when))
        for event in carried.events:
            self._state.apply(event)
        for attempt, row in carried.attempts:
            self._waiting.discard(attempt.job_uid)
            self._running.add(attempt.job_uid)
            for node_id in attempt.nodes:
                self._known_nodes[node_id] = NodeState.RUNNING
            self._on_attempt(attempt, row)
        for node in carried.opened:
            self._known_nodes[node.id] = node.state
            self._on_open(node)
        for job_uid in carried.stopped:
            self._on_stop(job_uid)
        for node_id in carried.closing:
            self._known_nodes[node_id] = NodeState.CLOSING
            self._on_close(node_id)
        if any(isinstance(event, sched.NotDone) for event in carried.events):
            self._wake.set()

    def _carry_out(self, tx: Tx, decisions: Iterable[sched.Decision], when: Moment) -> Carried:
        carried = Carried()
        for decision in decisions:
            match decision:
                case sched.Assign():
                    self._assign(tx, decision, when, carried)
                case sched.OpenNode():
                    self._open(tx, decision, when, carried)
                case sched.CloseNode():
                    self._close(tx, decision, when, carried)
                case sched.Wait():
                    pool_rows.note_wait(tx, decision, when.at)
                case sched.EndJob():
                    pool_rows.end_job(tx, decision, when)
                    carried.stopped.append(decision.job_uid)
        return carried

    def _region_of(self, compute_uid: str) -> str:
        cluster = self._state.cluster(compute_uid)
        return (cluster.region if cluster else "") or self._s.settings.region

    def _assign(self, tx: Tx, decision: sched.Assign, when: Moment, carried: Carried) -> None:
        assigned = transitions.assign(
            tx,
            decision.job_uid,
            decision.node_ids,
            decision.gpu_ids,
            when,
            self._region_of,
            decision.sentence,
        )
        if assigned is None:
            carried.events.append(sched.NotDone(decision, when.at))
            return
        carried.attempts.append(assigned)
        attempt, _ = assigned
        carried.events += [sched.NodeBusy(node_id, attempt.job_uid, when.at) for node_id in attempt.nodes]

    def _open(self, tx: Tx, decision: sched.OpenNode, when: Moment, carried: Carried) -> None:
        cluster = self._state.cluster(decision.cluster_uid)
        if cluster is None or not computes.is_there(tx, cluster.uid):  # it went since that was decided
            carried.events.append(sched.NotDone(decision, when.at))
            return
        woken = parked.awaited(tx, cluster.uid)
        if woken is not None:
            again = {"granted": decision.granted, "heartbeat_at": when.at, "reason": decision.sentence}
            node = tx.update_node(transitions.node_in(woken, NodeState.OPENING, **again))
        else:
            node = tx.insert_node(self._new_node(cluster, decision, when.at))
        tx.add_event(Event(node.id, "node", when.at, decision.code, decision.sentence))
        tx.add_event(
            Event(
                cluster.uid,
                "compute",
                when.at,
                decision.code,
                f"Opening node {node.id}: {decision.sentence}",
                data=encode({"node": node.id}),
            )
        )
        carried.opened.append(node)
        carried.events.append(
            sched.NodeOpened(
                sched.NodeView(
                    node.id, node.compute_uid, node.state, node.granted, node.gpu_ids, "", when.at
                ),
                when.at,
            )
        )

    def _new_node(self, cluster: sched.ClusterSpec, decision: sched.OpenNode, now: int) -> Node:
        return Node(
            id=f"{cluster.name}-{self._s.ids.short()}",
            compute_uid=cluster.uid,
            pool="local",
            size=cluster.size,
            granted=decision.granted,
            gpu_ids=decision.gpu_ids,
            state=NodeState.OPENING,
            created_at=now,
            heartbeat_at=now,
            reason=decision.sentence,
        )

    def _close(self, tx: Tx, decision: sched.CloseNode, when: Moment, carried: Carried) -> None:
        node = tx.node(decision.node_id)
        if node is None or node.state not in (NodeState.IDLE, NodeState.OPENING):
            carried.events.append(sched.NotDone(decision, when.at))
            return
        tx.update_node(transitions.node_in(node, NodeState.CLOSING, reason=decision.sentence))
        tx.add_event(Event(node.id, "node", when.at, decision.code, decision.sentence))
        tx.add_event(
            Event(
                node.compute_uid,
                "compute",
                when.at,
                decision.code,
                f"Closing node {node.id}: {decision.sentence}",
                data=encode({"node": node.id}),
            )
        )
        carried.closing.append(node.id)
        carried.events.append(sched.NodeClosing(node.id, when.at))
