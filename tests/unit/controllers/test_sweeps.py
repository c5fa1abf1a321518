"""Sweeps over the store in memory and the fake engine: every trial once, also over restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from world import FOREVER, OWNER, SCOPE, World, make

from tidemill.app.jobs import endings, families, jobs
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.tracking import tracking_jobs
from tidemill.controllers import runtime
from tidemill.controllers.bayesian import Bayesian
from tidemill.controllers.sweeps import Sweeps
from tidemill.domain.errors import NotFound
from tidemill.domain.model import JobState, Resource
from tidemill.domain.plan import SWEEP
from tidemill.domain.sweeps.sampling import Ask, Seen
from tidemill.domain.sweeps.space import Point
from tidemill.engines.base import TaskKey
from tidemill.store.api import ResourceQuery
from tidemill.store.tracking import Metric


class Scripted:
    """A sampler that answers from a list, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    async def next(self, ask: Ask) -> Point:
        self.asked.append(ask)
        return (len(ask.seen) / 10,)

    def close(self) -> None: ...


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make(tmp_path)
    made.plans["go"] = FOREVER
    await made.start()
    yield made
    await made.stop()


async def sweep(world: World, name: str = "s", **more: Any) -> Resource:
    properties = {
        "jobType": "Sweep",
        "searchSpace": {"x": ["choice", [[1, 2, 3, 4]]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"primaryMetric": "acc", "goal": "maximize"},
        "limits": {"maxTotalTrials": 4, "maxConcurrentTrials": 2},
        "trial": {"command": "x ${{search_space.x}} go"},
        **more,
    }
    row, _ = await jobs.submit(world.services, OWNER, SCOPE, name, {"properties": properties})
    return row


def trials(world: World, name: str = "s") -> list[Resource]:
    return list(families.children(world.read(), world.row(name)))


async def running(world: World, *numbers: int, name: str = "s") -> None:
    def there() -> bool:
        found = trials(world, name)
        return len(found) > max(numbers) and all(found[n].state == JobState.RUNNING for n in numbers)

    await world.until(there, f"trials {numbers} run")


async def report(world: World, number: int, *values: float, first: int = 0, key: str = "acc") -> None:
    row = trials(world)[number]
    await tracking_jobs.ensure_job_run(world.services, SCOPE, row.key.name)
    points = [Metric(key, value, first + step, first + step) for step, value in enumerate(values)]
    await world.services.tracking.log_batch(SCOPE.arm_id, row.key.name, points)


def finish(world: World, number: int, exit_code: int = 0) -> None:
    row = trials(world)[number]
    (attempt,) = [a for a in world.attempts(row.key.name) if a.ended_at is None]
    world.engine.finish(attempt.nodes[0], TaskKey(attempt.id, 0), exit_code)


async def done(world: World, number: int, *values: float, exit_code: int = 0) -> None:
    await running(world, number)
    if values:
        await report(world, number, *values)
    finish(world, number, exit_code)


async def test_a_grid_is_tried_and_the_best_is_named(world: World) -> None:
    row = await sweep(world)
    for number, value in enumerate((0.2, 0.9, 0.4, 0.1)):
        await done(world, number, value)
    ended = await world.ended("s")
    assert ended.state == JobState.COMPLETED
    best = trials(world)[1].key.name
    assert job_status(ended.status).sweep.best == best  # type: ignore[union-attr]
    kept = decode_object(ended.spec)["properties"]
    assert (kept["best_child_run_id"], kept["score"]) == (best, "0.9")
    found = [decode_object(one.spec)["inputs"]["x"]["value"] for one in trials(world)]
    assert found == ["1", "2", "3", "4"]
    events = [event.message for event in world.read().events(row.uid)]
    assert events[-1].startswith(f"Best trial {best}: acc 0.9 with x=2. 4 trials completed.")
    assert sum(message.startswith("Trial ") for message in events) == 4


async def test_restarts_start_no_trial_twice(world: World) -> None:
    await sweep(world)
    for number, value in enumerate((0.2, 0.9, 0.4, 0.1)):
        await running(world, number)
        await world.restart()
        await done(world, number, value)
        await world.restart()
    assert (await world.ended("s")).state == JobState.COMPLETED
    assert [job_status(one.status).child.step for one in trials(world)] == [
        f"trial-{n}" for n in (1, 2, 3, 4)
    ]  # type: ignore[union-attr]


async def test_the_policy_stops_trials_and_says_why(world: World) -> None:
    policy = {"policyType": "Bandit", "slackAmount": 0.1}
    row = await sweep(world, earlyTermination=policy)
    await running(world, 0, 1)
    await report(world, 0, 0.9)
    await report(world, 1, 0.2)
    await world.until(lambda: trials(world)[1].state == JobState.CANCELED, "the worse one is stopped")
    why = next(e.message for e in world.read().events(row.uid) if e.code == "TrialStopped")
    assert "at interval 1 its best was 0.2, beyond the slack (0.8) of the best trial's 0.9" in why
    finish(world, 0)
    for number in (2, 3):
        await done(world, number, 0.85)
    ended = await world.ended("s")
    assert job_status(ended.status).sweep.best == trials(world)[0].key.name  # type: ignore[union-attr]
    assert "1 stopped early" in world.read().events(row.uid)[-1].message


async def test_a_metric_that_nobody_logs_ends_the_sweep(world: World) -> None:
    await sweep(world)
    for number in range(3):
        await running(world, number)
        await report(world, number, 0.5, key="accuracy")
        finish(world, number)
    ended = await world.ended("s")
    error = job_status(ended.status).progress.error
    assert error is not None
    assert error.code == "MetricNotLogged"
    assert "They logged accuracy. Did you mean 'accuracy'?" in error.message


async def test_a_cancel_ends_all_trials(world: World) -> None:
    await sweep(world)
    await running(world, 0, 1)
    await endings.cancel(world.services, OWNER, SCOPE, "s")
    assert (await world.ended("s")).state == JobState.CANCELED
    assert [one.state for one in trials(world)] == [JobState.CANCELED] * 2


async def test_its_time_limit_ends_it(world: World) -> None:
    await sweep(world, limits={"maxTotalTrials": 4, "maxConcurrentTrials": 2, "timeout": "PT10M"})
    await done(world, 0, 0.7)
    await running(world, 1, 2)
    await report(world, 1, 0.1)
    world.clock.ahead += 601_000_000
    finish(world, 1)  # something changes: it is looked at
    ended = await world.ended("s")
    assert ended.state == JobState.COMPLETED
    assert trials(world)[2].state == JobState.CANCELED


async def test_a_model_is_asked_with_what_was_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Scripted()
    await world.stop()
    monkeypatch.setattr(runtime, "carriers", lambda s: {SWEEP: Sweeps(s, sampler)})
    world.engine.reattach()
    await world.start()
    await sweep(
        world,
        searchSpace={"x": ["uniform", [0, 10]]},
        samplingAlgorithm={"samplingAlgorithmType": "Bayesian", "seed": 5},
        limits={"maxTotalTrials": 3, "maxConcurrentTrials": 1},
    )
    for number, value in enumerate((0.2, 0.9, 0.4)):
        await done(world, number, value)
    await world.ended("s")
    assert [[(s.point, s.score, s.live) for s in ask.seen] for ask in sampler.asked] == [
        [],
        [((0.0,), 0.2, False)],
        [((0.0,), 0.2, False), ((0.1,), 0.9, False)],
    ]
    assert [decode_object(one.spec)["inputs"]["x"]["value"] for one in trials(world)] == ["0.0", "1.0", "2.0"]


async def test_the_real_model_finds_the_hill() -> None:
    """optuna's TPE in its own process: thirty trials of a hill at 0.7 end near its top, and the same question
    has the same answer."""
    sampler = Bayesian()
    seen: list[Seen] = []
    try:
        for _ in range(30):
            ask = Ask((0, 3), tuple(seen), maximize=True, seed=3)
            point = await sampler.next(ask)
            assert point[1] in (0, 1, 2)
            seen.append(Seen(point, -((point[0] - 0.7) ** 2) - (0 if point[1] == 1 else 1), live=False))
        assert await sampler.next(ask) == point
        best = max(seen, key=lambda s: s.score or -9)
        assert best.point[0] == pytest.approx(0.7, abs=0.1)
        assert best.point[1] == 1
    finally:
        sampler.close()


async def test_what_cannot_run_is_refused_before_anything_is_written(world: World) -> None:
    with pytest.raises(NotFound, match="nope"):
        await sweep(world, computeId=f"{SCOPE.arm_id}/computes/nope")
    assert world.read().get(jobs.key_of(SCOPE, "s")) is None


async def test_a_compute_that_goes_ends_the_sweep_with_the_reason(world: World) -> None:
    await world.cluster("cpu")
    await sweep(world, computeId=f"{SCOPE.arm_id}/computes/cpu", limits={"maxConcurrentTrials": 1})
    await running(world, 0)
    (row,) = world.read().find(ResourceQuery("computes"))
    await world.store.write(lambda tx: tx.delete(row))
    await done(world, 0, 0.5)
    ended = await world.ended("s")
    error = job_status(ended.status).progress.error
    assert ended.state == JobState.FAILED
    assert error is not None
    assert "A trial could not be started" in error.message
