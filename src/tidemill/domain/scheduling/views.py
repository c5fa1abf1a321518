"""What the scheduler's state looks like to those who wait: the queue in order, who holds a quota, when."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tidemill.domain.model import NodeState
from tidemill.domain.quota import JOBS, TEAM, USER, Equation, Key, amounts
from tidemill.domain.scheduling.allowance import (
    Allowance,
    place_asks,
    places,
    team_asks,
    user_asks,
)
from tidemill.domain.scheduling.cluster import ClusterState, Run
from tidemill.domain.scheduling.queue import Walk
from tidemill.domain.scheduling.shares import BILLION, NONE
from tidemill.domain.scheduling.tracking import Tracker
from tidemill.domain.scheduling.types import ClusterSpec, JobRequest, NodeView

Estimate = Callable[[JobRequest], int | None]  # how long a job runs (microseconds); None: not known


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job at its place in the queue of its cluster (from 1; 0: it can never start as things are).

    `team_share`, `user_share`: what the order goes by, smaller first. `held`: the part of the host that the
    team holds now. `expected_at`: its start if estimates hold; None: unknown."""

    job: JobRequest
    position: int
    team_share: float
    user_share: float
    held: float
    expected_at: int | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a part of a quota: a job on nodes, or a node without a job. `until`: when it gives it back at
    the latest by its own rules (a job's timeout, an idle node's idle time); None: not known."""

    amount: int
    since: int
    nodes: tuple[str, ...]
    job: JobRequest | None = None
    state: str = ""
    cluster: str = ""
    until: int | None = None


def queue(track: Tracker, state: ClusterState, now: int, limit: int, estimate: Estimate) -> list[Waiting]:
    """The first `limit` jobs in the order that holds now, then those that can never start."""
    walk = Walk(state.queue)
    jobs: list[JobRequest] = []
    while len(jobs) < limit:
        key = walk.peek(lambda party: track.shares.of(party, now))
        if key is None:
            break
        jobs.append(state.queue.jobs[key[3]])
        walk.advance()
    parked = [job for job, _ in state.parked.values()][: limit - len(jobs)]
    starts = forecast(state, jobs, now, estimate) if _starts_are_known(state) else [None] * len(jobs)
    return [
        *(_waiting(track, job, now, at + 1, starts[at]) for at, job in enumerate(jobs)),
        *(_waiting(track, job, now, 0, None) for job in parked),
    ]


def _starts_are_known(state: ClusterState) -> bool:
    """Not where the first waits for the host or for a quota: that depends on others' clusters."""
    last = state.last
    return state.spec is not None and not (last.host_blocked or last.quota_blocked or last.left)


def _waiting(track: Tracker, job: JobRequest, now: int, position: int, start: int | None) -> Waiting:
    team, user = track.shares.of(job.party, now)
    held = track.shares.teams.usages.get(job.team, NONE).rate / BILLION
    return Waiting(job, position, team / BILLION, user / BILLION, held, start)


def forecast(
    state: ClusterState, jobs: Sequence[JobRequest], now: int, estimate: Estimate
) -> list[int | None]:
    """When each of the jobs starts, one after the other, if all run as long as estimated; what runs longer
    ends with its own limit at the latest. A job that needs a node whose end is not known has no time, nor
    have those behind it."""
    free = [now] * state.fleet().slots
    for run in state.running.values():
        lengths = (estimate(run.job), run.job.estimated_us)
        ends = [run.at + length for length in lengths if length is not None and run.at + length > now]
        if ends:
            free += [min(ends)] * len(run.nodes)
    heapq.heapify(free)
    found: list[int | None] = []
    for job in jobs:
        if len(free) < job.node_count:
            break
        taken = [heapq.heappop(free) for _ in range(job.node_count)]
        start = taken[-1]
        found.append(start)
        length = estimate(job)
        if length is not None:
            for _ in taken:
                heapq.heappush(free, start + length)
    return found + [None] * (len(jobs) - len(found))


def equations(track: Tracker, spec: ClusterSpec, job: JobRequest) -> list[Equation]:
    """Every quota that holds for a job on a cluster, as if it asked now: user, team, compute, workspace."""
    quotas = track.quotas
    allowance = Allowance(quotas, *track.used(quotas))
    state = track.clusters.get(spec.uid)
    fleet = state.fleet() if state else None
    opens = max(0, job.node_count - (fleet.idle + fleet.coming if fleet else 0))
    asks = (*user_asks(quotas, spec, job), *team_asks(quotas, spec, job), *place_asks(quotas, spec, opens, 1))
    return [allowance.equation(ask) for ask in asks]


def used(track: Tracker, keys: Iterable[Key]) -> dict[Key, int]:
    """What is held of each key, limited or not."""
    wanted = {(key[0], key[1]) for key in keys}
    found = {key: amount for key, amount in track.held.items() if key[:2] in wanted}
    for state in track.clusters.values():
        spec = state.spec
        if spec is None:
            continue
        nodes = len(state.nodes) + len(state.pending)
        for kind, id in places(spec):
            if (kind, id) in wanted:
                for measure, amount in (*amounts(spec.node, spec.family, nodes), (JOBS, len(state.running))):
                    found[kind, id, measure] = found.get((kind, id, measure), 0) + amount
    return found


def holders(track: Tracker, key: Key) -> list[Holder]:
    """Who holds what is used of a quota, the longest first."""
    kind, id, measure = key
    found: list[Holder] = []
    for state in track.clusters.values():
        spec = state.spec
        if spec is None:
            continue
        if kind in (TEAM, USER):
            mine = (run for run in state.running.values() if id == _party_id(kind, run.job))
            found += [_job_holder(run, dict(run.amounts).get(measure, 0), spec) for run in mine]
        elif (kind, id) in places(spec) and measure == JOBS:
            found += [_job_holder(run, 1, spec) for run in state.running.values()]
        elif (kind, id) in places(spec):
            each = dict(amounts(spec.node, spec.family, 1)).get(measure, 0)
            found += [_node_holder(state, node, each, spec) for node in state.nodes.values()]
            found += [Holder(each, 0, (), state="opening", cluster=spec.name) for _ in state.pending]
    return sorted((holder for holder in found if holder.amount), key=lambda holder: holder.since)


def _party_id(kind: str, job: JobRequest) -> str:
    return job.team if kind == TEAM else job.user


def _job_holder(run: Run, amount: int, spec: ClusterSpec) -> Holder:
    estimate = run.job.estimated_us
    until = None if estimate is None else run.at + estimate
    return Holder(amount, run.at, run.nodes, run.job, "running", spec.name, until)


def _node_holder(state: ClusterState, node: NodeView, amount: int, spec: ClusterSpec) -> Holder:
    run = state.running.get(node.job_uid)
    until: int | None = None
    if run is not None and run.job.estimated_us is not None:
        until = run.at + run.job.estimated_us
    elif node.state is NodeState.IDLE and state.fleet().usable > spec.min_nodes:
        until = node.since + spec.idle_us
    job = run.job if run else None
    return Holder(amount, node.since, (node.id,), job, node.state.value.lower(), spec.name, until)
