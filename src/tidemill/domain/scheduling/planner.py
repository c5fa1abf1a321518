"""One decision's plan: goes through the queues in order and gives out the nodes that exist or may be opened.

Clusters that compete for the host are planned together, job by job in the one order; others alone. A job that
cannot start holds what it has: it is blocked by its cluster's maximum (then EASY backfill goes on behind it)
or by the host or a quota of the place (then idle nodes of lower-ranked clusters are closed for it and what it
needs is kept). One that is over the quota of its own user or team holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tidemill.domain.autoscale import Fleet
from tidemill.domain.model import NodeState
from tidemill.domain.quota import ANY, Equation
from tidemill.domain.scheduling.allowance import Allowance, Supply, team_asks, user_asks
from tidemill.domain.scheduling.backfill import LOOK, Reservation, reserve
from tidemill.domain.scheduling.cluster import ClusterState
from tidemill.domain.scheduling.queue import Key as QueueKey
from tidemill.domain.scheduling.queue import Share, Walk
from tidemill.domain.scheduling.shares import Pair, Shares, dominant_rate
from tidemill.domain.scheduling.types import ClusterSpec, Host, JobRequest, Party


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
    quota_blocked: Equation | None = None
    left: dict[Party, tuple[str, Equation]] = field(default_factory=dict[Party, tuple[str, Equation]])
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
    supply: Supply,
    shares: Shares,
    now: int,
    limited: bool,
) -> None:
    """Fills the plans of one group. `everyone`: plans of all clusters of the group, made when nodes must be
    taken from others; `limited`: the host can be too full for this group's nodes, or a quota reached."""
    extra: dict[str | Party, int] = {}

    def share(party: Party) -> Pair:
        return shares.of(party, now, extra)

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
            if _step(plan, job, rate, supply, now):
                extra[job.team] = extra.get(job.team, 0) + rate
                extra[job.party] = extra.get(job.party, 0) + rate
            elif plan.host_blocked or plan.quota_blocked is not None:
                _reclaim(plan, job, everyone(), supply)
                if plan.spec.purpose:
                    live = [one for one in live if not _behind(one, plan, supply)]
        if plan.done:
            live = [one for one in live if one is not plan]


def _behind(plan: Plan, first: Plan, supply: Supply) -> bool:
    """Whether it is one more of those for one purpose, and there is not even one node for it: what is left is
    kept for `first`. Then it is not gone through job by job."""
    spec, other = plan.spec, first.spec
    if plan is first or not spec.purpose or (spec.name, spec.workspace) != (other.name, other.workspace):
        return False
    if plan.idle or plan.coming or plan.planned or supply.fits(spec, 1, 1):
        return False
    plan.blocked = next(iter(plan.state.queue.jobs.values()))
    plan.host_blocked, plan.quota_blocked = first.host_blocked, first.quota_blocked
    plan.done = True
    return True


def _next(live: list[Plan], share: Share) -> tuple[Plan, QueueKey | None]:
    best: tuple[QueueKey, Plan] | None = None
    for plan in live:
        key = plan.walk.peek(share)
        if key is None:
            return plan, None
        if best is None or key < best[0]:
            best = key, plan
    assert best is not None
    return best[1], best[0]


def _step(plan: Plan, job: JobRequest, rate: int, supply: Supply, now: int) -> bool:
    """Plans one job, or finds why not. True: it has its nodes (now, or when they have opened)."""
    if supply.allowance.quotas and _over_its_quota(plan, job, supply.allowance):
        return False
    count = job.node_count
    opens = max(0, count - len(plan.idle) - plan.coming)
    if plan.blocked is None:
        if count > plan.slots:
            plan.blocked = job
            plan.reservation = reserve(count, plan.slots, ends(plan.state, now, plan), now)
            plan.done = plan.reservation.at <= now and not plan.reservation.extra  # nothing may slip in
            return False
        if not supply.fits(plan.spec, opens, 1):
            plan.blocked, plan.done = job, True
            plan.quota_blocked = supply.claim(plan.spec, opens)
            plan.host_blocked = plan.quota_blocked is None
            return False  # and what is idle here is held for it
        _give(plan, job, rate, opens, supply)
        return True
    plan.looked += 1
    plan.done = plan.looked >= LOOK
    if count > plan.slots or not supply.fits(plan.spec, opens, 1):
        return False
    if plan.reservation is None or not plan.reservation.admits(count, job.estimated_us, now):
        return False
    _give(plan, job, rate, opens, supply)
    return True


def _over_its_quota(plan: Plan, job: JobRequest, allowance: Allowance) -> bool:
    """A job over its user's or its team's quota keeps what is left of that for itself and is left with all of
    the user (the team) behind it here: in one cluster they all ask for the same measures."""
    over = allowance.short(user_asks(allowance.quotas, plan.spec, job))
    party = job.party
    if not over:
        over, party = allowance.short(team_asks(allowance.quotas, plan.spec, job)), (job.team, ANY)
    if not over:
        return False
    plan.left[party] = (job.uid, allowance.equation(over[0]))
    plan.walk.leave(party)
    allowance.claim(over)
    return True


def _give(plan: Plan, job: JobRequest, rate: int, opens: int, supply: Supply) -> None:
    """Idle nodes, the last used first. A job that also needs nodes still to come holds the idle ones."""
    count = job.node_count
    plan.slots -= count
    plan.planned += count
    supply.take(plan.spec, opens, job)
    plan.done = plan.done or plan.slots == 0  # what comes next would be blocked
    if count <= len(plan.idle):
        nodes = tuple(sorted(node_id for _, node_id in plan.idle[-count:]))
        del plan.idle[-count:]
        plan.starts.append(Start(job, nodes, rate, plan.blocked.name if plan.blocked else ""))
        return
    plan.coming -= count - len(plan.idle) - opens
    plan.idle.clear()
    plan.opens += opens
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


def _reclaim(plan: Plan, job: JobRequest, others: Iterable[Plan], supply: Supply) -> None:
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
        if usable <= min(other.fleet.minimum, other.fleet.maximum):
            continue
        if not supply.short_of(other.spec, view.granted):
            continue
        other.idle.remove((since, node_id))
        other.reclaimed.append(node_id)
        other.reclaimed_for = job.name if other.spec.workspace == job.workspace else ""
        other.slots = max(0, other.slots - 1)
        supply.expect(other.spec, view.granted)


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
