"""What the scheduler does and says, case by case. Every `World.decide` is also compared with the oracle."""

from __future__ import annotations

import pytest
from scheduling_world import (
    SECOND,
    World,
    cluster,
    job,
    of,
    with_nodes,
)

from tidemill.domain.model import NodeState
from tidemill.domain.quota import Quotas
from tidemill.domain.scheduling import queue as queue_module
from tidemill.domain.scheduling import types as t


def test_from_zero_to_running_and_back_to_zero() -> None:
    world = World()
    world.set_cluster(cluster(high=2))
    world.queue(job("a"))
    opened, wait = world.decide()
    assert isinstance(opened, t.OpenNode)
    assert opened.code == "NodeOpening.Demand"
    assert opened.sentence == "c1-cluster opens node 1 of at most 2 for 1 queued job (S2: 2 vCPU, 4 GiB)."
    assert wait == t.Wait("a", "Waiting.NodesOpening", "c1-cluster is opening 1 node.")
    node_id = world.open_one()
    assert world.decide() == []
    world.ready(node_id)
    (assign,) = world.decide()
    assert (assign.job_uid, assign.node_ids, assign.gpu_ids) == ("a", (node_id,), ((),))
    assert world.pool.next_wakeup(world.now) is None  # nothing ticks while it runs
    world.now += 60 * SECOND
    world.release("a")
    assert world.decide() == []
    due = world.now + 10 * SECOND
    assert world.pool.next_wakeup(world.now) == due
    world.now = due - 1
    assert world.decide() == []
    world.now = due
    (close,) = world.decide()
    assert close == t.CloseNode(node_id, "c1", "NodeClosing.Idle", "")
    assert close.sentence == (
        "Idle for 10 s (limit 10 s) and no queued job can use it; no node stays (min 0, max 2)."
    )
    world.gone(node_id)
    assert world.decide() == []
    assert world.pool.next_wakeup(world.now) is None


def test_an_idle_node_takes_the_next_job_at_once() -> None:
    world = World()
    world.set_cluster(cluster(high=2))
    with_nodes(world, 1)
    world.queue(job("a"))
    (assign,) = world.decide()
    assert isinstance(assign, t.Assign)


def test_many_jobs_open_up_to_the_maximum_and_say_how_many_are_ahead() -> None:
    world = World()
    world.set_cluster(cluster(high=2))
    world.queue(*(job(f"j{n}", submitted_at=n) for n in range(5)))
    assert len(of(world.decide(), t.OpenNode)) == 2
    world.settle()
    assert sorted(world.running) == ["j0", "j1"]
    wait = world.pool.explain("j4", world.now)
    assert wait == t.Wait(
        "j4",
        "Waiting.NodesBusy",
        "Waits for 1 node of c1-cluster (0 idle, 2 busy, max 2): 2 jobs are ahead.",
    )
    first = world.pool.explain("j2", world.now)
    assert first is not None
    assert first.sentence == (
        "Waits for 1 node of c1-cluster (0 idle, 2 busy, max 2): it is next; "
        "job-j0 and job-j1 hold the busy ones."
    )


def test_waits_are_told_once_not_for_every_move_of_the_queue() -> None:
    world = World()
    world.set_cluster(cluster(high=1))
    with_nodes(world, 1)
    world.queue(*(job(f"j{n:02d}", submitted_at=n) for n in range(20)))
    assert len(of(world.decide(), t.Wait)) == 19
    for n in range(15):
        world.now += SECOND
        world.release(f"j{n:02d}")
        decisions = world.decide()
        assert [type(d) for d in decisions] == [t.Assign]


def test_priority_goes_before_age_and_age_within_a_team() -> None:
    world = World()
    world.set_cluster(cluster(high=1))
    with_nodes(world, 1)
    world.queue(job("young", submitted_at=9), job("old", submitted_at=1))
    world.queue(job("urgent", submitted_at=10, priority=5))
    order = []
    for _ in range(3):
        world.decide()
        order += world.running
        world.now += SECOND
        world.release(next(iter(world.running)))
    assert order == ["urgent", "old", "young"]


def test_teams_take_turns_although_one_came_first() -> None:
    world = World()
    world.set_cluster(cluster(high=4))
    with_nodes(world, 4)
    world.queue(*(job(f"a{n}", team="a", submitted_at=n) for n in range(4)))
    world.queue(*(job(f"b{n}", team="b", submitted_at=100 + n) for n in range(4)))
    world.decide()
    assert sorted(world.running) == ["a0", "a1", "b0", "b1"]


def test_a_weight_of_two_gets_twice_the_nodes() -> None:
    world = World(quotas=Quotas({}, {"a": 2.0}))
    world.set_cluster(cluster(high=6))
    with_nodes(world, 6)
    world.queue(*(job(f"a{n}", team="a", submitted_at=n) for n in range(9)))
    world.queue(*(job(f"b{n}", team="b", submitted_at=n) for n in range(9)))
    world.decide()
    assert sum(uid.startswith("a") for uid in world.running) == 4


def test_what_a_team_used_counts_less_with_time() -> None:
    world = World(half_life_us=10 * SECOND)
    world.set_cluster(cluster(high=1))
    with_nodes(world, 1)
    world.queue(job("a1", team="a"))
    world.decide()
    world.now += 30 * SECOND
    world.release("a1")
    used = world.pool.usages(world.now)
    assert [(usage.team, usage.user) for usage in used] == [("a", None), ("a", "")]
    world.now += 10 * SECOND
    halved = world.pool.usages(world.now)
    assert [usage.value for usage in halved] == pytest.approx([usage.value / 2 for usage in used])
    other = World(half_life_us=10 * SECOND)
    other.now = world.now
    for usage in halved:
        other.pool.apply(usage)
    assert other.pool.usages(other.now) == halved


def test_minimum_is_opened_and_kept() -> None:
    world = World()
    world.set_cluster(cluster(low=2, high=3))
    first, second = world.decide()
    assert {first.code, second.code} == {"NodeOpening.Minimum"}
    world.settle()
    world.now += 1_000 * SECOND
    assert world.decide() == []
    assert world.pool.next_wakeup(world.now) is None


def test_a_lower_maximum_closes_idle_nodes_at_once_and_busy_ones_when_they_end() -> None:
    world = World()
    world.set_cluster(cluster(high=3))
    with_nodes(world, 3)
    world.queue(job("a"), job("b"))
    world.decide()
    world.set_cluster(cluster(high=1))
    (close,) = world.decide()
    assert close.code == "NodeClosing.Maximum"
    world.gone(close.node_id)
    assert world.decide() == []
    world.release("a")
    (close,) = world.decide()
    assert close.code == "NodeClosing.Maximum"


def test_a_cluster_being_deleted_closes_and_tells_its_jobs() -> None:
    world = World()
    world.set_cluster(cluster(high=2))
    with_nodes(world, 2)
    world.queue(job("run"))
    world.decide()
    world.queue(job("gang", nodes=2))
    world.decide()
    world.set_cluster(cluster(high=2, deleting=True))
    decisions = world.decide()
    assert {(d.job_uid, d.running) for d in of(decisions, t.EndJob)} == {("gang", False), ("run", True)}
    assert [d.code for d in of(decisions, t.CloseNode)] == ["NodeClosing.ComputeDeleted"]
    world.release("run")
    assert [d.code for d in of(world.decide(), t.CloseNode)] == ["NodeClosing.ComputeDeleted"]
    for node_id in list(world.nodes):
        world.gone(node_id)
    world.pool.apply(t.ClusterRemoved("c1"))
    assert world.pool.decide(world.now) == []


def test_a_lost_node_keeps_its_job_and_its_place() -> None:
    world = World()
    world.set_cluster(cluster(high=1))
    with_nodes(world, 1)
    world.queue(job("a", submitted_at=0))
    (assign,) = world.decide()
    world.lost(assign.node_ids[0])
    world.queue(job("b", submitted_at=5))
    assert of(world.decide(), t.OpenNode) == []  # not proved gone: it still counts against the maximum
    again = world.release("a")
    world.queue(again)
    assert of(world.decide(), t.OpenNode) == []
    world.gone(assign.node_ids[0])
    world.settle()
    assert list(world.running) == ["a"]  # its old place in the queue


def test_what_could_not_be_done_is_taken_back() -> None:
    world = World()
    world.set_cluster(cluster(high=1))
    world.queue(job("a"))
    opened = world.decide()[0]
    world.not_done(opened)
    (opened,) = of(world.decide(), t.OpenNode)
    world.ready(world.open_one())
    (assign,) = world.decide()
    world.not_done(assign)
    (again,) = of(world.decide(), t.Assign)
    assert again.node_ids == assign.node_ids


def test_restored_state_decides_as_if_it_had_never_stopped() -> None:
    world = World()
    world.set_cluster(cluster(high=2))
    with_nodes(world, 2)
    world.queue(job("a"), job("b", submitted_at=1), job("c", submitted_at=2))
    world.decide()
    fresh = World()
    fresh.now = world.now
    fresh.set_cluster(world.clusters["c1"])
    for node in world.nodes.values():
        fresh.nodes[node.id] = node
        fresh.pool.apply(t.NodeOpened(node, fresh.now))
    for uid, (request, at, nodes) in world.running.items():
        fresh.running[uid] = (request, at, nodes)
        fresh.pool.apply(t.JobAssigned(request, nodes, at))
    fresh.queue(*world.waiting.values())
    assert [type(d) for d in fresh.decide()] == [t.Wait]
    fresh.release("a")
    (assign,) = fresh.decide()
    assert assign.job_uid == "c"


def test_a_job_before_its_compute_waits_for_it() -> None:
    world = World()
    world.pool.apply(t.JobQueued(job("a"), 0))
    (wait,) = world.pool.decide(0)
    assert wait.code == "Waiting.NoCompute"
    world.pool.apply(t.ClusterSet(cluster()))
    assert len(of(world.pool.decide(0), t.OpenNode)) == 1


def test_events_of_unknown_things_and_repeats_change_nothing() -> None:
    world = World()
    world.set_cluster(cluster())
    with_nodes(world, 1)
    world.queue(job("a"))
    (assign,) = world.decide()
    node_id = assign.node_ids[0]
    for event in (
        t.NodeReady("nowhere"),
        t.NodeBusy(node_id, "a"),
        t.NodeReady(node_id),
        t.NodeGone("nowhere"),
        t.JobGone("nobody"),
        t.JobGone("a"),
        t.JobReleased("nobody"),
        t.ClusterRemoved("none"),
        t.NotDone(t.CloseNode("nowhere", "none", "", "")),
        t.ClockOnly(5),
    ):
        world.pool.apply(event)
    assert world.decide() == []
    with pytest.raises(ValueError, match="JobReleased must come first"):
        world.pool.apply(t.JobQueued(job("a")))
    assert world.pool.nodes("c1")[0].state is NodeState.RUNNING


def test_a_decision_looks_at_a_few_jobs_however_long_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    peeks = 0
    real = queue_module.Walk.peek

    def counted(self: queue_module.Walk, share: queue_module.Share) -> queue_module.Key | None:
        nonlocal peeks
        peeks += 1
        return real(self, share)

    monkeypatch.setattr(queue_module.Walk, "peek", counted)
    world = World()
    world.set_cluster(cluster(high=4))
    with_nodes(world, 4)
    pool = world.pool
    for n in range(20_000):
        pool.apply(t.JobQueued(job(f"j{n:05d}", nodes=1 + n % 2, submitted_at=n, team=f"t{n % 3}")))
    running = [d.job_uid for d in pool.decide(world.now) if isinstance(d, t.Assign)]
    peeks = 0
    for step in range(100):
        pool.apply(t.JobReleased(running.pop(0), world.now + step))
        running += [d.job_uid for d in pool.decide(world.now + step) if isinstance(d, t.Assign)]
    assert 0 < peeks < 100 * 70
