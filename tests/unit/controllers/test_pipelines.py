"""Pipelines over the store in memory and the fake engine: whole paths without a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from world import OWNER, SCOPE, World, make

from tidemill.app.assets import assets
from tidemill.app.jobs import costs, endings, families, jobs
from tidemill.app.rows.asset_rows import COMPONENTS
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.domain.errors import TidemillError
from tidemill.domain.model import JobState, Resource
from tidemill.engines.fake import Plan
from tidemill.store.api import ResourceQuery


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make(tmp_path)
    await made.start()
    yield made
    await made.stop()


def component(name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "command",
        "name": name,
        "version": "1",
        "command": f"run ${{{{inputs.x}}}} $[[${{{{inputs.d}}}}]] ${{{{outputs.o}}}} {name}",
        "inputs": {"x": {"type": "integer", "default": "1"}, "d": {"type": "uri_folder", "optional": True}},
        "outputs": {"o": {"type": "uri_folder"}},
        **more,
    }


async def register(world: World, spec: dict[str, Any]) -> str:
    body = {"properties": {"componentSpec": spec}}
    row, _ = await assets.put_version(
        world.services, OWNER, SCOPE, COMPONENTS, spec["name"], spec.get("version", "1"), body
    )
    return f"{SCOPE.arm_id}/components/{row.key.parent}/versions/{row.key.name}"


def literal(value: object) -> dict[str, Any]:
    return {"job_input_type": "literal", "value": str(value)}


def from_step(step: str, output: str = "o") -> dict[str, Any]:
    return literal(f"${{{{parent.jobs.{step}.outputs.{output}}}}}")


async def submit(world: World, steps: dict[str, Any], name: str = "p", **more: Any) -> Resource:
    properties = {"jobType": "Pipeline", "jobs": steps, **more}
    row, _ = await jobs.submit(world.services, OWNER, SCOPE, name, {"properties": properties})
    return row


async def refused(world: World, steps: dict[str, Any], **more: Any) -> TidemillError:
    with pytest.raises(TidemillError) as caught:
        await submit(world, steps, **more)
    assert await jobs.list_jobs(world.services, SCOPE, parent_uid=None) == ()
    return caught.value


def children(world: World, name: str = "p") -> dict[str, Resource]:
    rows = families.children(world.read(), world.row(name))
    return {job_status(row.status).child.step: row for row in rows}  # type: ignore[union-attr]


def states(world: World, name: str = "p") -> dict[str, str]:
    return {step: str(row.state) for step, row in children(world, name).items()}


async def test_steps_run_after_what_they_need_and_get_its_outputs(world: World) -> None:
    a, b = await register(world, component("a")), await register(world, component("b"))
    steps = {
        "second": {"type": "command", "componentId": b, "inputs": {"d": from_step("first")}},
        "first": {"type": "command", "componentId": a, "inputs": {"x": literal("${{parent.inputs.n}}")}},
    }
    parent = await submit(world, steps, inputs={"n": {"jobInputType": "literal", "value": "7"}})
    row = await world.ended("p")
    assert row.state == JobState.COMPLETED, job_status(row.status).progress.error
    found = children(world)
    assert list(found) == ["first", "second"]
    assert job_status(found["first"].status).plan.inputs[0].literal == "7"
    output = job_status(found["first"].status).plan.outputs[0]
    given = {item.name: item for item in job_status(found["second"].status).plan.inputs}
    assert given["d"].place == output.place
    assert given["x"].literal == "1"
    codes = world.codes(parent.uid)
    assert codes == ["Submitted", "StepStarted", "StepEnded", "StepStarted", "StepEnded", "Completed"]
    assert (await costs.job_cost(world.services, row)).seconds > 0


async def test_the_timeout_of_a_step_is_its_jobs(world: World) -> None:
    """Of the step, else of its component; the node's agent ends the job by it, as of any command job."""
    timed = component("a", limits={"timeout": 7})
    steps = {
        "own": {
            "type": "command",
            "componentId": await register(world, timed),
            "limits": {"timeout": "PT90S"},
        },
        "component": {"type": "command", "componentId": await register(world, {**timed, "name": "b"})},
    }
    await submit(world, steps)
    await world.ended("p")
    found = {step: job_status(row.status).plan.job.timeout_s for step, row in children(world).items()}
    assert found == {"own": 90, "component": 7}


async def test_a_failed_step_blocks_only_what_needs_it(world: World) -> None:
    a = await register(world, component("a"))
    bad = await register(world, component("bad"))
    world.plans["bad"] = Plan(exit_code=3)
    steps = {
        "bad": {"type": "command", "componentId": bad},
        "after": {"type": "command", "componentId": a, "inputs": {"d": from_step("bad")}},
        "beside": {"type": "command", "componentId": a},
    }
    # `d` is optional: told not to go on without it, the step is not started.
    await submit(world, steps, settings={"continue_on_failed_optional_input": False})
    row = await world.ended("p")
    assert row.state == JobState.FAILED
    error = job_status(row.status).progress.error
    assert error is not None
    assert error.message.startswith("1 step failed: bad; 1 step not started: after. bad: ")
    assert states(world) == {"bad": "Failed", "beside": "Completed"}


def put_file(world: World, job: Resource, text: str = "x") -> None:
    """As if the job's only output had been written and stored."""
    place = job_status(job.status).plan.outputs[0].place
    world.services.blobs.put_bytes(place.account, place.container, f"{place.path}f", text.encode())


def properties_of(row: Resource) -> dict[str, str]:
    return decode_object(row.spec).get("properties") or {}


async def test_the_same_step_again_is_reused_until_its_outputs_are_gone(world: World) -> None:
    a = await register(world, component("a"))
    steps = {"a": {"type": "command", "componentId": a}}
    await submit(world, steps, "one")
    await world.ended("one")
    first = children(world, "one")["a"]
    # Nothing was written: there is nothing that could be used again.
    await submit(world, steps, "two")
    await world.ended("two")
    second = children(world, "two")["a"]
    assert "azureml.isreused" not in properties_of(second)
    put_file(world, second)
    await submit(world, steps, "three")
    row = await world.ended("three")
    third = children(world, "three")["a"]
    assert properties_of(third) | {} == {
        "azureml.isreused": "true",
        "azureml.reusedrunid": second.key.name,
    }
    assert job_status(third.status).plan.outputs == job_status(second.status).plan.outputs
    assert (await costs.job_cost(world.services, row)).seconds == 0
    assert world.attempts(third.key.name) == []
    assert "Reused" in world.codes(third.uid)
    # A reused one is no origin: the next is told where the results come from.
    await submit(world, steps, "four", settings={"force_rerun": True})
    await world.ended("four")
    assert "azureml.isreused" not in properties_of(children(world, "four")["a"])
    for row in (first, second, children(world, "four")["a"]):
        place = job_status(row.status).plan.outputs[0].place
        world.services.blobs.delete_prefix(place.account, place.container, place.path)
    await submit(world, steps, "five")
    await world.ended("five")
    assert "azureml.isreused" not in properties_of(children(world, "five")["a"])


async def test_what_a_result_depends_on_decides_about_reuse(world: World) -> None:
    a = await register(world, component("a"))
    never = await register(world, component("never", is_deterministic=False))

    async def run(name: str, id: str, **node: Any) -> bool:
        await submit(world, {"a": {"type": "command", "componentId": id, **node}}, name)
        await world.ended(name)
        child = children(world, name)["a"]
        reused = "azureml.isreused" in properties_of(child)
        if not reused:
            put_file(world, child, name)
        return reused

    assert not await run("first", a)
    assert await run("same", a)
    assert not await run("input", a, inputs={"x": literal(2)})
    assert not await run("variable", a, environment_variables={"A": "1"})
    assert not await run("nodes", a, resources={"instance_count": 2})
    assert not await run("me", a, identity={"type": "user_identity"})
    assert await run("me-again", a, identity={"type": "user_identity"})
    assert not await run("never1", never)
    assert not await run("never2", never)


async def test_nested_pipelines_run_and_hand_their_outputs_up(world: World) -> None:
    a = await register(world, component("a"))
    inner = await register(
        world,
        {
            "type": "pipeline",
            "name": "inner",
            "version": "1",
            "inputs": {"n": {"type": "integer", "default": "3"}},
            "outputs": {"res": {"type": "uri_folder"}},
            "jobs": {
                "deep": {
                    "type": "command",
                    "componentId": a,
                    "inputs": {"x": literal("${{parent.inputs.n}}")},
                    "outputs": {"o": {"type": "literal", "value": "${{parent.outputs.res}}"}},
                }
            },
        },
    )
    steps = {
        "sub": {"type": "pipeline", "componentId": inner, "inputs": {"n": literal(8)}},
        "last": {
            "type": "command",
            "componentId": a,
            "inputs": {"d": from_step("sub", "res")},
            "outputs": {"o": {"type": "literal", "value": "${{parent.outputs.out}}"}},
        },
    }
    await submit(world, steps, outputs={"out": {"jobOutputType": "uri_folder", "assetName": "made"}})
    row = await world.ended("p")
    assert row.state == JobState.COMPLETED, job_status(row.status).progress.error
    sub = children(world)["sub"]
    deep = children(world, sub.key.name)["deep"]
    assert job_status(deep.status).plan.inputs[0].literal == "8"
    assert job_status(deep.status).child.root == "p"  # type: ignore[union-attr]
    place = job_status(deep.status).plan.outputs[0].place
    last = children(world)["last"]
    assert {i.name: i.place for i in job_status(last.status).plan.inputs}["d"] == place
    outputs = job_status(row.status).plan.outputs
    assert [(o.name, o.place) for o in outputs] == [("out", job_status(last.status).plan.outputs[0].place)]
    assert dict(job_status(row.status).progress.registered)["out"].endswith("/data/made/versions/1")
    # All of it is one price, and cancelled, archived and deleted as one.
    assert await endings.delete(world.services, OWNER, SCOPE, "p")
    assert await jobs.list_jobs(world.services, SCOPE, parent_uid=None) == ()


async def test_restarts_at_any_point_start_no_step_twice(world: World) -> None:
    a = await register(world, component("a"))
    steps = {
        f"s{n}": {
            "type": "command",
            "componentId": a,
            "inputs": {"x": literal(n), **({"d": from_step(f"s{n - 2}")} if n > 1 else {})},
        }
        for n in range(8)
    }
    parent = await submit(world, steps)
    for _ in range(10):
        await world.restart()
    row = await world.ended("p")
    assert row.state == JobState.COMPLETED, job_status(row.status).progress.error
    found = children(world)
    assert len(found) == 8
    codes = world.codes(parent.uid)
    assert codes.count("StepStarted") == codes.count("StepEnded") == 8
    for child in found.values():
        assert [attempt.outcome for attempt in world.attempts(child.key.name)] == ["Succeeded"]


async def test_a_step_that_cannot_be_started_any_more_fails_with_the_reason(world: World) -> None:
    cluster = await world.cluster("cpu")
    a = await register(world, component("a"))
    steps = {
        "a": {"type": "command", "componentId": a},
        "b": {
            "type": "command",
            "componentId": a,
            "computeId": "cpu",
            "inputs": {"d": from_step("a")},
        },
    }
    world.plans["a"] = Plan(after=None)
    await submit(world, steps)
    await world.until(lambda: states(world) == {"a": "Running"})
    await world.store.write(lambda tx: tx.delete(tx.by_uid(cluster.uid)))
    await endings.cancel(world.services, OWNER, SCOPE, children(world)["a"].key.name)
    row = await world.ended("p")
    assert row.state == JobState.FAILED
    error = job_status(children(world)["b"].status).progress.error
    assert error is not None
    assert "It could not be started: Compute 'cpu' was not found" in error.message


async def test_stop_at_the_first_failure_cancels_what_runs(world: World) -> None:
    bad, slow = await register(world, component("bad")), await register(world, component("slow"))
    world.plans |= {"bad": Plan(exit_code=1), "slow": Plan(after=None)}
    steps = {
        "bad": {"type": "command", "componentId": bad},
        "slow": {"type": "command", "componentId": slow},
    }
    await submit(world, steps, settings={"continue_on_step_failure": False})
    row = await world.ended("p")
    assert row.state == JobState.FAILED
    assert states(world) == {"bad": "Failed", "slow": "Canceled"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"y": literal(1)}}, "Step 'a': its component has no input 'y'. There are: d and x."),
        ({"inputs": {"x": literal("one")}}, "Step 'a': input 'x' is of type integer, not 'one'."),
        ({"inputs": {"d": literal("text")}}, "input 'd' is of type uri_folder and is given the text 'text'"),
        ({"inputs": {"x": literal("${{parent.inputs.m}}")}}, "the pipeline has no input 'm'. There are: n."),
        ({"inputs": {"d": from_step("bb")}}, "Step 'a': there is no step 'bb'. Did you mean 'b'?"),
        ({"inputs": {"d": from_step("b", "oo")}}, "Step 'a': step 'b' has no output 'oo'. Did you mean 'o'?"),
        ({"inputs": {"d": from_step("b")}}, "wait for each other in a circle: a → b → a."),
        ({"inputs": {"x": from_step("b")}}, "input 'x' is of type integer and is bound to"),
        ({"computeId": "cqu"}, "Step 'a': Compute 'cqu' was not found"),
        (
            {"componentId": "azureml:aa:1"},
            "Step 'a': Component 'aa' was not found in workspace 'main'. Did you",
        ),
        ({"componentId": "azureml:a:7"}, "Step 'a': Component 'a' version '7' was not found"),
        ({"outputs": {"p": literal("x")}}, "Step 'a': its component has no output 'p'. There are: o."),
        ({"type": "spark"}, "Step 'a' is of type spark, which Tidemill does not run yet"),
        ({"inputs": {"x": literal("${{steps.x}}")}}, "is not an expression of a pipeline"),
        ({"resources": {"instance_count": 0}}, "Step 'a': properties.resources.instanceCount is 0"),
        ({"environment": "azureml:none:1"}, "Step 'a': Environment 'none' was not found"),
    ],
)
async def test_refusals_name_the_step_before_anything_is_written(
    world: World, change: dict[str, Any], message: str
) -> None:
    a = await register(world, component("a"))
    steps = {
        "a": {"type": "command", "componentId": a, **change},
        "b": {"type": "command", "componentId": a, "inputs": {"d": from_step("a")}},
    }
    error = await refused(world, steps, inputs={"n": {"jobInputType": "literal", "value": "1"}})
    assert message in error.message
    assert (error.target or "").startswith("properties.jobs.")


async def test_an_output_that_no_step_makes_is_refused(world: World) -> None:
    a = await register(world, component("a"))
    steps = {"a": {"type": "command", "componentId": a}}
    error = await refused(world, steps, outputs={"out": {"jobOutputType": "uri_folder"}})
    assert "Output 'out' of the pipeline comes from no step" in error.message


async def test_a_fault_deep_inside_is_found_at_submit(world: World) -> None:
    a = await register(world, component("a"))
    node = {"type": "command", "componentId": a, "computeId": "nowhere"}
    inner = await register(
        world, {"type": "pipeline", "name": "inner", "version": "1", "jobs": {"deep": node}}
    )
    error = await refused(world, {"sub": {"type": "pipeline", "componentId": inner}})
    assert "Step 'deep': Compute 'nowhere' was not found" in error.message


async def test_two_users_who_register_the_same_component_at_once_make_one(world: World) -> None:
    spec = component("shared")
    ids = await asyncio.gather(*(register(world, spec) for _ in range(8)))
    assert len(set(ids)) == 1
    rows = world.read().find(ResourceQuery("components/versions", SCOPE))
    assert [row.key.parent for row in rows] == ["shared"]


async def test_a_wake_up_that_was_missed_is_made_good_by_the_sweep(world: World) -> None:
    a = await register(world, component("a"))
    world.plans["a"] = Plan(after=None)
    steps = {
        "a": {"type": "command", "componentId": a},
        "b": {"type": "command", "componentId": a, "inputs": {"x": literal(2)}},
    }
    await submit(world, steps)
    await world.until(lambda: states(world) == {"a": "Running", "b": "Running"})
    assert world.running is not None
    composites, told = world.running.composites, world.running.composites.job_changed
    composites.job_changed = lambda uid: None  # type: ignore[method-assign]
    for child in children(world).values():
        await endings.cancel(world.services, OWNER, SCOPE, child.key.name)
    await world.until(lambda: set(states(world).values()) == {"Canceled"})
    assert world.row("p").state == JobState.RUNNING
    composites.job_changed = told  # type: ignore[method-assign]
    assert await world.running.watchdog.sweep()
    assert (await world.ended("p")).state == JobState.FAILED
