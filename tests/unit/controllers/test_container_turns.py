"""Changes of one container group at once: who is told what, by the fake engine."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from world import OWNER, SCOPE, World, make

from tidemill.app.computes.teams import TAG as TEAM_TAG
from tidemill.app.containers import container_groups, container_looking
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.container_rows import group_key, group_status
from tidemill.app.views import container_views
from tidemill.domain.containers.model import RUNTIME_TAG
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.model import Resource
from tidemill.engines.base import InvalidTask, Limit, Runtime, TaskSpec
from tidemill.engines.fake import Plan
from tidemill.environments.images import inside
from tidemill.store.api import Tx
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


async def put(world: World, word: str, *names: str, **tags: str) -> Resource:
    container = {
        "image": "host-python",
        "command": [word, "go"],
        "resources": {"requests": {"cpu": 0.5, "memoryInGB": 0.5}},
    }
    containers = [{"name": name, "properties": container} for name in names or ("web",)]
    properties = {"osType": "Linux", "containers": containers}
    body = {"properties": properties, "tags": tags}
    return (await container_groups.put(world.services, OWNER, GROUP, "web", body))[0]


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
    fourth = await put(world, "four")  # what was done by then stays done
    assert [await told(world, one) for one in (first, second, third, fourth)] == [
        "Succeeded",
        "Canceled",
        "Succeeded",
        "InProgress",
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
        if task.rank == 0:
            raise InvalidTask("its log cannot be opened")
        await start(node_id, task)

    monkeypatch.setattr(world.engine, "start", refuse)
    await put(world, "one", "web", "side")
    await until_runs(world)
    shown = (await container_views.properties(world.services, [world.read().get(KEY)]))[0]
    web, side = (one["properties"]["instanceView"] for one in shown["containers"])
    assert side["currentState"]["state"] == "Running"
    assert web["currentState"]["detailStatus"] == "StartError"
    assert [one["message"] for one in web["events"]] == ["It could not be started: its log cannot be opened."]
    reached = await container_looking.any_of(world.services, GROUP, "web")  # for a port that both share
    assert reached.seen.name == "side"
    with pytest.raises(Conflict, match="'web' of group 'web' does not run: it has ended"):
        await container_looking.target_of(world.services, GROUP, "web", "web")
    await container_groups.stop(world.services, OWNER, GROUP, "web")
    await until_runs(world)  # what was asked for is there: it is stopped
    with pytest.raises(Conflict, match="No container of group 'web' runs"):
        await container_looking.any_of(world.services, GROUP, "web")


async def test_a_put_does_not_bring_a_group_back_that_was_deleted_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(world, "one")
    await until_runs(world)
    check = container_groups.admission.check

    async def deleted_first(*given: Any) -> None:
        await container_groups.delete(world.services, OWNER, GROUP, "web")
        await world.until(lambda: world.read().get(KEY) is None, "it is gone")
        await check(*given)

    monkeypatch.setattr(container_groups.admission, "check", deleted_first)
    with pytest.raises(Conflict, match="was made or deleted by somebody else just now"):
        await put(world, "two")
    assert world.read().get(KEY) is None


async def test_tags_that_say_how_it_runs_are_changed_with_a_new_run_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def patch(**tags: str | None) -> Awaitable[Resource]:
        return container_groups.patch_tags(world.services, GROUP, "web", {"tags": tags})

    await put(world, "one", owner="ann")
    await until_runs(world)
    for tag in container_groups.RUN_BY:
        with pytest.raises(InvalidRequest, match=rf"tags\.{tag} cannot be 'x' .* Create the group with it"):
            await patch(**{tag: "x", "owner": "bob"})
    row = await patch(owner=None, place="here", **dict.fromkeys(container_groups.RUN_BY))
    assert decode_object(row.tags) == {"place": "here"}
    with pytest.raises(InvalidRequest, match="names the team 'x', which owner is not in"):
        await put(world, "one", **{TEAM_TAG: "x"})

    async def vision(*_: object) -> str:
        return "vision-oid"

    monkeypatch.setattr(container_groups, "team_of", vision)
    put_anew = group_status(await put(world, "one", **{TEAM_TAG: "vision"}))
    assert (put_anew.team, put_anew.generation) == ("vision-oid", 2)


async def test_secrets_that_do_not_open_any_more_are_given_anew(world: World) -> None:
    first = await put(world, "one")
    await until_runs(world)

    def lose(tx: Tx) -> None:
        row = tx.by_uid(first.uid)
        assert row is not None
        status = {**decode_object(row.status), "secrets": base64.b64encode(b"of another key" * 4).decode()}
        tx.update(replace(row, status=encode(status)))

    await world.services.store.write(lose)
    again = await put(world, "one")
    await until_runs(world)
    assert await told(world, again) == "Succeeded"
    assert again.status != first.status


async def test_a_group_runs_by_the_runtime_that_its_tag_asks_for(world: World) -> None:
    asked: list[str] = []
    start = world.engine.start

    async def noted(node_id: str, task: TaskSpec) -> None:
        asked.append(task.runtime)
        assert f"{world.engine.work_dir(node_id, task.attempt_id)}/volumes" in task.read_only
        await start(node_id, task)

    world.engine.start = noted
    await put(world, "one")
    await until_runs(world)
    await put(world, "one", **{RUNTIME_TAG: "runc"})  # another runtime is another run
    await world.until(lambda: len(asked) == 2 and world.read().get(KEY).state == "Succeeded", "it runs anew")
    assert asked == ["", "runc"]
    assert (await container_views.detail(world.services, GROUP, "web"))["runtime"] == "runc"


async def test_a_runtime_that_this_host_lacks_is_refused_with_the_reason(world: World) -> None:
    world.engine.runc = Runtime("", "this server's host has no runc: install it")
    with pytest.raises(InvalidRequest, match="host has no runc: install it") as caught:
        await put(world, "one", **{RUNTIME_TAG: "runc"})
    assert (caught.value.code, caught.value.target) == ("RuntimeNotAvailable", f"tags.{RUNTIME_TAG}")
    assert world.read().get(KEY) is None
    await put(world, "one", **{RUNTIME_TAG: "sandbox"})
    await until_runs(world)
    with pytest.raises(InvalidRequest, match="by a change of tags alone"):
        await container_groups.patch_tags(world.services, GROUP, "web", {"tags": {RUNTIME_TAG: "runc"}})
