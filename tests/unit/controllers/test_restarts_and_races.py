"""Job paths under restarts, lost nodes and races: nothing lost, run twice or left."""

from __future__ import annotations

import asyncio

import pytest
from world import FOREVER, OWNER, SCOPE, SECOND, World

from tidemill.app.computes import computes
from tidemill.app.jobs import endings, job_logs
from tidemill.app.rows.codec import job_status
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.workspaces import workspaces
from tidemill.controllers import environments, staging
from tidemill.controllers.launching import PlacedRank
from tidemill.controllers.live_attempt import LiveAttempt
from tidemill.domain.model import Attempt, AttemptState, JobState, NodeState, Outcome
from tidemill.engines.base import EngineError, EngineEvent, TaskKey, Unreachable
from tidemill.engines.fake import Plan

# --- restarts


async def test_an_attempt_whose_environment_is_gone_after_a_restart_ends_when_its_processes_did(world: World):
    environment = "azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    world.environments.built.add("d" * 8)
    world.plans["a"] = Plan(after=None, ignores_term=True)
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu", environmentId=environment)
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    world.environments.built.clear()
    await world.restart()
    await world.until(lambda: bool(world.calls("stop")))
    assert not JobState(world.row("a").state).final
    row = await world.ended("a")
    error = job_status(row.status).progress.error
    assert error is not None
    assert error.code == "EnvironmentMissing"
    assert all(task.exited for node in world.engine.nodes.values() for task in node.tasks.values())


async def test_a_restart_in_which_a_directory_cannot_be_made_does_not_start_a_second_attempt(world: World):
    world.plans["a"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    original, asked = world.engine.prepare_dir, []

    async def prepare_dir(*given):
        asked.append(given)
        if len(asked) == 1:
            raise EngineError("no inodes left")
        return await original(*given)

    world.engine.prepare_dir = prepare_dir  # type: ignore[method-assign]
    await world.restart()
    await world.until(lambda: len(asked) > 1, "it is tried again")
    assert len(world.attempts("a")) == 1
    attempt = world.attempts("a")[0]
    world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0))
    assert (await world.ended("a")).state == JobState.COMPLETED
    assert len({call[2].epoch for call in world.calls("start")}) == 1


# --- races


async def test_a_job_submitted_while_its_compute_goes_is_refused_or_ended(world: World):
    await world.start()
    await world.cluster()
    from tidemill.app.jobs import job_planning

    original = job_planning.plan_job

    async def plan_job(*given):
        plan = await original(*given)
        await computes.delete(world.services, OWNER, SCOPE, "cpu")
        return plan

    job_planning.plan_job = plan_job
    try:
        with pytest.raises(Exception, match="cpu"):
            await world.submit("a", "cpu")
    finally:
        job_planning.plan_job = original


async def test_a_new_attempt_waits_until_the_old_node_is_gone(world: World):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (node,) = world.nodes()
    original, asked, gate = world.engine.close_node, asyncio.Event(), asyncio.Event()

    async def close_node(node_id):
        asked.set()
        await gate.wait()
        await original(node_id)

    world.engine.close_node = close_node  # type: ignore[method-assign]
    world.engine.lose(node.id)
    await world.until(lambda: world.read().node(node.id).state is NodeState.LOST)
    await world.until(asked.is_set, "its node is being closed")
    await world.submit("b")  # on another compute: decisions are made meanwhile
    await world.ended("b")
    assert len(world.attempts("a")) == 1
    gate.set()
    assert (await world.ended("a")).state == JobState.COMPLETED


async def test_a_task_that_ignores_term_goes_with_its_node(world: World):
    world.plans["a"] = Plan(after=None, ignores_term=True)
    world.engine._exit = lambda *given: None  # not even KILL ends it
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    await endings.cancel(world.services, OWNER, SCOPE, "a")
    assert (await world.ended("a")).state == JobState.CANCELED


async def test_a_node_whose_agent_hangs_is_lost_after_two_looks(world: World):
    world.plans["a.1"] = FOREVER
    running = await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (node,) = world.nodes()
    original, asked = world.engine.resize, []

    async def resize(node_id, granted):
        if node_id == node.id:
            asked.append(node_id)
            raise Unreachable("no answer")
        await original(node_id, granted)

    world.engine.resize = resize  # type: ignore[method-assign]
    world.clock.ahead += 90 * SECOND
    await running.watchdog.sweep()
    await world.until(lambda: bool(asked), "the first look")
    assert world.read().node(node.id).state is NodeState.RUNNING
    await running.watchdog.sweep()
    assert (await world.ended("a")).state == JobState.COMPLETED
    assert [a.outcome for a in world.attempts("a")] == [Outcome.SYSTEM_FAILURE, Outcome.SUCCEEDED]


async def test_a_waiting_job_whose_submit_was_not_heard_is_found_by_the_sweep(world: World):
    running = await world.start()
    await world.cluster()
    heard: list[str] = []
    told = running.pool.touched
    running.pool.touched = lambda kind, uid: heard.append(kind)  # type: ignore[method-assign]
    await world.submit("a", "cpu")
    await world.until(lambda: "resource:jobs" in heard, "the commit is told")
    running.pool.touched = told  # type: ignore[method-assign]
    assert not world.calls("open_node")
    world.clock.ahead += 90 * SECOND
    await running.watchdog.sweep()
    assert (await world.ended("a")).state == JobState.COMPLETED


async def test_a_wide_job_that_loses_one_node_frees_the_other(world: World):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu", resources={"instanceCount": 2})
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    one, two = world.attempts("a")[0].nodes
    world.engine.lose(two)
    assert (await world.ended("a")).state == JobState.COMPLETED
    first, second = world.attempts("a")
    assert (first.outcome, second.outcome) == (Outcome.SYSTEM_FAILURE, Outcome.SUCCEEDED)
    assert one in second.nodes
    assert two not in second.nodes
    ended = list(world.intervals(job_uid=world.row("a").uid))
    assert len(ended) == 4
    assert all(i.ended_at is not None for i in ended)


async def test_exits_told_before_the_ranks_are_known_count_as_what_they_are(world: World):
    """After a restart, events come before their attempt was looked at: a helper's exit breaks nothing."""
    world.plans["a"] = FOREVER
    await world.start()
    await world.cluster()
    distribution = {"distributionType": "TensorFlow", "workerCount": 1, "parameterServerCount": 1}
    await world.submit("a", "cpu", distribution=distribution)
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (attempt,) = world.attempts("a")
    world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 1), exit_code=1)
    await world.until(world.engine._events.empty, "the exit is heard")
    await world.restart()
    await world.until(world.engine._events.empty, "and heard again")
    await world.submit("b")
    await world.ended("b")
    assert not JobState(world.row("a").state).final
    assert not world.calls("stop")
    world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0))
    assert (await world.ended("a")).state == JobState.COMPLETED


async def test_the_same_submit_twice_at_once_is_one_job(world: World):
    await world.start()
    await world.cluster()
    rows = await asyncio.gather(*(world.submit("a", "cpu") for _ in range(5)))
    assert len({row.uid for row in rows}) == 1
    await world.ended("a")
    assert len(world.calls("start")) == 1


async def test_a_cancel_beside_every_step_ends_canceled_or_completed_and_frees_the_node(world: World):
    """Cancel after 0, 1, 2, … turns of the loop from the submit."""
    await world.start()
    await world.cluster(high=1)
    world.plans["c"] = FOREVER
    for turns in range(0, 60, 3):
        name = f"c{turns}"
        world.plans[name] = FOREVER
        await world.submit(name, "cpu")
        for _ in range(turns):
            await asyncio.sleep(0)
        await endings.cancel(world.services, OWNER, SCOPE, name)
        assert (await world.ended(name)).state == JobState.CANCELED
        attempts = world.attempts(name)
        assert all(a.outcome is Outcome.CANCELED for a in attempts)
        await world.until(lambda: all(n.state is not NodeState.RUNNING for n in world.nodes()))
    open_tasks = [t for n in world.engine.nodes.values() for t in n.tasks.values() if not t.exited]
    assert open_tasks == []
    assert not [i for i in world.intervals(open_only=True) if i.kind == "allocation"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_deleted_workspace_leaves_no_node_of_its_own(world: World, restarted: bool):
    cleaner = workspace_deletion.WorkspaceCleaner(world.services)
    await world.start()
    await world.submit("a", "local")
    await world.ended("a")
    if restarted:
        await world.restart()
        cleaner = workspace_deletion.WorkspaceCleaner(world.services)
    cleaner.start()
    assert len(world.nodes()) == 1
    await workspace_deletion.delete(world.services, OWNER, SCOPE)
    await world.until(
        lambda: world.read().get(workspaces.workspace_key(SCOPE)) is None, "the workspace is gone"
    )
    assert not world.nodes()
    assert not world.intervals(open_only=True)
    await cleaner.stop()


async def test_a_build_that_never_ends_fails_its_job_at_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def ensure(*given):
        await asyncio.Event().wait()

    monkeypatch.setattr(environments, "BUILD_S", 0.05)
    world.environments.ensure = ensure  # type: ignore[method-assign]
    await world.start()
    await world.submit("a", environmentId="azureml://registries/azureml/environments/sklearn-1.5/versions/1")
    row = await world.ended("a")
    assert row.state == JobState.FAILED
    error = job_status(row.status).progress.error
    assert error is not None
    assert error.code == "EnvironmentTimeout"


async def test_a_job_cancelled_instead_of_tried_again_shows_its_log(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.plans["a.1"] = Plan(after=None, output=b"what it wrote\n")
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    original, collecting, asked = staging.collect, asyncio.Event(), asyncio.Event()

    async def collect(*given, **more):
        collecting.set()
        await asked.wait()
        return await original(*given, **more)

    monkeypatch.setattr(staging, "collect", collect)
    world.engine.lose(world.nodes()[0].id)
    await asyncio.wait_for(collecting.wait(), 60)
    await endings.cancel(world.services, OWNER, SCOPE, "a")
    asked.set()
    row = await world.ended("a")
    assert row.state == JobState.CANCELED
    (log,) = await job_logs.list_logs(world.services, row)
    assert await job_logs.read_log(world.services, row, log.path, 0) == b"what it wrote\n"


async def test_what_is_lost_after_a_rank_ended_unheard_ends_with_its_node(world: World):
    """One rank ended while no server ran; the node of the other is lost an hour after the next start: both
    nodes were held until then, and are billed for it."""
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu", resources={"instanceCount": 2})
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (attempt,) = world.attempts("a")
    one, two = attempt.nodes
    await world.stop()
    world.engine.finish(one, TaskKey(attempt.id, 0))
    world.clock.ahead += 600 * SECOND
    world.engine.reattach()
    original, asked = world.engine.stop, asyncio.Event()

    async def stop(node_id, *given):  # a node that does not answer is asked again
        asked.set()
        if node_id == two:
            raise Unreachable("no answer")
        await original(node_id, *given)

    world.engine.stop = stop  # type: ignore[method-assign]
    await world.start()
    await world.until(world.engine._events.empty, "the exit is heard")
    world.clock.ahead += 3600 * SECOND
    lost, lost_mono = world.clock.now(), world.clock.boottime()
    world.engine.lose(two)
    await world.until(lambda: world.attempts("a")[0].state is AttemptState.ENDED, "it has ended")
    ended = world.attempts("a")[0]
    assert ended.outcome is Outcome.SYSTEM_FAILURE
    assert ended.ended_at is not None
    assert lost <= ended.ended_at <= world.clock.now()
    held = [i for i in world.intervals(job_uid=world.row("a").uid) if i.id.startswith(f"{attempt.id}:")]
    assert {i.node_id for i in held} == {one, two}
    assert all(lost <= (i.ended_at or 0) <= world.clock.now() for i in held)
    assert all(lost_mono <= (i.ended_mono or 0) <= world.clock.boottime() for i in held)
    assert all((i.ended_mono or 0) - i.started_mono >= 4200 * SECOND for i in held)


def test_an_end_that_is_told_again_is_not_dated_anew() -> None:
    """While results are stored, an agent that connects again repeats what it said."""
    event = EngineEvent("task_exited", "n", TaskKey("x.1", 0), at=100 * SECOND)
    live = LiveAttempt(Attempt("x.1", "x", 1, "c", ("n",), ((),), 0))
    live.rank_ended(event, 101 * SECOND)
    live.rank_ended(event, 160 * SECOND)
    assert live.heard_late == SECOND


def test_an_end_without_a_time_and_a_refused_start_end_when_they_are_heard() -> None:
    late = EngineEvent("task_exited", "n", TaskKey("x.1", 0), at=100 * SECOND)
    for end in (
        lambda live: live.rank_ended(EngineEvent("task_exited", "n", TaskKey("x.1", 1)), 900 * SECOND),
        lambda live: live.rank_refused(1, "no such program", 900 * SECOND),
    ):
        live = LiveAttempt(Attempt("x.1", "x", 1, "c", ("n",), ((),), 0))
        live.ranks = {number: PlacedRank(number, 0, True, "log") for number in (0, 1)}
        live.rank_ended(late, 700 * SECOND)
        assert live.heard_late == 600 * SECOND
        end(live)
        assert (live.last_end, live.heard_late) == (900 * SECOND, 0)


async def test_what_was_lost_before_a_restart_ends_when_its_node_did(world: World):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (attempt,) = world.attempts("a")
    world.store.refuse = "_record_end"
    world.engine.lose(attempt.nodes[0])
    await world.until(lambda: bool(world.store.refused), "its end is not recorded")
    gone = world.read().node(attempt.nodes[0]).closed_at
    await world.stop()
    world.clock.ahead += 600 * SECOND
    world.engine.reattach()
    await world.start()
    await world.until(lambda: world.attempts("a")[0].state is AttemptState.ENDED, "it has ended")
    assert abs(world.attempts("a")[0].ended_at - gone) < 300 * SECOND
