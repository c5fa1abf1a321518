"""Changes of one container group at once: who is told what, by the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from world import OWNER, SCOPE, World, make

from tidemill.app.containers import container_groups
from tidemill.app.rows.container_rows import group_key
from tidemill.app.views import container_views
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Resource
from tidemill.engines.base import InvalidTask, Limit, TaskSpec
from tidemill.engines.fake import Plan
from tidemill.environments.images import inside
from tidemill.wire.arm import operations

GROUP = type(SCOPE)(SCOPE.subscription, SCOPE.group)
KEY = group_key(GROUP, "web")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(inside, "require_sandbox", lambda written: None)
    made = await make(tmp_path)
    made.engine.limits = {"network": Limit(True, "test")}
    made.plans["go"] = Plan(after=None, ignores_term=True)  # so that an end takes until the clock moves
    await made.start()
    yield made
    await made.stop()


async def put(world: World, word: str, *names: str) -> Resource:
    container = {
        "image": "host-python",
        "command": [word, "go"],
        "resources": {"requests": {"cpu": 0.5, "memoryInGB": 0.5}},
    }
    containers = [{"name": name, "properties": container} for name in names or ("web",)]
    properties = {"osType": "Linux", "containers": containers}
    row, _ = await container_groups.put(world.services, OWNER, GROUP, "web", {"properties": properties})
    return row


async def told(world: World, asked: Resource) -> str:
    """Of the operation that a change was answered with."""
    ctx = SimpleNamespace(services=world.services, caller=OWNER)
    return (await operations._look(cast(Any, ctx), operations.turn(asked)))[0]  # pyright: ignore[reportPrivateUsage]


async def until_runs(world: World) -> None:
    await world.until(lambda: world.read().get(KEY).state == "Succeeded", "it runs")


async def test_what_another_change_took_the_place_of_is_not_told_to_be_done(world: World) -> None:
    first = await put(world, "one")
    await until_runs(world)
    assert await told(world, first) == "Succeeded"
    second, third = await put(world, "two"), await put(world, "three")
    assert await told(world, second) == "Canceled"
    assert await told(world, third) == "InProgress"
    again = await put(world, "three")  # the same is one change
    await until_runs(world)
    assert [await told(world, one) for one in (second, third, again)] == [
        "Canceled",
        "Succeeded",
        "Succeeded",
    ]


async def test_a_restart_that_a_stop_followed_is_not_told_to_be_done(world: World) -> None:
    await put(world, "one")
    await until_runs(world)
    restarted = await container_groups.restart(world.services, OWNER, GROUP, "web")
    await container_groups.stop(world.services, OWNER, GROUP, "web")
    await until_runs(world)  # what was asked for is there: it is stopped
    assert await told(world, restarted) == "Canceled"


async def test_a_stop_that_a_start_followed_is_not_told_to_be_done(world: World) -> None:
    await put(world, "one")
    await until_runs(world)
    stopped = await container_groups.stop(world.services, OWNER, GROUP, "web")
    waits = asyncio.create_task(container_groups.stopped(world.services, stopped, 60.0))
    started = await container_groups.start(world.services, OWNER, GROUP, "web")
    with pytest.raises(Conflict, match="was started again meanwhile: it is not stopped"):
        await waits
    await until_runs(world)
    assert await told(world, started) == "Succeeded"
    stopped = await container_groups.stop(world.services, OWNER, GROUP, "web")
    waits = asyncio.create_task(container_groups.stopped(world.services, stopped, 60.0))
    await world.until(waits.done, "it is stopped")
    assert await waits


async def test_a_container_that_its_node_refuses_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = world.engine.start

    async def refuse(node_id: str, task: TaskSpec) -> None:
        if task.rank == 1:
            raise InvalidTask("its log cannot be opened")
        await start(node_id, task)

    monkeypatch.setattr(world.engine, "start", refuse)
    await put(world, "one", "web", "side")
    await until_runs(world)
    shown = (await container_views.properties(world.services, [world.read().get(KEY)]))[0]
    web, side = (one["properties"]["instanceView"] for one in shown["containers"])
    assert web["currentState"]["state"] == "Running"
    assert side["currentState"]["detailStatus"] == "StartError"
    assert [one["message"] for one in side["events"]] == [
        "It could not be started: its log cannot be opened."
    ]
