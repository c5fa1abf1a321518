"""Instances that stand still while their deployment sleeps: nobody's node, nobody's money, awake at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import deploymentworld
import pytest
from deploymentworld import (
    deploy,
    jobs_of,
    key_of,
    live,
    phases,
    report,
    routed,
    row_of,
    settled,
    to_zero,
    until,
)
from world import OWNER, World

from tidemill.app.rows.codec import job_status
from tidemill.app.serving import online_deployments
from tidemill.domain.model import JobState, NodeState, Resource
from tidemill.engines.base import TaskKey, Unreachable

w = deploymentworld.w


@pytest.fixture
async def parking(w: World) -> World:
    settings = replace(w.services.settings, parked_memory=64 << 20)
    w.services = replace(w.services, settings=settings)
    return w


async def sleep(w: World) -> Resource:
    """-> the one that stands still."""
    report(w, last_at=w.clock.now())
    w.clock.ahead += 11_000_000
    await until(w, lambda: phases(w)[-1:] == ["parked"] and bool(w.calls("park")), "one is parked")
    await until(w, lambda: len(live(w)) == 1)
    return live(w)[0]


async def asleep(w: World, **more: object) -> Resource:
    await w.start()
    await deploy(w, **to_zero(**more))
    await settled(w)
    return await sleep(w)


def paid(w: World) -> list[str]:
    return [interval.id for interval in w.intervals() if interval.ended_at is None]


async def test_it_costs_nothing_and_goes_on_with_the_first_request(parking: World) -> None:
    w = parking
    row = await asleep(w)
    node, key = key_of(w, row)
    assert [n.state for n in w.nodes()] == [NodeState.PARKED]
    assert paid(w) == []
    assert (routed(w).instances, routed(w).wake) == ((), True)
    scheduler = w.services.live.scheduler
    assert scheduler is not None
    compute = row.ref
    assert scheduler().nodes(compute) == ()
    report(w, held=1)
    await until(w, lambda: len(routed(w).instances) == 1, "it is awake")
    assert key_of(w, live(w)[0]) == (node, key), "the same processes"
    assert [call[1] for call in w.calls("wake")] == [node]
    assert len(w.calls("start")) == 1
    assert len(paid(w)) == 2, "its node and its allocation"
    assert [n.state for n in w.nodes()] == [NodeState.RUNNING]
    report(w, last_at=w.clock.now())
    await sleep(w)
    assert paid(w) == []
    kinds = [interval.kind for interval in w.intervals()]
    assert kinds.count("node") == kinds.count("allocation") == 2


async def test_more_than_one_are_started_beside_it(parking: World) -> None:
    w = parking
    row = await asleep(w)
    report(w, held=3)
    await until(w, lambda: len(routed(w).instances) == 3, "it and two new ones")
    assert row.uid in {one.uid for one in live(w)}


async def test_a_restart_leaves_it_parked_and_it_can_be_woken(parking: World) -> None:
    w = parking
    row = await asleep(w)
    await w.restart()
    await until(w, lambda: len(w.calls("park")) == 2, "said again")
    assert [one.uid for one in live(w)] == [row.uid]
    assert paid(w) == []
    report(w, held=1)
    await until(w, lambda: len(routed(w).instances) == 1, "it is awake")
    assert len(live(w)) == 1
    assert live(w)[0].uid == row.uid


async def test_a_restart_while_it_wakes_wakes_it(parking: World) -> None:
    w = parking
    row = await asleep(w)

    async def never(node_id: str) -> None:
        raise RuntimeError("the server is killed here")

    wake, w.engine.wake = w.engine.wake, never
    report(w, held=1)
    await until(w, lambda: [n.state for n in w.nodes()] == [NodeState.OPENING])
    w.engine.wake = wake
    await w.restart()
    await until(w, lambda: len(routed(w).instances) == 1, "it is awake")
    assert [one.uid for one in live(w)] == [row.uid]
    assert len(paid(w)) == 2


async def test_its_node_lost_it_is_gone_and_the_next_request_starts_another(parking: World) -> None:
    w = parking
    row = await asleep(w)
    node, _ = key_of(w, row)
    w.engine.lose(node)
    await until(w, lambda: not live(w) and not w.nodes(), "nothing is left of it")
    assert jobs_of(w)[0].state == JobState.CANCELED
    assert w.attempts(row.key.name)[-1].ended_at is not None
    report(w, held=1)
    await until(w, lambda: len(routed(w).instances) == 1, "another")


async def test_its_process_ended_it_is_not_started_again(parking: World) -> None:
    w = parking
    row = await asleep(w)
    node, key = key_of(w, row)
    task = w.engine.nodes[node].tasks[key]
    task.restarts = None  # as an agent does it
    w.engine.finish(node, key, None, signal=9)
    await until(w, lambda: not live(w) and not w.nodes(), "its node is closed, too")
    ended = job_status(jobs_of(w)[0].status).progress.error
    assert ended is not None
    assert ended.message.startswith("Ended while parked: ")


async def test_what_cannot_be_woken_is_started_anew(parking: World) -> None:
    w = parking
    row = await asleep(w)
    node, _ = key_of(w, row)

    async def fails(node_id: str) -> None:
        raise Unreachable(f"node {node_id} does not answer")

    w.engine.wake = fails
    report(w, held=1)
    await until(w, lambda: len(routed(w).instances) == 1, "it answers, from another node")
    assert key_of(w, live(w)[0])[0] != node


async def test_a_host_that_cannot_parks_nothing(parking: World) -> None:
    w = parking
    w.engine.parks = False
    await w.start()
    await deploy(w, **to_zero())
    await settled(w)
    report(w, last_at=w.clock.now())
    w.clock.ahead += 11_000_000
    await until(w, lambda: not live(w) and not w.nodes(), "it has ended")
    told = [e.message for e in w.read().events(jobs_of(w)[0].uid)]
    assert any("cannot stand still" in message for message in told)


async def test_a_fault_of_ours_leaves_nothing_running_that_is_said_to_stand_still(
    parking: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, faults = parking, [OSError("no space left")]
    monkeypatch.setattr("tidemill.controllers.parking.AGAIN_S", 0.01)
    park = w.engine.park

    async def fails_once(node_id: str) -> None:
        if faults:
            raise faults.pop()
        await park(node_id)

    w.engine.park = fails_once
    await asleep(w)
    assert not faults
    assert len(w.calls("park")) == 1


async def test_the_oldest_goes_when_they_hold_too_much(parking: World) -> None:
    w = parking
    row = await asleep(w)
    node, _ = key_of(w, row)
    w.engine.memory[node] = 65 << 20
    assert w.running is not None
    w.running.parking.node_changed()
    await until(w, lambda: not live(w) and not w.nodes(), "its memory is free again")
    told = [e.message for e in w.read().events(row.uid)]
    assert any("64 MiB may be parked at once" in message for message in told)


@pytest.mark.parametrize("change", ["deleted", "updated", "told not to"])
async def test_it_goes_when_the_deployment_changes(parking: World, change: str) -> None:
    w = parking
    row = await asleep(w)
    if change == "deleted":
        await online_deployments.delete(w.services, OWNER, row.key.scope, "ep1", "blue")
        await until(w, lambda: row_of(w) is None and not w.nodes(), "nothing is left")
    elif change == "updated":
        await deploy(w, plan="$0", **to_zero())
        await settled(w)
        await until(w, lambda: row.uid not in {one.uid for one in live(w)}, "the older one is gone")
    else:
        await deploy(w, **to_zero(parkInstance=False))
        await until(w, lambda: not live(w) and not w.nodes(), "nothing stands still")
    assert w.read().by_uid(row.uid) is None or JobState(w.read().by_uid(row.uid).state).final


async def test_a_clean_stop_leaves_nothing(parking: World) -> None:
    w = parking
    await asleep(w)
    await w.stop()
    assert w.nodes() == []
    assert w.engine.nodes == {}


async def test_its_room_is_others_while_it_sleeps_and_it_waits_like_any_other(parking: World) -> None:
    w = parking
    w.services = replace(w.services, settings=replace(w.services.settings, capacity="strict"))
    row = await asleep(w)
    node, _ = key_of(w, row)
    await w.cluster(high=4)
    for name in ("a", "b", "c", "d"):
        await w.submit(name, "cpu")
    await w.until(lambda: all(w.row(name).state == JobState.RUNNING for name in ("a", "b", "c", "d")))
    report(w, held=1)
    await until(w, lambda: "Waiting.HostFull" in w.codes(row.uid), "the host is full of others' jobs")
    assert [n.state for n in w.nodes() if n.id == node] == [NodeState.PARKED]
    (attempt,) = w.attempts("a")
    w.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0))
    await until(w, lambda: len(routed(w).instances) == 1, "it goes on when there is room")
    assert key_of(w, live(w)[0])[0] == node


async def test_deleted_while_it_waits_for_room_nothing_is_left(parking: World) -> None:
    w = parking
    row = await asleep(w)

    async def never(node_id: str) -> None:
        await asyncio.sleep(3600)

    w.engine.wake = never
    report(w, held=1)
    await until(w, lambda: [n.state for n in w.nodes()] == [NodeState.OPENING])
    await online_deployments.delete(w.services, OWNER, row.key.scope, "ep1", "blue")
    await until(w, lambda: row_of(w) is None and not w.nodes(), "nothing is left")
    assert paid(w) == []
