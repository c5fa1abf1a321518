"""One decision's plan: goes through the queues in order and gives out the nodes that exist or may be opened.

Clusters that compete for the host are planned together, job by job in the one order; others alone. A job that
cannot start holds what it has: it is blocked by its cluster's maximum (then EASY backfill goes on behind it)
or by the host (then idle nodes of lower-ranked clusters are closed for it and the room is kept).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tidemill.domain.autoscale import Fleet
from tidemill.domain.model import NodeState
from tidemill.domain.scheduling.backfill import LOOK, Reservation, reserve
from tidemill.domain.scheduling.capacity import Budget
from tidemill.domain.scheduling.cluster import ClusterState
from tidemill.domain.scheduling.queue import Key, Walk
from tidemill.domain.scheduling.shares import FairShare, dominant_rate
from tidemill.domain.scheduling.types import ClusterSpec, Host, JobRequest


@dataclass(slots=True)
class Start:
    job: JobRequest
    nodes: tuple[str, ...]  # rank order
    rate: int
    before: str = ""  # name of the job it was let past


@dataclass(slots=True)
class Plan:
    """Working values of one cluster during one decision."""

    state: ClusterState
    spec: ClusterSpec
    fleet: Fleet
    walk: Walk
    idle: list[tuple[int, str]]
    coming: int
    slots: int
    opens: int = 0
    planned: int = 0  # nodes given to jobs, started or not
    starts: list[Start] = field(default_factory=list[Start])
    opening: list[JobRequest] = field(default_factory=list[JobRequest])
    opening_first: int = 0
    blocked: JobRequest | None = None
    host_blocked: bool = False
    reservation: Reservation | None = None
    looked: int = 0
    done: bool = False
    reclaimed: list[str] = field(default_factory=list[str])
    reclaimed_for: str = ""


def begin(state: ClusterState) -> Plan:
    assert state.spec is not None
    fleet = state.fleet()
    return Plan(state, state.spec, fleet, Walk(state.queue), list(state.idle), fleet.coming, fleet.slots)


def run(
    plans: list[Plan],
    everyone: Callable[[], Iterable[Plan]],
    host: Host,
    budget: Budget,
    shares: FairShare,
    now: int,
    limited: bool,
) -> None:
    """Fills the plans of one group. `everyone`: plans of all clusters of the group, made when nodes must be
    taken from others; `limited`: the host can be too full for this group's nodes."""
    extra: dict[str, int] = {}

    def share(team: str) -> float:
        return shares.share(team, now, extra.get(team, 0))

    def rest_is_counted(plan: Plan) -> bool:
        return not limited and not plan.idle and not plan.state.queue.gangs

    live = [plan for plan in plans if plan.state.queue and plan.slots]
    while live:
        plan, key = _next(live, share)
        if key is None:
            plan.done = True
        elif rest_is_counted(plan):
            _count_rest(plan)
        else:
            job = plan.state.queue.jobs[key[3]]
            plan.walk.advance()
            rate = dominant_rate(host, plan.spec.node, job.node_count)
            if _step(plan, job, rate, budget, now):
                extra[job.team] = extra.get(job.team, 0) + rate
            elif plan.host_blocked:
                _reclaim(plan, job, everyone(), budget)
        if plan.done:
            live.remove(plan)


def _next(live: list[Plan], share: Callable[[str], float]) -> tuple[Plan, Key | None]:
    best: tuple[Key, Plan] | None = None
    for plan in live:
        key = plan.walk.peek(share)
        if key is None:
            return plan, None
        if best is None or key < best[0]:
            best = key, plan
    assert best is not None
    return best[1], best[0]


def _step(plan: Plan, job: JobRequest, rate: int, budget: Budget, now: int) -> bool:
    """Plans one job, or finds why not. True: it has its nodes (now, or when they have opened)."""
    count = job.node_count
    opens = max(0, count - len(plan.idle) - plan.coming)
    if plan.blocked is None:
        if count > plan.slots:
            plan.blocked = job
            plan.reservation = reserve(count, plan.slots, ends(plan.state, now, plan), now)
            plan.done = plan.reservation.at <= now and not plan.reservation.extra  # nothing may slip in
            return False
        if opens and not budget.fits(opens, plan.spec.node):
            plan.blocked, plan.host_blocked, plan.done = job, True, True
            budget.claim(opens, plan.spec.node)  # and what is idle here is held for it
            return False
        _give(plan, job, rate, opens, budget)
        return True
    plan.looked += 1
    plan.done = plan.looked >= LOOK
    if count > plan.slots or (opens and not budget.fits(opens, plan.spec.node)):
        return False
    if plan.reservation is None or not plan.reservation.admits(count, job.estimated_us, now):
        return False
    _give(plan, job, rate, opens, budget)
    return True


def _give(plan: Plan, job: JobRequest, rate: int, opens: int, budget: Budget) -> None:
    """Idle nodes, the last used first. A job that also needs nodes still to come holds the idle ones."""
    count = job.node_count
    plan.slots -= count
    plan.planned += count
    plan.done = plan.done or plan.slots == 0  # what comes next would be blocked
    if count <= len(plan.idle):
        nodes = tuple(sorted(node_id for _, node_id in plan.idle[-count:]))
        del plan.idle[-count:]
        plan.starts.append(Start(job, nodes, rate, plan.blocked.name if plan.blocked else ""))
        return
    plan.coming -= count - len(plan.idle) - opens
    plan.idle.clear()
    plan.opens += opens
    budget.take(opens, plan.spec.node)
    plan.opening.append(job)


def _count_rest(plan: Plan) -> None:
    """Nothing can start now and every job is one node: the rest is counted, not looked at."""
    waiting = len(plan.state.queue) - len(plan.starts) - len(plan.opening)
    plan.opening_first = min(plan.slots, waiting)
    plan.opens += max(0, plan.opening_first - plan.coming)
    plan.coming -= min(plan.coming, plan.opening_first)
    plan.slots -= plan.opening_first
    plan.planned += plan.opening_first
    plan.done = True


def _reclaim(plan: Plan, job: JobRequest, others: Iterable[Plan], budget: Budget) -> None:
    """Closes idle nodes above the minimum of other clusters, longest idle first, until the claim is met."""
    plans = list(others)
    candidates = sorted(
        (since, node_id, index)
        for index, other in enumerate(plans)
        if other is not plan and not (other.blocked and other.slots)  # that one ranks higher
        for since, node_id in other.idle
    )
    for since, node_id, index in candidates:
        other = plans[index]
        view = other.state.nodes[node_id]
        usable = other.fleet.usable - len(other.reclaimed)
        if usable <= min(other.fleet.minimum, other.fleet.maximum) or not budget.short_of(view.granted):
            continue
        other.idle.remove((since, node_id))
        other.reclaimed.append(node_id)
        other.reclaimed_for = job.name
        other.slots = max(0, other.slots - 1)
        budget.expect(view.granted)


def ends(state: ClusterState, now: int, plan: Plan | None = None) -> list[tuple[int | None, int]]:
    """(expected end, nodes) of everything that holds nodes: running jobs, jobs planned in this decision,
    nodes on their way out. None: no end is known."""
    found: list[tuple[int | None, int]] = []
    for run in state.running.values():
        held = sum(
            1
            for node_id in run.nodes
            if (node := state.nodes.get(node_id)) and node.state is NodeState.RUNNING
        )
        if held:
            estimate = run.job.estimated_us
            found.append((None if estimate is None else run.at + estimate, held))
    leaving = state.counts[NodeState.CLOSING] + state.counts[NodeState.LOST]
    if plan is not None:
        leaving += len(plan.reclaimed) + sum(job.node_count for job in plan.opening)
        for start in plan.starts:
            estimate = start.job.estimated_us
            found.append((None if estimate is None else now + estimate, start.job.node_count))
    if leaving:
        found.append((None, leaving))
    return found
