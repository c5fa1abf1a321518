"""A pipeline on its way in: read, and every step of it, down through nested ones, looked at as if it were
submitted now. What is accepted has all it needs; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tidemill.app.jobs import command_jobs, composites, sweep_jobs
from tidemill.app.jobs.components import find_component
from tidemill.app.jobs.pipeline_children import body_for
from tidemill.app.jobs.prepared import Child, Prepared
from tidemill.app.services import Services
from tidemill.domain.components import Component
from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.domain.model import Caller, JobState, Scope
from tidemill.domain.pipelines import bindings
from tidemill.domain.pipelines.checking import items_of
from tidemill.domain.pipelines.model import LITERAL, PARALLEL_FOR, PENDING, SWEEP, Given, Pipeline, Step
from tidemill.domain.pipelines.model import PIPELINE as PIPELINE_STEP
from tidemill.domain.pipelines.reading import component_ids, read_pipeline
from tidemill.domain.plan import PIPELINE, JobPlan, JobProgress, JobStatus
from tidemill.domain.units import plural

MOST_DEEP = 16  # pipelines in pipelines


async def prepare(
    s: Services, caller: Caller, scope: Scope, name: str, properties: Mapping[str, Any], child: Child | None
) -> Prepared:
    """Raises InvalidRequest, NotFound or NotOffered with the step's name, what is wrong and the fix."""
    plan = await composites.header(s, caller, scope, name, properties)
    pipeline = await read(s, scope, properties)
    if child is None:  # of a nested one all was looked at with the outermost
        await _try(s, caller, scope, name, plan, pipeline, properties, 1)
    return Prepared(
        state=JobState.RUNNING,
        status=JobStatus(plan, JobProgress(started_at=s.clock.now()), PIPELINE, pipeline=pipeline),
        job_type="Pipeline",
        where=f"a pipeline of {plural(len(pipeline.steps), 'step')}",
    )


async def read(s: Services, scope: Scope, properties: Mapping[str, Any]) -> Pipeline:
    """The pipeline with its components, as they are now. Raises as `prepare` does."""
    template = None
    if properties.get("componentId"):
        given = str(properties["componentId"])
        template = await s.store.read(lambda r: find_component(r, scope, given))
        if template.kind != PIPELINE_STEP:
            raise InvalidRequest(
                f"Component {given!r} is of type {template.kind}: a pipeline job is made from "
                "a pipeline component.",
                target="properties.componentId",
            )
    wanted = component_ids(template.spec if template is not None else properties)
    steps_by_id: dict[str, str] = {}
    for step, id in wanted.items():
        steps_by_id.setdefault(id, step)
    found: dict[str, Component] = await s.store.read(
        lambda r: {id: find_component(r, scope, id, step) for id, step in steps_by_id.items()}
    )
    return read_pipeline(properties, lambda id, step: found[id], template)


async def _try(
    s: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    plan: JobPlan,
    pipeline: Pipeline,
    properties: Mapping[str, Any],
    depth: int,
) -> None:
    """Each step as a job of its own, with a stand-in for what others will make."""
    if depth > MOST_DEEP:
        raise InvalidRequest(
            f"Pipelines lie more than {MOST_DEEP} deep in each other.", target="properties.jobs"
        )
    for step in pipeline.steps:
        if step.branch is not None or step.loop is not None:
            continue
        inputs = tuple(value for given in _inputs(pipeline, step) if (value := _stand_in(pipeline, given)))
        body = body_for(name, properties, plan, pipeline, step, inputs, {})
        try:
            if step.kind == PIPELINE_STEP:
                inner = await read(s, scope, body)
                await _try(s, caller, scope, name, plan, inner, body, depth + 1)
            else:
                kind = sweep_jobs if step.kind == SWEEP else command_jobs
                await kind.prepare(s, caller, scope, f"{name}-{step.name}"[:255], _literal(body), None)
        except TidemillError as error:
            where = f"Step {step.name!r}: "
            if not error.message.startswith("Step "):
                error.message = where + error.message
            if not (error.target or "").startswith("properties.jobs."):
                error.target = f"properties.jobs.{step.name}"
            raise


def _inputs(pipeline: Pipeline, step: Step) -> tuple[Given, ...]:
    """With those that a parallel_for gives its body: the first item's."""
    for loop in (other.loop for other in pipeline.steps if other.kind == PARALLEL_FOR and other.loop):
        if loop.body == step.name and "${{" not in loop.items:
            _, item = items_of(loop.items)[0]
            named = {given.name: given for given in step.inputs}
            return tuple({**named, **{key: Given(key, PENDING) for key in item}}.values())
    return step.inputs


def _stand_in(pipeline: Pipeline, given: Given) -> Given | None:
    if given.type != LITERAL or "${{" not in given.value:
        return given
    ref = bindings.only_ref(given.value)
    if ref is None or ref.step:
        return replace(given, value=PENDING, mode="")
    own = next((one for one in pipeline.inputs if one.name == ref.name), None)
    return None if own is None else replace(own, name=given.name, mode=given.mode or own.mode)


def _literal(body: Mapping[str, Any]) -> dict[str, Any]:
    """A step's stand-ins are no addresses, and it registers nothing."""
    inputs = {
        name: {"jobInputType": LITERAL, "value": "x"}
        if PENDING in (raw.get("uri"), raw.get("value"))
        else raw
        for name, raw in body.get("inputs", {}).items()
    }
    return {**body, "inputs": inputs}
