"""The scheduler of one capacity pool: all clusters that share one host.

`apply` takes what happened, `decide` answers what to do and takes it as done: an Assign has left the queue,
an OpenNode counts as opening until its NodeOpened, a closing node is closing. What could not be carried out
comes back as `NotDone`. Nothing here looks at a clock or at anything outside; the cost of a decision
depends on the nodes it is about and the number of teams, never on the length of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidemill.domain import autoscale
from tidemill.domain.model import NodeState, Vector
from tidemill.domain.quota import NOTHING
from tidemill.domain.scheduling import planner
from tidemill.domain.scheduling import sentences as words
from tidemill.domain.scheduling.backfill import reserve
from tidemill.domain.scheduling.capacity import Budget, elastic_grants, limits
from tidemill.domain.scheduling.cluster import ClusterState, LastPlan, Run
from tidemill.domain.scheduling.planner import Plan
from tidemill.domain.scheduling.shares import DAY, FairShare, decayed
from tidemill.domain.scheduling.tracking import Tracker
from tidemill.domain.scheduling.types import (
    Assign,
    CloseNode,
    ClusterSpec,
    Decision,
    EndJob,
    Event,
    Host,
    JobRequest,
    NodeView,
    OpenNode,
    Wait,
)

FULL = LastPlan()
STEP = 1_000  # wake-ups for a change of order are at least this far apart (microseconds)


class PoolState:
    """`apply(event)`, `decide(now)`, `next_wakeup(now)`, `explain(job_uid, now)`. Not thread-safe."""

    def __init__(
        self, host: Host, half_life_us: int = DAY, weights: Mapping[str, float] | None = None
    ) -> None:
        self._track = Tracker(host, FairShare(half_life_us, weights))
        self._again = False  # starts have changed the shares that the rest was planned with

    @property
    def host(self) -> Host:
        return self._track.room.host

    def apply(self, event: Event) -> None:
        """Takes one event. Unknown nodes and jobs are ignored: events may come late or twice.
        Raises ValueError for a JobQueued of a job that still holds nodes."""
        self._track.apply(event)

    def usages(self, now: int) -> dict[str, float]:
        """Each team's decayed usage, to be kept and given back as TeamUsage after a restart."""
        shares = self._track.shares
        return {team: decayed(usage, now, shares.half_life_us) for team, usage in shares.usages.items()}

    def grants(self) -> dict[str, Vector]:
        """What every node should have now (node id -> size): in elastic mode the host divided among them."""
        sizes = self._node_sizes()
        return elastic_grants(self.host, sizes) if not self.host.strict else sizes

    # ------------------------------------------------------------ decide

    def decide(self, now: int) -> list[Decision]:
        """What to do now: ended jobs, starts, closings, openings, then news for those that wait."""
        track = self._track
        due = [uid for uid, at in track.due.items() if at <= now]
        plans: dict[str, Plan] = {}
        out: list[Decision] = []
        told: list[ClusterState] = []
        for uid in sorted(track.awake.union(due)):
            state = track.clusters.get(uid)
            if state is None:
                continue
            told.append(state)
            if state.spec is None:
                continue
            if state.spec.deleting:
                out += self._delete(state, state.spec, now)
            elif not state.idle and not state.fleet().slots:
                state.last = FULL  # nothing to give out, nothing to close
                track.due.pop(uid, None)
            else:
                plans[uid] = planner.begin(state)
        track.awake.clear()
        groups = self._groups(plans)
        budget = Budget(track.room.free(), self._leaving() if groups and groups[0][1] else NOTHING)
        for group, limited in groups:
            planner.run(group, lambda: self._everyone(plans), self.host, budget, track.shares, now, limited)
            for plan in group:
                out += self._start(plan, now)
        evaluated = [plans[uid] for uid in sorted(plans)]
        for plan in evaluated:
            out += self._close(plan, now)
        out += self._open(evaluated, budget)
        self._again = bool(track.awake) and any(plan.starts for plan in evaluated)
        for state in told:
            out += self._news(state, now)
        return out

    def _groups(self, plans: Mapping[str, Plan]) -> list[tuple[list[Plan], bool]]:
        """Clusters that compete for the host, first and together; then each other alone."""
        limited = [plan for plan in plans.values() if limits(self.host, plan.spec)]
        alone = [plan for plan in plans.values() if not limits(self.host, plan.spec)]
        return ([(limited, True)] if limited else []) + [([plan], False) for plan in alone]

    def _everyone(self, plans: dict[str, Plan]) -> list[Plan]:
        """Plans of every cluster that competes for the host, for those that sleep too."""
        for uid, state in self._track.clusters.items():
            spec = state.spec
            if uid not in plans and spec and not spec.deleting and limits(self.host, spec):
                plans[uid] = planner.begin(state)
        return [plans[uid] for uid in sorted(plans) if limits(self.host, plans[uid].spec)]

    def _leaving(self) -> Vector:
        """What nodes that are closing will give back."""
        cpu = memory = gpus = 0
        for state in self._track.clusters.values():
            if state.counts[NodeState.CLOSING]:
                for node in state.nodes.values():
                    if node.state is NodeState.CLOSING:
                        cpu += node.granted.cpu_milli
                        memory += node.granted.memory
                        gpus += len(node.gpu_ids)
        return Vector(cpu, memory, gpus)

    def _start(self, plan: Plan, now: int) -> Iterable[Decision]:
        state = plan.state
        for start in plan.starts:
            job = start.job
            state.take_from_queue(job.uid)
            self._track.begin_run(state, Run(job, start.nodes, now, start.rate))
            gpu_ids = tuple(state.nodes[node_id].gpu_ids for node_id in start.nodes)
            code = words.BACKFILLED if start.before else words.ASSIGNED
            sentence = words.assigned(plan.spec, start.nodes, start.before)
            yield Assign(job.uid, state.uid, start.nodes, gpu_ids, code, sentence)
        state.last = LastPlan(
            frozenset(job.uid for job in plan.opening),
            plan.opening_first,
            plan.blocked.uid if plan.blocked and plan.host_blocked else "",
            contested=bool(state.queue.gangs or limits(self.host, plan.spec))
            and len(state.queue) > len(plan.opening) + plan.opening_first,
        )

    def _close(self, plan: Plan, now: int) -> Iterable[Decision]:
        """Nodes taken for others, nodes over the maximum, nodes idle for long; and when the next is due."""
        state, spec = plan.state, plan.spec
        for node_id in plan.reclaimed:
            yield self._closed(state, node_id, words.CLOSE_RECLAIMED, now, plan.reclaimed_for)
        waiting = plan.planned - sum(len(start.nodes) for start in plan.starts)
        result = autoscale.Shrink(0, 0, None)
        if plan.opens == 0 and state.idle:
            since = [at for at, _ in state.idle]
            result = autoscale.shrink(state.fleet(), waiting, since, spec.idle_us, now)
        for index, (_, node_id) in enumerate(state.idle[: result.over + result.due]):
            code = words.CLOSE_MAXIMUM if index < result.over else words.CLOSE_IDLE
            yield self._closed(state, node_id, code, now)
        if result.next_at is None:
            self._track.due.pop(state.uid, None)
        else:
            self._track.due[state.uid] = result.next_at

    def _closed(self, state: ClusterState, node_id: str, code: str, now: int, job: str = "") -> CloseNode:
        assert state.spec is not None
        idle_us = max(0, now - state.nodes[node_id].since)
        self._track.move(state, node_id, NodeState.CLOSING, now)
        left = state.fleet().usable
        return CloseNode(
            node_id, state.uid, code, words.closing(code, state.spec, idle_us, left=left, job=job)
        )

    def _open(self, plans: list[Plan], budget: Budget) -> Iterable[Decision]:
        """Nodes for planned jobs, then up to each minimum, as far as the host has room."""
        wishes: list[tuple[Plan, bool]] = []
        for plan in plans:
            wishes += [(plan, False)] * plan.opens
        for plan in plans:
            fleet = plan.state.fleet()
            if plan.state.queue and fleet.slots:
                self._track.awake.add(plan.state.uid)
            missing = autoscale.to_fill(fleet) - plan.opens
            for _ in range(missing):
                if not budget.fits(1, plan.spec.node):
                    self._track.awake.add(plan.state.uid)  # asks again when anything happens
                    break
                budget.take(1, plan.spec.node)
                wishes.append((plan, True))
        return self._make(wishes) if wishes else []

    def _make(self, wishes: list[tuple[Plan, bool]]) -> list[OpenNode]:
        sizes = self._node_sizes()
        for index, (plan, _) in enumerate(wishes):
            sizes[f"+{index}"] = plan.spec.node
        grants = sizes if self.host.strict else elastic_grants(self.host, sizes)
        free_gpus = self._track.room.free_gpu_ids()
        decided: list[OpenNode] = []
        for index, (plan, minimum) in enumerate(wishes):
            state, spec = plan.state, plan.spec
            gpu_ids, free_gpus = tuple(free_gpus[: spec.node.gpus]), free_gpus[spec.node.gpus :]
            granted = grants[f"+{index}"]
            live = state.fleet().live + 1
            sentence = words.opening(spec, granted, live, len(state.queue), len(sizes), minimum)
            code = words.OPEN_MINIMUM if minimum else words.OPEN_DEMAND
            node = OpenNode(state.uid, index, granted, gpu_ids, code, sentence)
            self._track.add_pending(state, node)
            decided.append(node)
        return decided

    def _node_sizes(self) -> dict[str, Vector]:
        sizes: dict[str, Vector] = {}
        for state in self._track.clusters.values():
            for node in state.nodes.values():
                sizes[node.id] = state.spec.node if state.spec else node.granted
            for index, node in enumerate(state.pending):
                sizes[f"+{state.uid}.{index}"] = state.spec.node if state.spec else node.granted
        return sizes

    def _delete(self, state: ClusterState, spec: ClusterSpec, now: int) -> Iterable[Decision]:
        """The cluster goes: waiting jobs leave, running ones are told once, free nodes close."""
        waiting = [*state.parked, *state.queue.jobs]
        for uid in waiting:
            state.take_from_queue(uid)
            self._track.forget_job(uid)
            yield EndJob(uid, False, words.COMPUTE_DELETING, words.deleting(spec, False))
        for uid in state.running:
            if uid not in state.ending:
                state.ending.add(uid)
                yield EndJob(uid, True, words.COMPUTE_DELETING, words.deleting(spec, True))
        free = [n.id for n in state.nodes.values() if n.state in (NodeState.IDLE, NodeState.OPENING)]
        for node_id in free:
            yield self._closed(state, node_id, words.CLOSE_DELETED, now)
        self._track.due.pop(state.uid, None)

    # ------------------------------------------------------------ why does it wait

    def _news(self, state: ClusterState, now: int) -> Iterable[Decision]:
        """Tells jobs just queued, and the first one if its reason is another than it was told."""
        fresh, state.fresh = state.fresh, []
        for uid in fresh:
            if uid in state.queue.jobs or uid in state.parked:
                wait = self._wait(state, uid, now)
                if state.told.get(uid) != wait.code:
                    state.told[uid] = wait.code
                    yield wait
        if not state.queue:
            return
        first = state.queue.first(lambda team: self._track.shares.share(team, now))
        if first is not None and state.told.get(first.uid) != self._code(state, first, 0):
            wait = self._wait(state, first.uid, now)
            state.told[first.uid] = wait.code
            yield wait

    def explain(self, job_uid: str, now: int) -> Wait | None:
        """Why the job waits, as of the last decision; None: it does not wait here."""
        state = self._track.cluster_of(job_uid)
        if state is None or (job_uid not in state.queue.jobs and job_uid not in state.parked):
            return None
        return self._wait(state, job_uid, now)

    def _wait(self, state: ClusterState, uid: str, now: int) -> Wait:
        parked = state.parked.get(uid)
        if parked is not None:
            return Wait(uid, words.WAITING + parked[1].code, parked[1].message)
        job = state.queue.jobs[uid]
        if state.spec is None:
            return Wait(uid, words.NO_COMPUTE, words.no_compute(job))

        def share(team: str) -> float:
            return self._track.shares.share(team, now)

        ahead = state.queue.ahead(job, share)
        code = self._code(state, job, ahead)
        if code == words.NODES_OPENING:
            return Wait(uid, code, words.nodes_opening(state, job))
        if code in (words.HOST_FULL, words.GPUS_IN_USE):
            track = self._track
            return Wait(
                uid, code, words.host_full(state, track.clusters.values(), self.host, track.room.free())
            )
        first = state.queue.first(share) if ahead else None
        sentence = words.nodes_busy(state, job, ahead, first, bool(state.last.host_blocked))
        expected = self._expected(state, job, now) if ahead == 0 else None
        return Wait(uid, code, sentence, expected)

    def _code(self, state: ClusterState, job: JobRequest, ahead: int) -> str:
        if state.spec is None:
            return words.NO_COMPUTE
        last = state.last
        if job.uid in last.opening or ahead < last.opening_first:
            return words.NODES_OPENING
        if job.uid == last.host_blocked:
            return words.GPUS_IN_USE if not self.host.strict else words.HOST_FULL
        if ahead and len(state.idle) >= job.node_count:
            return words.NODES_HELD
        return words.NODES_BUSY

    def _expected(self, state: ClusterState, job: JobRequest, now: int) -> int | None:
        if state.last.host_blocked:
            return None
        return reserve(job.node_count, state.fleet().slots, planner.ends(state, now), now).expected_at

    # ------------------------------------------------------------ time

    def next_wakeup(self, now: int) -> int | None:
        """When to decide again if nothing happens before: an idle node is due, or the order of teams changes
        where that lets a job start. `now`: at once, the last decision is not all. None: never.
        (While nodes are opening the order may also change through what is planned for them: their events
        come anyway.)"""
        if self._again:
            return now
        track = self._track
        times = list(track.due.values())
        teams: list[set[str]] = []
        shared: set[str] = set()
        contested = False
        for uid in track.awake:
            state = track.clusters.get(uid)
            if state is None or state.spec is None or not state.queue:
                continue
            if limits(self.host, state.spec):
                shared |= state.queue.teams()
                contested = contested or state.last.contested
            elif state.last.contested:
                teams.append(state.queue.teams())
        if contested:
            teams.append(shared)
        for group in teams:
            names = sorted(group)
            for index, one in enumerate(names):
                for other in names[index + 1 :]:
                    at = track.shares.crossing(one, other, now)
                    if at is not None:
                        times.append(max(at, now + STEP))
        return max(now, min(times)) if times else None

    # ------------------------------------------------------------ views

    def waiting(self, cluster_uid: str) -> int:
        """Jobs that wait for this cluster."""
        state = self._track.clusters.get(cluster_uid)
        return len(state.queue) + len(state.parked) if state else 0

    def cluster(self, cluster_uid: str) -> ClusterSpec | None:
        state = self._track.clusters.get(cluster_uid)
        return state.spec if state else None

    def nodes(self, cluster_uid: str) -> tuple[NodeView, ...]:
        state = self._track.clusters.get(cluster_uid)
        return tuple(state.nodes.values()) if state else ()
