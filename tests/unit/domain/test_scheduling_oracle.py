"""Random histories through the incremental scheduler and the naive oracle: the same decisions, always."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scheduling_world import ELASTIC, GPU, LARGE, SECOND, SMALL, STRICT, WS, World, cluster, job

from tidemill.domain.model import NodeState
from tidemill.domain.quota import Quotas
from tidemill.domain.scheduling import oracle
from tidemill.domain.scheduling import types as t

OPS = st.lists(
    st.tuples(st.integers(0, 18), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)),
    min_size=1,
    max_size=40,
)
TEAMS = ("red", "green", "blue")
USERS = ("ann", "bob")
WEIGHTS = Quotas({}, {"red": 2.0}, {"bob": 0.5})
HERE = WS.arm_id.lower()
LIMITS = (  # of every kind and measure; some forbid a job for ever, some only for now
    {},
    {"team red": {"cores": 4}},
    {"user ann": {"nodes": 2, "jobs": 1}, "team *": {"jobs": 3}},
    {f"workspace {HERE}": {"cores": 8}},
    {f"compute {HERE}/computes/c1-cluster": {"nodes": 2}, "user *": {"gpus": 1}},
    {f"workspace {HERE}": {"famA": 4, "jobs": 3}, "team red": {"famA": 2}},
    {"team green": {"nodes": 0}, "user bob": {"cores": 6}, f"workspace {HERE}": {"nodes": 4}},
)


def step(world: World, op: int, a: int, b: int, c: int, counter: int, last: list[t.Decision]) -> None:
    world.now += (0, 1, 1000, SECOND, 7 * SECOND)[c % 5]
    nodes = sorted(world.nodes.values(), key=lambda n: n.id)
    in_state = lambda *states: [n for n in nodes if n.state in states]  # noqa: E731
    if op in (0, 1, 2, 3):
        for index in range(1 + (b % 3) * (op == 3)):
            world.queue(
                job(
                    f"j{counter:03d}.{index}",
                    sorted(world.clusters)[a % len(world.clusters)],
                    (1, 1, 1, 2, 2, 3, 4)[b % 7],
                    team=TEAMS[c % 3],
                    user=USERS[(a + c) % 2],
                    priority=(0, 0, 0, 1, -1)[a % 5],
                    submitted_at=world.now - (b % 4),
                    estimated_us=(None, 5 * SECOND, 20 * SECOND, SECOND)[(a + b) % 4],
                )
            )
    elif op in (4, 5) and world.running:
        world.release(sorted(world.running)[a % len(world.running)])
    elif op in (6, 7) and world.pending:
        node_id = world.open_one(a % len(world.pending))
        if b % 2:
            world.ready(node_id)
    elif op in (8, 9) and in_state(NodeState.OPENING):
        world.ready(in_state(NodeState.OPENING)[a % len(in_state(NodeState.OPENING))].id)
    elif op == 10 and in_state(NodeState.CLOSING, NodeState.LOST):
        free = [n for n in in_state(NodeState.CLOSING, NodeState.LOST) if not n.job_uid]
        if free:
            world.gone(free[a % len(free)].id)
    elif op == 11 and in_state(NodeState.RUNNING, NodeState.IDLE):
        found = in_state(NodeState.RUNNING, NodeState.IDLE)
        world.lost(found[a % len(found)].id)
    elif op == 12 and world.waiting:
        world.cancel(sorted(world.waiting)[a % len(world.waiting)])
    elif op == 13:
        uid = sorted(world.clusters)[a % len(world.clusters)]
        low = b % 3
        spec = replace(world.clusters[uid], min_nodes=low, max_nodes=max(low, c % 6), deleting=a % 7 == 6)
        world.set_cluster(spec)
    elif op == 14 and a % 4 == 0:
        other = ELASTIC if world.host.strict else STRICT
        world.was_elastic = world.was_elastic or not world.host.strict
        world.set_host(other if b % 2 else replace(world.host, gpu_ids=world.host.gpu_ids))
    elif op == 18 and nodes:
        world.used(nodes[a % len(nodes)].id)
    elif op == 16:
        world.set_quotas(**LIMITS[a % len(LIMITS)])
    elif op in (15, 17):
        undo = [d for d in last if isinstance(d, t.OpenNode | t.CloseNode | t.Assign)]
        if undo:
            found = undo[a % len(undo)]
            if not (isinstance(found, t.CloseNode) and found.code == "NodeClosing.ComputeDeleted"):
                world.not_done(found)


def start_world(kind: int) -> World:
    world = World(STRICT if kind % 2 else ELASTIC, half_life_us=30 * SECOND, quotas=WEIGHTS)
    world.set_cluster(cluster("c1", SMALL, 0, 4, family="famA"))
    if kind // 2 % 2:
        world.set_cluster(cluster("c2", LARGE, 1, 3, family="famA"))
    if kind // 4 % 2:
        world.set_cluster(cluster("c3", GPU, 0, 2, idle_us=3 * SECOND))
    if kind >= 8:
        world.set_quotas(**LIMITS[kind // 8])
    return world


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 55), OPS)
@example(  # starts change the shares, so that another gang fits: the decision is not all
    2, [(0, 0, 0, 0), (0, 1, 0, 0), (0, 8, 3, 0), (0, 18, 0, 1), (6, 0, 0, 0), (8, 0, 0, 0), (6, 0, 1, 0)]
)
def test_the_same_decisions_as_the_oracle(kind: int, ops: list[tuple[int, int, int, int]]) -> None:
    world = start_world(kind)
    last: list[t.Decision] = []
    for counter, (op, a, b, c) in enumerate(ops):
        step(world, op, a, b, c, counter, last)
        if op != 3 or a % 2:  # sometimes several events come before one decision
            last = world.decide()
            settled = world.pool.next_wakeup(world.now) != world.now
            again = world.decide()
            assert not settled or all(isinstance(d, t.Wait) for d in again), "asked twice, answered twice"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 55), OPS, st.integers(1, 100))
def test_nothing_is_due_before_the_next_wakeup(
    kind: int, ops: list[tuple[int, int, int, int]], part: int
) -> None:
    world = start_world(kind)
    last: list[t.Decision] = []
    for counter, (op, a, b, c) in enumerate(ops):
        step(world, op, a, b, c, counter, last)
        last = world.decide()
        wakeup = world.pool.next_wakeup(world.now)
        limit = wakeup if wakeup is not None else world.now + 10_000 * SECOND
        between = world.now + (limit - 1 - world.now) * part // 100
        coming = world.pending or [n for n in world.nodes.values() if n.state is NodeState.OPENING]
        if between > world.now and not coming:
            answer = oracle.decide(world.snapshot(), between)
            assert (answer.assigns, answer.closes, answer.opens) == ([], [], []), (wakeup, between)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 55), OPS)
@example(39, [(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0), (0, 14, 0, 0)])  # first by order, held up by a quota
@example(  # first by order, held up by the host now and by a quota then
    28, [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 27), (13, 1, 0, 3), (0, 0, 0, 0)]
)
def test_every_job_that_can_start_does_and_nothing_stays_open(
    kind: int, ops: list[tuple[int, int, int, int]]
) -> None:
    """After any history: when running jobs end and nodes come and go as told, the queue drains."""
    world = start_world(kind)
    last: list[t.Decision] = []
    for counter, (op, a, b, c) in enumerate(ops):
        step(world, op, a, b, c, counter, last)
        last = world.decide()
    for node in [n for n in world.nodes.values() if n.state is NodeState.LOST and not n.job_uid]:
        world.gone(node.id)
    for _ in range(300):
        world.settle()
        for node in [n for n in world.nodes.values() if n.state is NodeState.OPENING]:
            world.ready(node.id)
        for uid in sorted(world.running)[:1]:
            world.now += SECOND
            lost = [n for n in world.running[uid][2] if n in world.nodes]
            world.release(uid)
            for node_id in [n for n in lost if world.nodes[n].state is NodeState.LOST]:
                world.gone(node_id)
        if not world.running and not world.decide():
            break
    for request in world.waiting.values():
        assert world.refusal(request) is not None, (request, world.pool.explain(request.uid, world.now))
    world.now += 100 * SECOND
    world.settle()
    for spec in world.clusters.values():
        have = sum(n.cluster_uid == spec.uid for n in world.nodes.values())
        low = 0 if spec.deleting else min(spec.min_nodes, spec.max_nodes)
        short = have < low and (world.host.strict or world.quotas.limits)  # no room, or over a quota
        assert have == low or short, (spec, have)
