"""Jobs without a compute: nodes for them alone, sizes, tiers, limits; and nothing left of any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world import FOREVER, OWNER, SCOPE, SECOND, World

from tidemill.app.computes import implicit_computes, quotas
from tidemill.app.jobs import endings, jobs
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.views import validation
from tidemill.catalog.sizes import GIB
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import JobState, NodeState, Vector
from tidemill.engines.base import HostCapacity
from tidemill.store.api import ResourceQuery


def plan_of(world: World, name: str):
    return job_status(world.row(name).status).plan


def said(world: World, name: str) -> str:
    return "\n".join(event.message for event in world.read().events(world.row(name).uid))


def computes_left(world: World) -> int:
    return world.read().count(ResourceQuery(implicit_computes.TYPE))


async def all_gone(world: World) -> None:
    await world.until(
        lambda: not world.nodes() and not computes_left(world), "its nodes and its compute are gone"
    )
    await world.until(lambda: not world.engine.nodes, "the engine holds none")


def sized(*names: str, count: int = 1) -> dict[str, Any]:
    return {"instanceCount": count, "instanceType": names[0] if len(names) == 1 else list(names)}


async def test_a_job_that_names_nothing_has_a_node_of_the_default_size_for_itself(world: World):
    world.plans["a"] = FOREVER
    await world.start()
    row = await world.submit("a", tags={"team": "x", "tidemill.egress": "all"})
    assert decode_object(row.spec)["resources"] == {"instanceType": "Standard_DS3_v2", "instanceCount": 1}
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (node,) = world.nodes()
    assert node.size == "Standard_DS3_v2"
    assert node.id.startswith("serverless-")
    assert plan_of(world, "a").serverless == "Standard_DS3_v2"
    (spec,) = [call[1] for call in world.calls("open_node")]
    assert spec.egress == ""  # what its nodes may reach is not the submitter's to say
    (held,) = world.intervals(kind="node")
    assert decode_object(held.tags) == {"team": "x"}
    (used,) = world.intervals(kind="allocation")
    assert (used.size, used.region) == ("Standard_DS3_v2", "westeurope")
    assert "its nodes are Standard_DS3_v2" in said(world, "a")
    await endings.cancel(world.services, OWNER, SCOPE, "a")
    await world.ended("a")
    await all_gone(world)


@pytest.mark.parametrize("compute", ["", "serverless", f"{SCOPE.arm_id}/computes/serverless", "Serverless"])
async def test_every_way_to_say_it_and_the_node_goes_at_the_end(world: World, compute: str):
    await world.start()
    await world.submit("a", compute, resources=sized("Standard_DS1_v2", count=2))
    row = await world.ended("a")
    assert row.state == JobState.COMPLETED
    assert len(world.attempts("a")[0].nodes) == 2
    await all_gone(world)
    assert "Starts on 2 nodes of serverless" in said(world, "a")
    assert all(interval.ended_at for interval in world.intervals())


async def test_two_jobs_share_no_node(world: World):
    await world.start()
    for name in ("a", "b"):
        await world.submit(name)
        await world.ended(name)
    (first,), (second,) = world.attempts("a")[0].nodes, world.attempts("b")[0].nodes
    assert first != second
    await all_gone(world)


async def test_of_a_list_the_first_size_that_fits_and_why_not_the_others(world: World):
    await world.start()
    await world.submit("a", resources=sized("Standard_NC6s_v3", "Standard_DS1_v2"))
    assert plan_of(world, "a").serverless == "Standard_DS1_v2"
    assert "Not on Standard_NC6s_v3. Job 'a' needs 1 GPU" in said(world, "a")
    assert decode_object(world.row("a").spec)["resources"]["instanceType"] == "Standard_DS1_v2"
    await world.ended("a")
    with pytest.raises(InvalidRequest) as refused:
        await world.submit("b", resources=sized("Standard_NC6s_v3", "Standard_NC12s_v3"))
    assert refused.value.code == "NoSizeFits"
    assert "Standard_NC6s_v3: " in refused.value.message
    assert "Standard_NC12s_v3: " in refused.value.message
    with pytest.raises(InvalidRequest, match=r"'Standard_DS33_v2' does not exist\. Did you mean"):
        await world.submit("c", resources=sized("Standard_DS33_v2"))
    with pytest.raises(InvalidRequest, match="GPU"):
        await world.submit("d", resources=sized("Standard_NC6s_v3"))


async def test_on_a_strict_host_the_default_is_the_largest_that_fits(world: World):
    world.services = replace(world.services, settings=replace(world.services.settings, capacity="strict"))
    world.engine._capacity = HostCapacity(Vector(2000, 8 * GIB, 0))
    await world.start()
    world.plans["a"] = FOREVER
    await world.submit("a")
    assert plan_of(world, "a").serverless == "Standard_DS2_v2"
    assert "Not on Standard_DS3_v2." in said(world, "a")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    await world.submit("b")
    await world.until(lambda: "This host has no room" in said(world, "b"))
    await endings.cancel(world.services, OWNER, SCOPE, "b")  # it never had a node
    await world.until(lambda: computes_left(world) == 1)
    await endings.cancel(world.services, OWNER, SCOPE, "a")
    await all_gone(world)


async def test_an_elastic_host_is_not_cut_into_too_many_nodes(world: World):
    await world.start()
    names = [f"j{n}" for n in range(6)]
    for name in names:
        world.plans[name] = FOREVER
        await world.submit(name)
    await world.until(lambda: sum(world.row(name).state == JobState.RUNNING for name in names) == 4)
    waits = [name for name in names if world.row(name).state != JobState.RUNNING]
    await world.until(
        lambda: "quota of compute 'serverless': 4 used + 1 asked = 5, limit 4 nodes" in said(world, waits[0])
    )
    assert len(world.nodes()) == 4
    change = quotas.Change("compute", "serverless", SCOPE, {"nodes": 5})
    await quotas.change(world.services, OWNER, change)
    await world.until(lambda: sum(world.row(name).state == JobState.RUNNING for name in names) == 5)
    for name in names:
        await endings.cancel(world.services, OWNER, SCOPE, name)
    await all_gone(world)


async def test_a_gang_above_the_limit_is_refused_with_the_way_to_raise_it(world: World):
    await world.start()
    with pytest.raises(InvalidRequest, match="tidemill quota set --compute serverless --nodes N"):
        await world.submit("a", resources=sized("Standard_DS1_v2", count=5))


@pytest.mark.parametrize(
    ("queue", "priority"),
    [
        ({}, 2),
        ({"jobTier": "Spot"}, 0),
        ({"jobTier": "basic"}, 1),
        ({"jobTier": "Standard"}, 2),
        ({"jobTier": "Premium"}, 3),
        ({"jobTier": "Null"}, 2),
        ({"jobTier": "Spot", "priority": 3}, 3),
    ],
)
async def test_a_tier_is_a_priority_for_who_names_none(world: World, queue: dict[str, Any], priority: int):
    await world.submit("a", queueSettings=queue)
    assert plan_of(world, "a").job.priority == priority


async def test_a_tier_that_is_none_is_refused(world: World):
    with pytest.raises(InvalidRequest, match=r"jobTier 'gold' is not known\. Use Spot, Basic"):
        await world.submit("a", queueSettings={"jobTier": "gold"})


async def test_it_has_no_managed_identity(world: World):
    with pytest.raises(InvalidRequest, match="A job without a compute has no managed identity"):
        await world.submit("a", identity={"identityType": "Managed"})


async def test_the_same_submit_again_is_the_same_job_with_one_compute(world: World):
    body = {"properties": {"jobType": "Command", "command": "run a"}}
    for _ in range(2):
        await jobs.submit(world.services, OWNER, SCOPE, "a", body)
    shown = decode_object(world.row("a").spec)
    _, created = await jobs.submit(world.services, OWNER, SCOPE, "a", {"properties": shown})
    assert not created
    assert computes_left(world) == 1
    await world.start()
    await world.ended("a")
    await all_gone(world)


async def test_validate_says_size_and_price_and_leaves_nothing(world: World):
    body = {
        "properties": {
            "jobType": "Command",
            "command": "run a",
            "resources": sized("Standard_DS1_v2", count=2),
        }
    }
    asked = [validation.Asked("jobs/a", body)]
    (found,) = await validation.validate(world.services, OWNER, SCOPE, asked, [])
    (run,) = found["runs"]
    assert (run["compute"], run["size"], run["nodes"]) == ("serverless", "Standard_DS1_v2", 2)
    price = world.services.sizes.price("Standard_DS1_v2", "westeurope")
    assert price is not None
    assert run["usd_hour"] == pytest.approx(2 * price.usd_hour)
    assert computes_left(world) == 0


@pytest.mark.parametrize("when", ["submitted", "opening", "running", "closing"])
async def test_a_kill_of_the_server_at_any_time_leaves_nothing(world: World, when: str):
    world.plans["a"] = FOREVER
    opening_us = 3600 * SECOND if when == "opening" else 0
    world.engine._open_after = opening_us
    if when == "submitted":  # and nothing decided yet
        await world.submit("a")
        await world.start()
    else:
        await world.start()
        await world.submit("a")
    reached = JobState.PROVISIONING if when == "opening" else JobState.RUNNING
    if when != "submitted":
        await world.until(lambda: world.row("a").state == reached)
    if when == "closing":
        close_node = world.engine.close_node

        async def never(node_id: str) -> None: ...

        world.engine.close_node = never  # type: ignore[method-assign]
        await endings.cancel(world.services, OWNER, SCOPE, "a")
        await world.until(lambda: any(node.state is NodeState.CLOSING for node in world.nodes()))
        world.engine.close_node = close_node  # type: ignore[method-assign]
    await world.restart()
    world.clock.ahead += opening_us
    if when != "closing":
        await world.until(lambda: world.row("a").state == JobState.RUNNING)
        await endings.cancel(world.services, OWNER, SCOPE, "a")
    await world.ended("a")
    assert len(world.attempts("a")) == 1
    await all_gone(world)


async def test_a_lost_node_is_replaced_and_both_go(world: World):
    world.plans["a.1"] = FOREVER
    await world.start()
    await world.submit("a")
    await world.until(lambda: world.row("a").state == JobState.RUNNING)
    (node,) = world.nodes()
    world.engine.lose(node.id)
    row = await world.ended("a")
    assert row.state == JobState.COMPLETED
    assert len(world.attempts("a")) == 2
    await all_gone(world)


async def test_a_job_whose_environment_fails_leaves_no_compute(world: World):
    world.environments.problem = InvalidRequest("no such package")
    await world.start()
    await world.submit("a", environmentId="azureml://registries/azureml/environments/sklearn-1.5/versions/1")
    assert (await world.ended("a")).state == JobState.FAILED
    assert not world.calls("open_node")
    await all_gone(world)


async def test_what_is_left_of_it_goes_although_other_jobs_keep_ending(world: World):
    """Its node's disk goes with that: one for each job would pile up."""
    await world.start()
    await world.cluster()
    await world.submit("alone")
    await world.ended("alone")
    attempt = world.attempts("alone")[0]
    files = Path(world.engine.work_dir(attempt.nodes[0], attempt.id))
    for number in range(200):
        await world.submit(f"busy{number}", "cpu")
        await world.ended(f"busy{number}")
        if not files.exists():  # noqa: ASYNC240
            return
    raise AssertionError("it is still there")
