"""A step as the body of a job, and a job as the step that it was: between the pipeline's words and ARM's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.app.jobs.composites import INHERITED_TAGS
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.domain.components import LITERALS, maybe
from tidemill.domain.jobspec import MEDIUM
from tidemill.domain.model import JobState, Resource
from tidemill.domain.pipelines.deciding import ChildView, Output
from tidemill.domain.pipelines.model import LITERAL, Given, Made, Pipeline, Step
from tidemill.domain.plan import JobPlan, PlannedOutput

CONTROL = "azureml.pipelines.control"  # a run's property with the values of its literal outputs, JSON
MOST_VALUE = 8192  # bytes of one


def body_for(
    name: str,
    properties: Mapping[str, Any],
    plan: JobPlan,
    pipeline: Pipeline,
    step: Step,
    inputs: Sequence[Given],
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """ARM properties of a step's job. `name`, `properties`, `plan`: of the pipeline; `tags`: what is
    inherited."""
    body: dict[str, Any] = json.loads(step.body)
    body["experimentName"] = plan.job.experiment
    body["inputs"] = {given.name: _input(given) for given in inputs}
    body["outputs"] = {made.name: _output(name, made, pipeline) for made in step.outputs}
    own_tags = maybe(properties.get("tags"))
    kept = {tag: own_tags[tag] for tag in INHERITED_TAGS if own_tags.get(tag)}
    body["tags"] = {**kept, **tags, **body.get("tags", {})}
    if "identity" not in body and properties.get("identity"):
        body["identity"] = properties["identity"]
    if "queueSettings" not in body and plan.job.priority != MEDIUM:
        body["queueSettings"] = {"priority": plan.job.priority}
    return body


def _input(given: Given) -> dict[str, Any]:
    if given.type == LITERAL:
        return {"jobInputType": LITERAL, "value": given.value}
    return {"jobInputType": given.type, "uri": given.value, **({"mode": given.mode} if given.mode else {})}


def _output(pipeline_name: str, made: Made, pipeline: Pipeline) -> dict[str, Any]:
    """A literal output is a small file. What the pipeline says of its own output holds for the step's."""
    if made.type in LITERALS:
        return {"jobOutputType": "uri_file", "mode": "Upload"}
    own = next((one for one in pipeline.outputs if one.name == made.parent), None) if made.parent else None
    uri = made.uri
    if own is not None and own.uri:
        uri = own.uri.replace("${{name}}", pipeline_name)
    mode = (own.mode if own is not None else "") or made.mode
    found = {"jobOutputType": made.type or "uri_folder", "mode": mode, "uri": uri}
    found |= {"assetName": made.asset_name, "assetVersion": made.asset_version}
    return {key: value for key, value in found.items() if value}


def view_of(row: Resource) -> ChildView:
    """A child as the pipeline's decisions see it."""
    state = JobState(row.state)
    if state is not JobState.COMPLETED:
        error = job_status(row.status).progress.error
        return ChildView(state, error=error.message if error is not None else "")
    outputs = {out.name: Output(out.type, out.uri) for out in job_status(row.status).plan.outputs}
    for name, value in values_of(row).items():
        outputs[name] = Output("string", value=value)
    return ChildView(state, outputs)


def values_of(row: Resource) -> dict[str, str]:
    """The literal outputs that a run has said."""
    raw = maybe(decode_object(row.spec).get("properties")).get(CONTROL)
    try:
        found = maybe(json.loads(raw) if raw else None)
    except ValueError:
        return {}
    return {str(key): _text(value) for key, value in found.items()}


def _text(value: Any) -> str:
    return ("True" if value else "False") if isinstance(value, bool) else str(value)


def made_of(
    pipeline: Pipeline, found: Mapping[str, Output], planned: Mapping[str, PlannedOutput]
) -> list[PlannedOutput]:
    """The pipeline's outputs as they turned out. `planned`: by address, those of the children."""
    outputs: list[PlannedOutput] = []
    for made in pipeline.outputs:
        output = found.get(made.name)
        source = planned.get(output.uri) if output is not None else None
        if source is None:
            continue
        kind = made.type if made.type not in LITERALS else source.type
        outputs.append(
            PlannedOutput(
                made.name,
                kind or source.type,
                source.mode,
                source.place,
                source.uri,
                made.asset_name,
                made.asset_version,
            )
        )
    return outputs
