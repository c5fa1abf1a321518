"""How a run of a container group ended, where its node would not start a container."""

from __future__ import annotations

from test_container_turns import GROUP, KEY
from test_container_turns import world as grouped
from world import OWNER, World

from tidemill.app.containers import container_groups
from tidemill.app.rows.container_rows import newest_run
from tidemill.app.views import container_views
from tidemill.domain.model import JobState
from tidemill.domain.serving.model import Provisioning
from tidemill.engines.base import InvalidTask, TaskSpec
from tidemill.engines.fake import Plan

world = grouped


def ended(world: World) -> bool:
    """Its run, and the group knows."""
    row = world.read().get(KEY)
    run = newest_run(world.read(), row)
    changing = row.state in (Provisioning.CREATING, Provisioning.UPDATING)
    return run is not None and JobState(run.state).final and not changing


async def test_a_container_that_its_node_refuses_fails_the_group(world: World) -> None:
    world.plans["go"] = Plan()
    start = world.engine.start

    async def refuses(node_id: str, task: TaskSpec) -> None:
        if task.rank == 1:
            raise InvalidTask("its variables are too long")
        await start(node_id, task)

    world.engine.start = refuses
    resources = {"requests": {"cpu": 0.5, "memoryInGB": 0.5}}
    properties = {"image": "host-python", "command": ["true", "go"], "resources": resources}
    containers = [{"name": name, "properties": properties} for name in ("web", "side")]
    body = {"properties": {"osType": "Linux", "restartPolicy": "Never", "containers": containers}}
    await container_groups.put(world.services, OWNER, GROUP, "web", body)
    await world.until(lambda: ended(world), "it has ended")
    shown = await container_views.detail(world.services, GROUP, "web")
    assert shown["running"] == "Failed"
    assert [(one["state"], one["detail"]) for one in shown["containers"]] == [
        ("Terminated", "Completed"),
        ("Terminated", "StartError"),
    ]
    why = await container_views.why(world.services, GROUP, "web")
    assert "side (Terminated): It could not be started: its variables are too long." in why["sentence"]
