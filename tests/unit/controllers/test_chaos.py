"""Whatever happens to servers, nodes and the disk: every job ends, once, and the bill adds up."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import defaultdict
from typing import Any

import pytest
from world import FOREVER, OWNER, SCOPE, SECOND, World

from tidemill.app.computes import computes
from tidemill.app.jobs import endings
from tidemill.domain.model import AttemptState, Interval, JobState, NodeState, Outcome
from tidemill.engines.base import Unreachable
from tidemill.engines.fake import Plan


class Watched:
    """Of the engine: which tasks of a job were alive at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.overlaps: list[str] = []
        original = world.engine.start

        async def start(node_id: str, spec: Any) -> None:
            self._look(spec.attempt_id)
            await original(node_id, spec)

        world.engine.start = start  # type: ignore[method-assign]

    def _look(self, attempt_id: str) -> None:
        job = attempt_id.split(".")[0]
        for node in self.world.engine.nodes.values():
            for key, task in node.tasks.items():
                if key.attempt_id.split(".")[0] == job and key.attempt_id != attempt_id and not task.exited:
                    self.overlaps.append(f"{attempt_id} started beside {key.attempt_id}")


def flaky(world: World, rng: random.Random, rate: float) -> None:
    """Verbs of the engine are lost now and then."""
    for verb in ("start", "stop", "prepare_dir"):
        original = getattr(world.engine, verb)

        async def call(*given: Any, original: Any = original, verb: str = verb) -> Any:
            if rng.random() < rate:
                raise Unreachable(f"{verb} was lost")
            return await original(*given)

        setattr(world.engine, verb, call)


async def happen(world: World, rng: random.Random, submitted: list[str]) -> None:
    what = rng.choices(
        ["submit", "lose", "restart", "full", "cancel", "finish", "wait"], [5, 2, 1, 1, 2, 4, 3]
    )[0]
    if what == "submit" and len(submitted) < 14:
        name = f"j{len(submitted)}"
        for number in range(1, 5):
            kinds = [FOREVER, Plan(), Plan(exit_code=3), Plan(after=20_000), Plan(None, ignores_term=True)]
            world.plans[f"{name}.{number}"] = rng.choice(kinds)
        compute = rng.choice(["", "cpu", "cpu", "other"])
        given: dict[str, Any] = {}
        if compute and rng.random() < 0.3:
            given["resources"] = {"instanceCount": 2}
        if rng.random() < 0.4:
            given["inputs"] = {"x": {"jobInputType": "literal", "value": "1"}}
        await world.submit(name, compute, **given)
        submitted.append(name)
    elif what == "lose" and world.engine.nodes:
        world.engine.lose(rng.choice(list(world.engine.nodes)))
    elif what == "restart":
        await world.restart()
    elif what == "full":
        world.store.full = True
        await asyncio.sleep(rng.random() * 0.03)
        world.store.full = False
    elif what == "cancel" and submitted:
        await endings.cancel(world.services, OWNER, SCOPE, rng.choice(submitted))
    elif what == "finish":
        finish_some(world, rng, 0.5)
    world.engine.advance()
    await asyncio.sleep(rng.random() * 0.02)


def finish_some(world: World, rng: random.Random, share: float) -> None:
    for node_id, node in list(world.engine.nodes.items()):
        for key, task in list(node.tasks.items()):
            if node.alive and not task.exited and rng.random() < share:
                world.engine.finish(node_id, key, rng.choice([0, 0, 0, 1]))


def check_ledger(world: World) -> None:
    intervals = world.intervals()
    held: dict[str, Interval] = {i.node_id: i for i in intervals if i.kind == "node"}
    nodes = world.read()._tables.nodes
    by_node: dict[str, list[Interval]] = defaultdict(list)
    for interval in intervals:
        assert interval.workspace == SCOPE
        closed = nodes[interval.node_id].state is NodeState.CLOSED
        if interval.kind == "node":
            assert (interval.ended_at is not None) == closed, interval
            assert interval.started_at == nodes[interval.node_id].ready_at
        else:
            assert interval.ended_at is not None, interval
            by_node[interval.node_id].append(interval)
    for node_id, node in nodes.items():
        assert (node.ready_at is not None) == (node_id in held)
    for node_id, allocations in by_node.items():
        node = held[node_id]
        allocations.sort(key=lambda i: i.started_at)
        assert allocations[0].started_at >= node.started_at
        for one, two in itertools.pairwise(allocations):
            assert one.ended_at is not None
            assert one.ended_at <= two.started_at
        last = allocations[-1].ended_at
        assert last is not None
        assert node.ended_at is None or last <= node.ended_at, (node, allocations[-1])


@pytest.mark.parametrize(
    "seed", range(int(os.environ.get("CHAOS_FROM", "0")), int(os.environ.get("CHAOS_TO", "8")))
)
async def test_every_job_ends_once_and_the_bill_adds_up(world: World, seed: int):
    rng = random.Random(seed)
    watched = Watched(world)
    flaky(world, rng, 0.1 if seed % 2 else 0.0)
    await world.start()
    await world.cluster("cpu", high=3, idle="PT1S")
    await world.cluster("other", high=2, low=1)
    submitted: list[str] = []
    for _ in range(80):
        await happen(world, rng, submitted)

    def over() -> bool:
        finish_some(world, rng, 1.0)
        return all(JobState(world.row(name).state).final for name in submitted)

    await world.until(over, "every job has ended")
    assert watched.overlaps == []
    for name in submitted:
        attempts = world.attempts(name)
        assert all(a.state is AttemptState.ENDED for a in attempts)
        assert [a.number for a in attempts] == list(range(1, len(attempts) + 1))
        assert all(a.outcome is Outcome.SYSTEM_FAILURE for a in attempts[:-1])
        codes = world.codes(world.row(name).uid)
        assert sum(code in ("Completed", "Failed", "Canceled") for code in codes) <= 1, codes
    check_ledger(world)
    for name in ("cpu", "other"):
        await computes.delete(world.services, OWNER, SCOPE, name)
    world.clock.ahead += 600 * SECOND
    world.running.pool._wake.set()  # type: ignore[union-attr]
    await world.until(lambda: not world.nodes(), "every node is closed")
    assert not world.intervals(open_only=True)
    assert not [n for n in world.engine.nodes.values() if n.alive]
    check_ledger(world)
