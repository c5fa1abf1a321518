"""Nodes of a failed job that stay for a look: whose they are, what they cost, every way in which it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from world import OWNER, SCOPE, SECOND, World

from tidemill.app.computes import computes
from tidemill.app.jobs import endings, jobs, kept_nodes, node_visits
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.views import job_views
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.model import JobState, NodeState
from tidemill.domain.prices import check_intervals
from tidemill.engines.base import TaskKey
from tidemill.engines.fake import Plan

KEPT = {"properties": {"tidemill.keep_on_failure": "30m"}}
FAILS = Plan(exit_code=3)


def kept_of(world: World, name: str = "a"):
    return kept_nodes.of(world.row(name))


def files_of(world: World) -> Path:
    kept = kept_of(world)
    return Path(world.engine.work_dir(kept.nodes[0], kept.attempt))


async def failed(world: World, name: str = "a", compute: str = "cpu", **more: Any) -> None:
    world.plans[name] = FAILS
    await world.submit(name, compute, **{**KEPT, **more})
    await world.ended(name)
    assert world.row(name).state == JobState.FAILED


def node_state(world: World, node_id: str) -> NodeState:
    return world.read().node(node_id).state


async def test_its_node_stays_is_its_own_and_is_paid_for(world: World):
    await world.start()
    await world.cluster(high=1)
    await failed(world)
    kept = kept_of(world)
    assert kept is not None
    (node,) = world.nodes()
    assert (node.id, node.state, node.attempt_id) == (kept.nodes[0], NodeState.RUNNING, kept.attempt)
    assert "stays for 30 min with the job's files" in str(world.read().events(world.row("a").uid))
    await world.submit("b", "cpu")  # the compute has no other node
    await world.until(lambda: "a hold" in str(world.read().events(world.row("b").uid)), "b waits for a")

    world.clock.ahead += 600 * SECOND
    shown = await kept_nodes.shown(world.services, world.row("a"))
    assert shown is not None
    price = world.services.sizes.price("Standard_DS1_v2", "westeurope")
    assert price is not None
    assert shown["usd_hour"] == pytest.approx(price.usd_hour)
    passed = (world.clock.now() - kept.since) / SECOND  # the 600 s, and what the test took
    assert price.usd_hour / 6 <= shown["usd"] <= price.usd_hour * passed / 3600 + 1e-6
    assert 1800 - passed - 1e-3 <= shown["seconds_left"] <= 1200
    why = await job_views.why(world.services, world.row("a"))
    assert any("tidemill job release --name a" in step for step in why["next"])
    detail = await job_views.detail(world.services, world.row("a"))
    assert detail["price"]["open"]
    assert detail["kept"]["nodes"] == [node.id]

    files = files_of(world)
    assert files.exists()
    await kept_nodes.release_now(world.services, OWNER, SCOPE, "a")
    assert (await world.ended("b")).state == JobState.COMPLETED  # on that node, and clean
    await world.until(lambda: not files.exists(), "its files are gone")
    assert kept_of(world) is None
    assert world.row("a").next_at is None
    held = world.intervals(job_uid=world.row("a").uid)
    assert [bool(interval.ended_at) for interval in held] == [True, True]
    assert check_intervals(world.intervals()) == []
    with pytest.raises(Conflict, match="keeps no nodes"):
        await kept_nodes.release_now(world.services, OWNER, SCOPE, "a")


@pytest.mark.parametrize("restarted", [False, True])
async def test_its_time_passes(world: World, restarted: bool):
    await world.start()
    await failed(world, compute="")
    kept = kept_of(world)
    assert kept is not None
    if restarted:
        await world.restart()
        await world.until(lambda: bool(world.nodes()))
        assert node_state(world, kept.nodes[0]) is NodeState.RUNNING
        assert files_of(world).exists()
    world.clock.ahead += 1801 * SECOND
    world.running.kept._loop.wake()
    await world.until(lambda: not world.nodes() and kept_of(world) is None, "released and closed")
    assert "The time that they were to stay is over." in str(world.read().events(world.row("a").uid))
    await world.until(lambda: not world.engine.nodes)


async def test_time_that_passed_while_the_server_was_down(world: World):
    await world.start()
    await failed(world, compute="")
    world.clock.ahead += 3600 * SECOND
    await world.restart()
    await world.until(lambda: not world.nodes(), "released at the start")


async def test_what_completes_is_canceled_or_asks_for_nothing_keeps_none(world: World):
    await world.start()
    await world.cluster()
    await world.submit("good", "cpu", **KEPT)
    await world.ended("good")
    world.plans["bad"] = FAILS
    await world.submit("bad", "cpu")
    await world.ended("bad")
    world.plans["long"] = Plan(after=None)
    await world.submit("long", "cpu", **KEPT)
    await world.until(lambda: world.row("long").state == JobState.RUNNING)
    await endings.cancel(world.services, OWNER, SCOPE, "long")
    await world.ended("long")
    assert not any(kept_of(world, name) for name in ("good", "bad", "long"))
    await world.until(lambda: all(node.state is NodeState.IDLE for node in world.nodes()))


async def test_every_other_end(world: World):
    await world.start()
    await world.cluster(high=4)
    for name in ("deleted", "lost", "going"):
        await failed(world, name)
    await endings.delete(world.services, OWNER, SCOPE, "deleted")
    node = kept_of(world, "lost").nodes[0]
    world.engine.lose(node)
    await world.until(lambda: kept_of(world, "lost") is None, "its node is gone")
    await computes.delete(world.services, OWNER, SCOPE, "cpu")
    await world.until(lambda: kept_of(world, "going") is None and not world.nodes(), "its compute is gone")
    await failed(world, "last", "")
    await workspace_deletion.delete(world.services, OWNER, SCOPE)
    await world.until(lambda: not world.nodes(), "its workspace goes")
    assert check_intervals(world.intervals()) == []
    assert not world.intervals(open_only=True)


async def test_all_nodes_of_a_gang_stay(world: World):
    await world.start()
    world.plans["a"] = FAILS
    await failed(world, compute="", resources={"instanceCount": 2, "instanceType": "Standard_DS1_v2"})
    kept = kept_of(world)
    assert kept is not None
    assert len(kept.nodes) == 2
    world.engine.lose(kept.nodes[0])
    await world.until(lambda: node_state(world, kept.nodes[0]) is NodeState.CLOSED)
    assert kept_of(world) is not None
    world.engine.lose(kept.nodes[1])
    await world.until(lambda: kept_of(world) is None)
    await world.until(lambda: not world.nodes())


@pytest.mark.parametrize("text", ["soon", "25h", "-5m", "P1M"])
async def test_a_time_that_is_none_is_refused(world: World, text: str):
    with pytest.raises(InvalidRequest, match=r"tidemill\.keep_on_failure is"):
        await world.submit("a", properties={"tidemill.keep_on_failure": text})


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("45s", 45), ("PT2H", 7200), ("", 0)]
)
async def test_ways_to_write_it(world: World, text: str, seconds: int):
    await world.submit("a", properties={"tidemill.keep_on_failure": text})
    assert job_status(world.row("a").status).plan.job.keep_s == seconds


async def test_trials_keep_theirs_as_their_sweep_says(world: World):
    from tidemill.domain.sweeps.spec import read_sweep
    from tidemill.domain.sweeps.trials import trial_body

    sweep = {
        "searchSpace": {"x": ["choice", [[1, 2]]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"goal": "maximize", "primaryMetric": "m"},
        "trial": {"command": "run ${{search_space.x}}"},
        "limits": {"maxTotalTrials": 2},
        **KEPT,
    }
    body = trial_body(read_sweep("s", sweep), sweep, 0, (0,), "s", {})
    assert body["properties"]["properties"]["tidemill.keep_on_failure"] == "30m"


async def test_a_look_is_among_its_files_and_ends_with_it(world: World):
    await world.start()
    await world.cluster()
    await failed(world)
    kept = kept_of(world)
    assert kept is not None
    world.plans["done"] = Plan(after=None)  # the task that a look is in, by its last word
    target = await node_visits.target_in_job(world.services, OWNER, SCOPE, "a", 0)
    assert target is not None
    visit = await node_visits.begin(world.services, OWNER, target)
    task = world.calls("start")[-1][2]
    assert (task.attempt_id, task.cwd) == (
        kept.attempt,
        f"{world.engine.work_dir(kept.nodes[0], kept.attempt)}/code",
    )
    assert "AZUREML_RUN_TOKEN" not in task.env
    await world.until(lambda: TaskKey(visit.attempt, visit.rank) in world.engine.nodes[kept.nodes[0]].tasks)
    with pytest.raises(InvalidRequest, match="keeps 1 node, numbered from 0"):
        await node_visits.target_in_job(world.services, OWNER, SCOPE, "a", 1)
    await kept_nodes.release_now(world.services, OWNER, SCOPE, "a")
    await world.until(visit.gone.is_set, "the look has ended")
    assert "is kept for the failed job no longer" in visit.ended
    with pytest.raises(Conflict, match="no longer"):
        await node_visits.check_still(world.services, OWNER, SCOPE, target)
    assert await node_visits.target_in_job(world.services, OWNER, SCOPE, "a", 0) is None


async def test_the_property_is_given_back(world: World):
    row = await world.submit("a", **KEPT)
    assert decode_object(row.spec)["properties"] == KEPT["properties"]
    assert (await jobs.get(world.services, SCOPE, "a")).uid == row.uid
