"""Job paths while commits fail or an environment breaks: nothing lost, run twice or left."""

from __future__ import annotations

from world import FOREVER, OWNER, SCOPE, SECOND, World

from tidemill.app.computes import computes
from tidemill.app.rows.codec import job_status
from tidemill.domain.model import JobState, Outcome
from tidemill.engines.base import TaskKey

# --- commits that fail


async def test_a_node_that_is_ready_while_the_disk_is_full_is_used_afterwards(world: World):
    await world.start()
    await world.cluster()
    world.engine._open_after = SECOND
    await world.submit("a", "cpu")
    await world.until(lambda: len(world.engine.nodes) == 1)
    world.clock.ahead += 2 * SECOND
    with world.full_disk():
        world.engine.advance()
        await world.until(lambda: bool(world.store.refused))
    assert (await world.ended("a")).state == JobState.COMPLETED


async def test_a_node_lost_while_the_disk_is_full_is_closed_afterwards(world: World):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (node,) = world.nodes()
    with world.full_disk():
        world.engine.lose(node.id)
        await world.until(lambda: bool(world.store.refused))
    assert (await world.ended("a")).state == JobState.COMPLETED
    assert [a.outcome for a in world.attempts("a")] == [Outcome.SYSTEM_FAILURE, Outcome.SUCCEEDED]
    assert node.id not in {n.id for n in world.nodes()}
    assert not world.intervals(node_id=node.id, open_only=True)


async def test_a_compute_deleted_while_the_disk_is_full_ends_its_jobs_afterwards(world: World):
    world.plans["runs"] = FOREVER
    await world.start()
    row = await world.cluster(high=1)
    await world.submit("runs", "cpu")
    await world.until(lambda: world.row("runs").state == JobState.RUNNING)
    await world.submit("waits", "cpu")
    await world.until(
        lambda: (
            "Waiting.NodesBusy" in world.codes(world.row("waits").uid)
            or len(world.codes(world.row("waits").uid)) > 1
        )
    )
    world.store.refuse = "Pool._decide"
    await computes.delete(world.services, OWNER, SCOPE, "cpu")
    await world.until(lambda: bool(world.store.refused))
    assert (await world.ended("waits")).state == JobState.CANCELED
    assert (await world.ended("runs")).state == JobState.CANCELED
    await world.until(lambda: world.read().by_uid(row.uid) is None, "the compute is gone")


async def test_an_environment_that_was_built_while_the_disk_is_full(world: World):
    await world.start()
    await world.cluster()
    environment = "azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    original = world.environments.ensure

    async def ensure(spec, log):
        built = await original(spec, log)
        world.store.full = True
        return built

    world.environments.ensure = ensure  # type: ignore[method-assign]
    await world.submit("a", "cpu", environmentId=environment)
    await world.until(lambda: bool(world.store.refused))
    world.environments.ensure = original  # type: ignore[method-assign]
    world.store.full = False
    assert (await world.ended("a")).state == JobState.COMPLETED


async def test_a_build_that_breaks_in_an_unknown_way_fails_the_job(world: World):
    await world.start()
    await world.cluster()
    world.environments.problem = OSError(5, "Input/output error")
    await world.submit(
        "a", "cpu", environmentId="azureml://registries/azureml/environments/sklearn-1.5/versions/1"
    )
    row = await world.ended("a")
    assert row.state == JobState.FAILED
    error = job_status(row.status).progress.error
    assert error is not None
    assert "Input/output error" in error.message


async def test_the_end_of_an_attempt_is_recorded_once_there_is_space(world: World):
    world.plans["a"] = FOREVER
    await world.start()
    await world.cluster()
    await world.submit("a", "cpu")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (attempt,) = world.attempts("a")
    with world.full_disk():
        world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0))
        await world.until(lambda: len(world.store.refused) > 1)
    assert (await world.ended("a")).state == JobState.COMPLETED
    assert len(world.attempts("a")) == 1
