"""What happened, taken into the scheduler's state: every event in O(log n)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidemill.domain.admission import NOTHING, Refusal, admit
from tidemill.domain.model import NodeState, Vector
from tidemill.domain.quota import TEAM, USER, Key, Quotas
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.allowance import admit_quotas, job_amounts, place_asks
from tidemill.domain.scheduling.capacity import Room, limits
from tidemill.domain.scheduling.cluster import ClusterState, Run
from tidemill.domain.scheduling.shares import Shares, dominant_rate


class Tracker:
    """All state of a pool. `awake`: clusters to look at next; `due`: when an idle node closes."""

    def __init__(self, host: t.Host, shares: Shares, quotas: Quotas) -> None:
        self.room = Room(host)
        self.shares = shares
        self.quotas = quotas
        self.held: dict[Key, int] = {}  # by the running jobs of teams and users
        self.clusters: dict[str, ClusterState] = {}
        self.awake: set[str] = set()
        self.due: dict[str, int] = {}
        self._jobs: dict[str, str] = {}  # job -> cluster
        self._nodes: dict[str, str] = {}  # node -> cluster
        self._handlers: dict[type, Callable[[Any], None]] = {
            t.HostSet: self._host_set,
            t.ClusterSet: self._cluster_set,
            t.ClusterRemoved: self._cluster_removed,
            t.JobQueued: self._job_queued,
            t.JobGone: self._job_gone,
            t.JobAssigned: self._job_assigned,
            t.JobReleased: self._job_released,
            t.NodeOpened: self._node_opened,
            t.NodeReady: self._node_ready,
            t.NodeBusy: self._node_busy,
            t.NodeUsed: self._node_used,
            t.NodeClosing: self._node_closing,
            t.NodeLost: self._node_lost,
            t.NodeGone: self._node_gone,
            t.TeamUsage: self._team_usage,
            t.QuotasSet: self._quotas_set,
            t.NotDone: self._not_done,
            t.ClockOnly: _nothing,
        }

    def apply(self, event: t.Event) -> None:
        self._handlers[type(event)](event)

    def cluster_of(self, job_uid: str) -> ClusterState | None:
        return self.clusters.get(self._jobs.get(job_uid, ""))

    def forget_job(self, uid: str) -> None:
        self._jobs.pop(uid, None)

    def begin_run(self, state: ClusterState, run: Run) -> None:
        """The job holds its nodes from `run.at` on."""
        state.running[run.job.uid] = run
        self._jobs[run.job.uid] = state.uid
        self._count(run, 1, run.at)
        for node_id in run.nodes:
            node = state.nodes.get(node_id)
            if node is not None:  # after a restart it may be lost or closing: it still has the job
                leaving = node.state in (NodeState.LOST, NodeState.CLOSING)
                to, at = (node.state, node.since) if leaving else (NodeState.RUNNING, run.at)
                self.move(state, node_id, to, at, run.job.uid)

    def _count(self, run: Run, sign: int, at: int) -> None:
        """What the job holds, for its team and its user: from now on (1), or not any more (-1)."""
        self.shares.change(run.job.party, sign * run.rate, at)
        for kind, id in ((TEAM, run.job.team), (USER, run.job.user)):
            for measure, amount in run.amounts:
                key = (kind, id, measure)
                left = self.held.get(key, 0) + sign * amount
                if left:
                    self.held[key] = left
                else:
                    del self.held[key]

    def used(self, quotas: Quotas) -> tuple[dict[Key, int], dict[Key, int]]:
        """(held, and of it by nodes that are closing) of every place and party that has a limit."""
        if not quotas:
            return {}, {}
        used, leaving = self.held.copy(), dict[Key, int]()
        for state in self.clusters.values():
            if state.spec is None or not (state.nodes or state.pending or state.running):
                continue
            nodes, closing = len(state.nodes) + len(state.pending), state.counts[NodeState.CLOSING]
            for key, amount in place_asks(quotas, state.spec, nodes, len(state.running)):
                used[key] = used.get(key, 0) + amount
            for key, amount in place_asks(quotas, state.spec, closing, 0):
                leaving[key] = leaving.get(key, 0) + amount
        return used, leaving

    def move(self, state: ClusterState, node_id: str, to: NodeState, at: int, job_uid: str = "") -> None:
        node = state.nodes[node_id]
        state.put(t.NodeView(node.id, node.cluster_uid, to, node.granted, node.gpu_ids, job_uid, at))

    def add_pending(self, state: ClusterState, node: t.OpenNode) -> None:
        state.pending.append(node)
        self.room.hold(node.granted, node.gpu_ids)

    # ------------------------------------------------------------ host and clusters

    def _host_set(self, event: t.HostSet) -> None:
        self.room.host = event.host
        for state in self.clusters.values():
            self._place_again(state)

    def _cluster_set(self, event: t.ClusterSet) -> None:
        spec = event.cluster
        state = self._cluster(spec.uid)
        old, state.spec = state.spec, spec
        self.awake.add(spec.uid)
        if old is not None and _bounds(old) == _bounds(spec):
            return
        self._place_again(state)
        keeps = spec.min_nodes or (old is not None and old.min_nodes)
        if keeps and (limits(self.room.host, spec) or self.quotas):
            for other in self.clusters.values():
                if other is not state and other.spec and (self.quotas or limits(self.room.host, other.spec)):
                    self._place_again(other)

    def _cluster_removed(self, event: t.ClusterRemoved) -> None:
        state = self.clusters.pop(event.cluster_uid, None)
        if state is None:
            return
        for node in state.nodes.values():
            self.room.give_back(node.granted, node.gpu_ids)
            self._nodes.pop(node.id, None)
        for pending in state.pending:
            self.room.give_back(pending.granted, pending.gpu_ids)
        for run in state.running.values():
            self._count(run, -1, event.at)
        for uid in (*state.queue.jobs, *state.parked, *state.running):
            self.forget_job(uid)
        self.awake.discard(event.cluster_uid)
        self.due.pop(event.cluster_uid, None)
        for other in self.clusters.values():
            if other.parked:
                self._place_again(other)

    def _cluster(self, uid: str) -> ClusterState:
        state = self.clusters.get(uid)
        if state is None:
            state = self.clusters[uid] = ClusterState(uid)
        return state

    # ------------------------------------------------------------ jobs

    def _place_again(self, state: ClusterState) -> None:
        """Bounds have changed: which waiting jobs can ever start is asked again (rare, all of them)."""
        self.awake.add(state.uid)
        if state.spec is None:
            return
        for job, _ in list(state.parked.values()):
            del state.parked[job.uid]
            self._place(state, job)
        for job in list(state.queue.jobs.values()):
            if self._refused(state, job) is not None:
                state.queue.remove(job.uid)
                self._place(state, job)

    def _place(self, state: ClusterState, job: t.JobRequest) -> None:
        refusal = self._refused(state, job)
        if refusal is None:
            state.queue.add(job)
        else:
            state.parked[job.uid] = (job, refusal)
        state.fresh.append(job.uid)

    def _refused(self, state: ClusterState, job: t.JobRequest) -> Refusal | None:
        if state.spec is None or state.spec.deleting:
            return None
        host = self.room.host
        held = self._minimums(state.uid) if limits(host, state.spec) else NOTHING
        refusal = admit(job, state.spec, host, held)
        if refusal is None and self.quotas:
            others = [other.spec for other in self.clusters.values() if other is not state and other.spec]
            refusal = admit_quotas(job, state.spec, self.quotas, others)
        return refusal

    def _minimums(self, but: str) -> Vector:
        """What the minimum nodes of the other clusters never give back."""
        cpu = memory = gpus = 0
        for uid, state in self.clusters.items():
            spec = state.spec
            if uid == but or spec is None or spec.deleting or not limits(self.room.host, spec):
                continue
            count = min(spec.min_nodes, spec.max_nodes)
            cpu += count * spec.node.cpu_milli
            memory += count * spec.node.memory
            gpus += count * spec.node.gpus
        return Vector(cpu, memory, gpus)

    def _job_queued(self, event: t.JobQueued) -> None:
        job = event.job
        state = self.cluster_of(job.uid)
        if state is not None:
            if job.uid in state.running:
                raise ValueError(
                    f"Job {job.name!r} is queued while it holds nodes: JobReleased must come first."
                )
            state.take_from_queue(job.uid)
        state = self._cluster(job.cluster_uid)
        self._jobs[job.uid] = state.uid
        self._place(state, job)
        self.awake.add(state.uid)

    def _job_gone(self, event: t.JobGone) -> None:
        state = self.cluster_of(event.job_uid)
        if state is None or event.job_uid in state.running:
            return
        state.take_from_queue(event.job_uid)
        self.forget_job(event.job_uid)
        self.awake.add(state.uid)

    def _job_assigned(self, event: t.JobAssigned) -> None:
        job = event.job
        state = self.cluster_of(job.uid)
        if state is not None:
            if job.uid in state.running:
                return
            state.take_from_queue(job.uid)
        state = self._cluster(job.cluster_uid)
        size = state.spec.node if state.spec else NOTHING
        rate = dominant_rate(self.room.host, size, job.node_count)
        counted = job_amounts(state.spec, job.node_count) if state.spec else ()
        self.begin_run(state, Run(job, event.node_ids, event.at, rate, counted))
        self.awake.add(state.uid)

    def _job_released(self, event: t.JobReleased) -> None:
        state = self.cluster_of(event.job_uid)
        run = state.running.get(event.job_uid) if state else None
        if state is None or run is None:
            return
        self._end_run(state, run, event.at)
        for node_id in run.nodes:
            node = state.nodes.get(node_id)
            if node is not None and node.job_uid == event.job_uid:
                to = NodeState.IDLE if node.state is NodeState.RUNNING else node.state
                self.move(state, node_id, to, event.at if to is NodeState.IDLE else node.since)
        self.awake.add(state.uid)

    def _end_run(self, state: ClusterState, run: Run, at: int) -> None:
        del state.running[run.job.uid]
        state.ending.discard(run.job.uid)
        self.forget_job(run.job.uid)
        self._count(run, -1, at)

    # ------------------------------------------------------------ nodes

    def _find(self, node_id: str) -> tuple[ClusterState, t.NodeView] | None:
        state = self.clusters.get(self._nodes.get(node_id, ""))
        if state is None:
            return None
        self.awake.add(state.uid)
        return state, state.nodes[node_id]

    def _node_opened(self, event: t.NodeOpened) -> None:
        node = event.node
        state = self._cluster(node.cluster_uid)
        known = state.nodes.get(node.id)
        if known is not None:
            self.room.give_back(known.granted, known.gpu_ids)
        elif state.pending:
            asked = (node.gpu_ids, node.granted)
            match = next((p for p in state.pending if (p.gpu_ids, p.granted) == asked), state.pending[0])
            state.pending.remove(match)
            self.room.give_back(match.granted, match.gpu_ids)
        self.room.hold(node.granted, node.gpu_ids)
        self._nodes[node.id] = state.uid
        state.put(node)
        self.awake.add(state.uid)

    def _node_ready(self, event: t.NodeReady) -> None:
        found = self._find(event.node_id)
        if found is None:
            return
        state, node = found
        if node.state is NodeState.OPENING:
            self.move(state, node.id, NodeState.IDLE, event.at)
        elif node.state is NodeState.LOST:  # it answers again
            to = NodeState.RUNNING if node.job_uid in state.running else NodeState.IDLE
            self.move(state, node.id, to, event.at, node.job_uid if to is NodeState.RUNNING else "")

    def _node_busy(self, event: t.NodeBusy) -> None:
        found = self._find(event.node_id)
        if found is None:
            return
        state, node = found
        if node.state is not NodeState.RUNNING or node.job_uid != event.job_uid:
            self.move(state, node.id, NodeState.RUNNING, event.at, event.job_uid)

    def _node_used(self, event: t.NodeUsed) -> None:
        found = self._find(event.node_id)
        if found is not None and found[1].state is NodeState.IDLE and found[1].since < event.at:
            self.move(found[0], event.node_id, NodeState.IDLE, event.at)

    def _node_closing(self, event: t.NodeClosing) -> None:
        found = self._find(event.node_id)
        if found is not None and found[1].state is not NodeState.CLOSING:
            self.move(found[0], event.node_id, NodeState.CLOSING, event.at, found[1].job_uid)

    def _node_lost(self, event: t.NodeLost) -> None:
        found = self._find(event.node_id)
        if found is not None and found[1].state not in (NodeState.LOST, NodeState.CLOSING):
            self.move(found[0], event.node_id, NodeState.LOST, event.at, found[1].job_uid)

    def _node_gone(self, event: t.NodeGone) -> None:
        found = self._find(event.node_id)
        if found is None:
            return
        state, node = found
        state.drop(node.id)
        del self._nodes[node.id]
        self.room.give_back(node.granted, node.gpu_ids)

    # ------------------------------------------------------------ the rest

    def _team_usage(self, event: t.TeamUsage) -> None:
        if event.user is None:
            self.shares.teams.restore(event.team, event.value, event.at)
        else:
            self.shares.users.restore((event.team, event.user), event.value, event.at)

    def _quotas_set(self, event: t.QuotasSet) -> None:
        self.quotas = event.quotas
        self.shares.set_weights(event.quotas)
        for state in self.clusters.values():
            self._place_again(state)

    def _not_done(self, event: t.NotDone) -> None:
        decision = event.decision
        state = self.clusters.get(decision.cluster_uid)
        if state is None:
            return
        self.awake.add(state.uid)
        if isinstance(decision, t.OpenNode):
            if decision in state.pending:
                state.pending.remove(decision)
                self.room.give_back(decision.granted, decision.gpu_ids)
        elif isinstance(decision, t.CloseNode):
            node = state.nodes.get(decision.node_id)
            if node is not None and node.state is NodeState.CLOSING:
                self.move(state, node.id, NodeState.IDLE, event.at)
        else:
            run = state.running.get(decision.job_uid)
            if run is not None:
                self._job_released(t.JobReleased(decision.job_uid, event.at))
                self._job_queued(t.JobQueued(run.job, event.at))


def _bounds(spec: t.ClusterSpec) -> tuple[object, ...]:
    return (spec.min_nodes, spec.max_nodes, spec.node, spec.deleting)


def _nothing(event: t.ClockOnly) -> None:
    del event
