"""A job from its submit to its end: stops that arrive late, and what its nodes do."""

from __future__ import annotations

import asyncio

from world import FOREVER, OWNER, SCOPE, SECOND, World

from tidemill.app.jobs import endings
from tidemill.app.rows.codec import job_status
from tidemill.controllers import staging
from tidemill.domain.model import JobState, Outcome
from tidemill.engines.base import NoCapacity, TaskKey, Unreachable


async def test_a_job_runs_and_its_ledger_closes(world: World):
    await world.start()
    await world.cluster()
    row = await world.submit("a", "cpu")
    assert (await world.ended("a")).state == JobState.COMPLETED
    (allocation,) = world.intervals(job_uid=row.uid)
    (node,) = world.intervals(node_id=allocation.node_id, open_only=True)
    assert (allocation.kind, node.kind, allocation.ended_at is not None) == ("allocation", "node", True)
    assert allocation.workspace == node.workspace == SCOPE


# --- stops


async def test_a_stop_that_failed_is_sent_again(world: World):
    world.plans["a"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    original, failures = world.engine.stop, [OSError("broken pipe")]

    async def stop(*given):
        if failures:
            raise failures.pop()
        await original(*given)

    world.engine.stop = stop  # type: ignore[method-assign]
    await endings.cancel(world.services, OWNER, SCOPE, "a")
    assert (await world.ended("a")).state == JobState.CANCELED


async def test_a_cancel_during_collection_is_a_cancel_with_its_own_words(world: World):
    world.plans["a"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (attempt,) = world.attempts("a")
    gate, asked = asyncio.Event(), asyncio.Event()
    original = staging.collect

    async def collect(*given, **more):
        gate.set()
        await asked.wait()
        return await original(*given, **more)

    staging.collect = collect
    try:
        world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0))
        await asyncio.wait_for(gate.wait(), 60)
        await endings.cancel(world.services, OWNER, SCOPE, "a")
        asked.set()
        row = await world.ended("a")
    finally:
        staging.collect = original
    assert row.state == JobState.CANCELED
    error = job_status(row.status).progress.error
    assert error is not None
    assert error.code == "Canceled"


# --- nodes


async def test_a_start_that_did_not_arrive_is_repeated(world: World):
    await world.start()
    await world.cluster()
    original, failures = world.engine.start, [Unreachable("the connection was lost")]

    async def start(*given):
        if failures:
            raise failures.pop()
        await original(*given)

    world.engine.start = start  # type: ignore[method-assign]
    await world.submit("a", "cpu")
    assert (await world.ended("a")).state == JobState.COMPLETED


async def test_a_node_closed_under_its_job_is_no_fault_of_the_job(world: World):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    await world.engine.close_node(world.nodes()[0].id)
    assert (await world.ended("a")).state == JobState.COMPLETED
    assert [a.outcome for a in world.attempts("a")] == [Outcome.SYSTEM_FAILURE, Outcome.SUCCEEDED]


async def test_a_node_that_cannot_be_opened_is_not_asked_for_in_a_hot_loop(world: World):
    await world.start()
    await world.cluster()

    async def open_node(spec):
        world.engine.calls.append(("open_node", spec))
        raise NoCapacity("no more of these")

    world.engine.open_node = open_node  # type: ignore[method-assign]
    await world.submit("a", "cpu")
    await asyncio.sleep(1.0)
    assert len(world.calls("open_node")) < 10


async def test_an_idle_local_node_closes_after_a_restart(world: World):
    await world.start()
    await world.submit("a", "local")
    await world.ended("a")
    assert len(world.nodes()) == 1
    await world.restart()
    world.clock.ahead += 600 * SECOND
    world.running.pool._wake.set()
    await world.until(lambda: not world.nodes(), "the node is closed")


async def test_a_local_node_is_on_its_workspaces_bill(world: World):
    await world.start()
    await world.submit("a", "local")
    await world.ended("a")
    assert {interval.workspace for interval in world.intervals()} == {SCOPE}
