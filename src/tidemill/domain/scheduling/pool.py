"""The scheduler of one capacity pool: all clusters that share one host.

`apply` takes what happened, `decide` answers what to do and takes it as done: an Assign has left the queue,
an OpenNode counts as opening until its NodeOpened, a closing node is closing. What could not be carried out
comes back as `NotDone`. Nothing here looks at a clock or at anything outside; the cost of a decision
depends on the nodes it is about and the number of users that wait, never on the length of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidemill.domain import autoscale
from tidemill.domain.admission import NOTHING
from tidemill.domain.model import NodeState, Vector
from tidemill.domain.quota import ANY, NO_QUOTAS, Equation, Key, Quotas, waits_sentence
from tidemill.domain.scheduling import planner, views
from tidemill.domain.scheduling import sentences as words
from tidemill.domain.scheduling.allowance import (
    Allowance,
    Supply,
    job_amounts,
    team_asks,
    user_asks,
)
from tidemill.domain.scheduling.backfill import reserve
from tidemill.domain.scheduling.capacity import Budget, elastic_grants, limits
from tidemill.domain.scheduling.cluster import ClusterState, LastPlan, Run
from tidemill.domain.scheduling.dozing import Dozing
from tidemill.domain.scheduling.planner import Plan
from tidemill.domain.scheduling.shares import DAY, Pair, Shares, decayed
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
    Party,
    TeamUsage,
    Wait,
)

FULL = LastPlan()
STEP = 1_000  # wake-ups for a change of order are at least this far apart (microseconds)


class PoolState:
    """`apply(event)`, `decide(now)`, `next_wakeup(now)`, `explain(job_uid, now)`. Not thread-safe."""

    def __init__(self, host: Host, half_life_us: int = DAY, quotas: Quotas = NO_QUOTAS) -> None:
        self._track = Tracker(host, Shares(half_life_us, quotas), quotas)
        self._dozing = Dozing()
        self._again = False  # starts have changed the shares that the rest was planned with

    @property
    def host(self) -> Host:
        return self._track.room.host

    def apply(self, event: Event) -> None:
        """Takes one event. Unknown nodes and jobs are ignored: events may come late or twice.
        Raises ValueError for a JobQueued of a job that still holds nodes."""
        self._track.apply(event)

    def usages(self, now: int) -> list[TeamUsage]:
        """The decayed usage of each team and each of its users, to be kept and given back after a restart."""
        teams, users = self._track.shares.teams, self._track.shares.users
        half_life = teams.half_life_us
        found = [TeamUsage(team, decayed(u, now, half_life), now) for team, u in teams.usages.items()]
        found += [
            TeamUsage(party[0], decayed(u, now, half_life), now, party[1])
            for party, u in users.usages.items()
        ]
        return found

    def grants(self) -> dict[str, Vector]:
        """What every node should have now (node id -> size): in elastic mode the host divided among them."""
        sizes = self._node_sizes()
        return elastic_grants(self.host, sizes) if not self.host.strict else sizes

    # ------------------------------------------------------------ decide

    def decide(self, now: int) -> list[Decision]:
        """What to do now: ended jobs, starts, closings, openings, then news for those that wait."""
        track = self._track
        due = [uid for uid, at in track.due.items() if at <= now]
        due += self._dozing.first(self._waits)
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
        supply = Supply(budget, Allowance(track.quotas, *track.used(track.quotas)))
        for group, limited in groups:
            planner.run(group, lambda: self._everyone(plans), self.host, supply, track.shares, now, limited)
            for plan in group:
                out += self._start(plan, now)
        evaluated = [plans[uid] for uid in sorted(plans)]
        for plan in evaluated:
            out += self._close(plan, now)
        out += self._open(evaluated, supply)
        self._again = bool(track.awake) and any(plan.starts for plan in evaluated)
        for state in told:
            out += self._news(state, now)
        return out

    def _groups(self, plans: Mapping[str, Plan]) -> list[tuple[list[Plan], bool]]:
        """Clusters that compete, first and together; then each other alone."""
        limited = [plan for plan in plans.values() if self._competes(plan.spec)]
        alone = [plan for plan in plans.values() if not self._competes(plan.spec)]
        return ([(limited, True)] if limited else []) + [([plan], False) for plan in alone]

    def _competes(self, spec: ClusterSpec) -> bool:
        """Whether what one cluster gives out may be what another one wants: the host's, or of a quota."""
        return bool(self._track.quotas) or limits(self.host, spec)

    def _everyone(self, plans: dict[str, Plan]) -> list[Plan]:
        """Plans of every cluster that competes, for those that sleep too."""
        for uid, state in self._track.clusters.items():
            spec = state.spec
            if uid in plans or not spec or spec.deleting or (spec.purpose and not state.idle):
                continue  # what has nothing idle has nothing to take
            if self._competes(spec):
                plans[uid] = planner.begin(state)
        return [plans[uid] for uid in sorted(plans) if self._competes(plans[uid].spec)]

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
            counted = job_amounts(plan.spec, job.node_count)
            self._track.begin_run(state, Run(job, start.nodes, now, start.rate, counted))
            gpu_ids = tuple(state.nodes[node_id].gpu_ids for node_id in start.nodes)
            code = words.BACKFILLED if start.before else words.ASSIGNED
            sentence = words.assigned(plan.spec, start.nodes, start.before)
            yield Assign(job.uid, state.uid, start.nodes, gpu_ids, code, sentence)
        state.last = LastPlan(
            frozenset(job.uid for job in plan.opening),
            plan.opening_first,
            plan.blocked.uid if plan.blocked and plan.host_blocked else "",
            (plan.blocked.uid, plan.quota_blocked) if plan.blocked and plan.quota_blocked else None,
            plan.left,
            contested=bool(state.queue.gangs or self._competes(plan.spec))
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

    def _open(self, plans: list[Plan], supply: Supply) -> Iterable[Decision]:
        """Nodes for planned jobs, then up to each minimum, as far as the host has room and quotas allow."""
        wishes: list[tuple[Plan, bool]] = []
        for plan in plans:
            wishes += [(plan, False)] * plan.opens
        for plan in plans:
            fleet = plan.state.fleet()
            if plan.state.queue and fleet.slots:
                self._ask_again(plan)
            missing = autoscale.to_fill(fleet) - plan.opens
            for _ in range(missing):
                if not supply.fits(plan.spec, 1, 0):
                    self._track.awake.add(plan.state.uid)  # asks again when anything happens
                    break
                supply.take(plan.spec, 1)
                wishes.append((plan, True))
        return self._make(wishes) if wishes else []

    def _ask_again(self, plan: Plan) -> None:
        """When anything happens; of those for one purpose that wait for room, only who may come next."""
        waits = plan.host_blocked or plan.quota_blocked is not None or plan.left
        if plan.spec.purpose and waits and not plan.opening:
            self._dozing.add(plan.spec, next(iter(plan.state.queue.jobs.values())))
        else:
            self._track.awake.add(plan.state.uid)

    def _waits(self, cluster_uid: str) -> bool:
        state = self._track.clusters.get(cluster_uid)
        return state is not None and bool(state.queue)

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
        first = state.queue.first(lambda party: self._track.shares.of(party, now))
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

        def share(party: Party) -> Pair:
            return self._track.shares.of(party, now)

        ahead = state.queue.ahead(job, share)
        code = self._code(state, job, ahead)
        if code == words.QUOTA:
            equation, first = self._over(state, job) or (None, "")
            assert equation is not None
            return Wait(uid, code, waits_sentence(self._track.quotas, equation, first))
        if code == words.NODES_OPENING:
            return Wait(uid, code, words.nodes_opening(state, job))
        if code in (words.HOST_FULL, words.GPUS_IN_USE):
            track = self._track
            return Wait(
                uid, code, words.host_full(state, track.clusters.values(), self.host, track.room.free())
            )
        first = state.queue.first(share) if ahead else None
        last = state.last
        missing = "room on this host" if last.host_blocked else "a quota" if last.quota_blocked else ""
        sentence = words.nodes_busy(state, job, ahead, first, missing)
        expected = self._expected(state, job, now) if ahead == 0 else None
        return Wait(uid, code, sentence, expected)

    def _code(self, state: ClusterState, job: JobRequest, ahead: int) -> str:
        if state.spec is None:
            return words.NO_COMPUTE
        last = state.last
        if self._over(state, job) is not None:
            return words.QUOTA
        if job.uid in last.opening or ahead < last.opening_first:
            return words.NODES_OPENING
        if job.uid == last.host_blocked:
            return words.GPUS_IN_USE if not self.host.strict else words.HOST_FULL
        if ahead and len(state.idle) >= job.node_count:
            return words.NODES_HELD
        return words.NODES_BUSY

    def _over(self, state: ClusterState, job: JobRequest) -> tuple[Equation, str] | None:
        """The quota that the job waits for, and the name of the job that goes first there ("": none does)."""
        quotas, spec = self._track.quotas, state.spec
        if not quotas or spec is None:
            return None
        allowance = Allowance(quotas, *self._track.used(quotas))
        asks = (user_asks(quotas, spec, job), team_asks(quotas, spec, job))
        for each in asks:
            over = allowance.short(each)
            if over:
                return allowance.equation(over[0]), ""
        for party in (job.party, (job.team, ANY)):
            uid, equation = state.last.left.get(party, ("", None))
            if equation is not None and uid in state.queue.jobs:
                return equation, "" if uid == job.uid else state.queue.jobs[uid].name
        if state.last.quota_blocked is not None and state.last.quota_blocked[0] == job.uid:
            return state.last.quota_blocked[1], ""
        return None

    def _expected(self, state: ClusterState, job: JobRequest, now: int) -> int | None:
        if state.last.host_blocked or state.last.quota_blocked:
            return None
        return reserve(job.node_count, state.fleet().slots, planner.ends(state, now), now).expected_at

    # ------------------------------------------------------------ time

    def next_wakeup(self, now: int) -> int | None:
        """When to decide again if nothing happens before: an idle node is due, or the order of teams or users
        changes where that lets a job start. `now`: at once, the last decision is not all. None: never.
        (While nodes are opening the order may also change through what is planned for them: their events
        come anyway.)"""
        if self._again:
            return now
        track = self._track
        times = list(track.due.values())
        groups: list[set[Party]] = []
        shared: set[Party] = set()
        contested = False
        for uid in track.awake:
            state = track.clusters.get(uid)
            if state is None or state.spec is None or not state.queue:
                continue
            if self._competes(state.spec):
                shared |= state.queue.parties()
                contested = contested or state.last.contested
            elif state.last.contested:
                groups.append(state.queue.parties())
        if contested:
            groups.append(shared)
        for group in groups:
            times += [max(at, now + STEP) for at in track.shares.crossings(group, now)]
        return max(now, min(times)) if times else None

    # ------------------------------------------------------------ views

    def queue(self, cluster_uid: str, now: int, limit: int, estimate: views.Estimate) -> list[views.Waiting]:
        """The jobs that wait for a cluster, in the order that holds now."""
        state = self._track.clusters.get(cluster_uid)
        return views.queue(self._track, state, now, limit, estimate) if state else []

    def clusters(self) -> tuple[ClusterSpec, ...]:
        return tuple(state.spec for state in self._track.clusters.values() if state.spec)

    def equations(self, spec: ClusterSpec, job: JobRequest) -> list[Equation]:
        """Every quota that holds for a job, waiting or only thought of, against what is used now."""
        return views.equations(self._track, spec, job)

    def holders(self, key: Key) -> list[views.Holder]:
        return views.holders(self._track, key)

    def used(self, keys: Iterable[Key]) -> dict[Key, int]:
        return views.used(self._track, keys)

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
