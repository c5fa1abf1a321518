"""Jobs of several nodes: all start or none, with a reserved start that backfill does not delay."""

from __future__ import annotations

from dataclasses import replace

from scheduling_world import (
    GIB,
    SECOND,
    SMALL,
    STRICT,
    World,
    cluster,
    job,
    of,
    with_nodes,
)

from tidemill.domain.model import Vector
from tidemill.domain.scheduling import types as t


def test_a_gang_starts_all_or_none_and_holds_the_idle_ones() -> None:
    world = World()
    world.set_cluster(cluster(high=3))
    with_nodes(world, 2)
    world.queue(job("gang", nodes=3, submitted_at=0), job("one", submitted_at=1))
    decisions = world.decide()
    assert of(decisions, t.Assign) == []  # "one" has no estimate: it would delay the gang
    assert len(of(decisions, t.OpenNode)) == 1
    held = world.pool.explain("one", world.now)
    assert held is not None
    assert held.code == "Waiting.NodesHeld"
    assert held.sentence == (
        "Waits for 1 node of c1-cluster (2 idle, 0 busy, 1 opening, max 3): 1 job is ahead; "
        "the idle ones are held for 'job-gang', which needs 3 at once."
    )
    world.ready(world.open_one())
    (assign,) = of(world.decide(), t.Assign)
    assert assign.job_uid == "gang"
    assert assign.node_ids == tuple(sorted(assign.node_ids))
    assert len(assign.node_ids) == 3


def test_backfill_only_what_ends_before_the_reserved_start() -> None:
    world = World()
    world.set_cluster(cluster(high=4))
    with_nodes(world, 4)
    world.queue(job("long", nodes=2, estimated_us=100 * SECOND))
    world.decide()
    world.queue(job("gang", nodes=4, submitted_at=1, estimated_us=SECOND))
    world.queue(job("unknown", submitted_at=2))
    world.queue(job("too-long", submitted_at=3, estimated_us=101 * SECOND))
    world.queue(job("short", submitted_at=4, estimated_us=99 * SECOND))
    decisions = world.decide()
    (assign,) = of(decisions, t.Assign)
    assert (assign.job_uid, assign.code) == ("short", "Assigned.Backfill")
    assert "'job-gang'" in assign.sentence
    wait = world.pool.explain("gang", world.now)
    assert wait is not None
    assert wait.expected_at == world.now + 100 * SECOND
    world.now += 100 * SECOND
    world.release("long")
    world.release("short")
    (assign,) = of(world.decide(), t.Assign)
    assert assign.job_uid == "gang"  # not a moment later than it was reserved


def test_backfill_of_any_length_on_nodes_the_reservation_leaves_over() -> None:
    world = World()
    world.set_cluster(cluster(high=4))
    with_nodes(world, 4)
    world.queue(job("long", nodes=3, estimated_us=100 * SECOND))
    world.decide()
    world.queue(job("gang", nodes=3, submitted_at=1), job("endless", submitted_at=2))
    (assign,) = of(world.decide(), t.Assign)
    assert assign.job_uid == "endless"


def test_nothing_slips_in_when_no_end_is_known() -> None:
    world = World()
    world.set_cluster(cluster(high=3))
    with_nodes(world, 3)
    world.queue(job("endless"))
    world.decide()
    world.queue(job("gang", nodes=3, submitted_at=1), job("short", submitted_at=2, estimated_us=1))
    assert of(world.decide(), t.Assign) == []


def test_a_stream_of_small_jobs_cannot_starve_a_gang() -> None:
    world = World()
    world.set_cluster(cluster(high=4))
    with_nodes(world, 4)
    world.queue(*(job(f"s{n:03d}", submitted_at=n, estimated_us=3 * SECOND) for n in range(4)))
    world.decide()
    world.queue(job("gang", nodes=4, submitted_at=10, estimated_us=SECOND))
    reserved = None
    for n in range(100):
        world.now += SECOND
        world.queue(job(f"t{n:03d}", submitted_at=20 + n, estimated_us=2 * SECOND))
        for uid, (request, at, _) in list(world.running.items()):
            if at + (request.estimated_us or 0) <= world.now:
                world.release(uid)
        world.decide()
        wait = world.pool.explain("gang", world.now)
        reserved = reserved or (wait.expected_at if wait else None)
        if "gang" in world.started:
            break
    assert world.started["gang"] == reserved


def test_a_gang_over_the_maximum_is_parked_and_comes_back() -> None:
    world = World()
    world.set_cluster(cluster(high=2))
    world.queue(job("big", nodes=3, submitted_at=0), job("one", submitted_at=1))
    decisions = world.decide()
    assert len(of(decisions, t.OpenNode)) == 1  # "one" is not held up
    waits = {wait.job_uid: wait for wait in of(decisions, t.Wait)}
    assert waits["big"].code == "Waiting.GangTooLarge"
    assert "needs 3 nodes at once but compute 'c1-cluster' has at most 2" in waits["big"].sentence
    world.settle()
    assert list(world.running) == ["one"]
    world.set_cluster(cluster(high=3))
    world.release("one")
    world.settle()
    assert list(world.running) == ["big"]


def test_two_half_opened_gangs_do_not_block_each_other_for_ever() -> None:
    world = World(replace(STRICT, total=Vector(10_000, 20 * GIB)))  # five small nodes
    world.set_cluster(cluster("c1", SMALL, high=4))
    world.set_cluster(cluster("c2", SMALL, high=4))
    with_nodes(world, 2, "c1")
    with_nodes(world, 2, "c2")
    world.queue(job("g1", "c1", nodes=4, submitted_at=0), job("g2", "c2", nodes=4, submitted_at=1))
    world.settle()
    assert list(world.running) == ["g1"]
    world.release("g1")
    world.settle()
    assert list(world.running) == ["g2"]


def test_nodes_held_for_a_reserved_gang_are_not_taken_by_another_cluster() -> None:
    world = World(replace(STRICT, total=Vector(6_000, 12 * GIB)))  # three small nodes
    world.set_cluster(cluster("c1", SMALL, high=3))
    world.set_cluster(cluster("c2", SMALL, high=1))
    with_nodes(world, 3, "c1")
    world.queue(job("long", "c1"))
    world.decide()
    world.queue(job("gang", "c1", nodes=3, submitted_at=1))
    world.queue(job("other", "c2", submitted_at=2))
    decisions = world.decide()
    assert of(decisions, t.CloseNode) == []
    assert [w.code for w in of(decisions, t.Wait)] == ["Waiting.NodesBusy", "Waiting.HostFull"]
    world.set_cluster(cluster("c1", SMALL, high=4))  # without the gang in front they are
    world.cancel("gang")
    assert [d.code for d in of(world.decide(), t.CloseNode)] == ["NodeClosing.Reclaimed"]
