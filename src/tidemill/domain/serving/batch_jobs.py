"""What a call of a batch deployment is as a job: the ARM properties of a pipeline.

Of a model it has one parallel step, `batchscoring`, whose output `score` is the pipeline's, as on Azure; of a
pipeline component it is that component with the call's inputs.
"""

from __future__ import annotations

from typing import Any

from tidemill.domain.serving.batch import PIPELINE, BatchDeploymentSpec, pipeline_settings
from tidemill.domain.serving.batch_calls import LITERAL, Call, CallInput, CallOutput

STEP, SCORE = "batchscoring", "score"
ENDPOINT, DEPLOYMENT = "tidemill.batch_endpoint", "tidemill.batch_deployment"  # among the job's properties


def job_properties(
    spec: BatchDeploymentSpec, call: Call, environment: str, model_type: str, tags: dict[str, str]
) -> dict[str, Any]:
    """`environment`: what the step runs in, resolved; `model_type` "" where there is no model; `tags`: the
    deployment's, which say whose job it is and what must hold where it runs."""
    common: dict[str, Any] = {
        "jobType": "Pipeline",
        "experimentName": call.experiment or spec.endpoint,
        "displayName": spec.label,
        "tags": tags,
        "properties": {ENDPOINT: spec.endpoint, DEPLOYMENT: spec.name},
        "inputs": {one.name: _input(one) for one in call.inputs},
    }
    if spec.kind == PIPELINE:
        settings = pipeline_settings(spec)
        if call.compute:
            settings["default_compute"] = call.compute
        return {
            **common,
            "componentId": spec.component,
            "settings": settings,
            "outputs": {one.name: _output(one) for one in call.outputs},
        }
    output = call.outputs[0] if call.outputs else CallOutput(SCORE)
    return {
        **common,
        "outputs": {SCORE: _output(output)},
        "jobs": {STEP: _step(spec, call, output.type, environment, model_type)},
    }


def _step(
    spec: BatchDeploymentSpec, call: Call, output_type: str, environment: str, model_type: str
) -> dict[str, Any]:
    (given,) = call.inputs
    model_input = "model" if given.name != "model" else "deployed_model"
    batching = call.batching
    task: dict[str, Any] = {
        "type": "run_function",
        "code": spec.code_id,
        "entry_script": spec.scoring_script,
        "environment": environment,
        "results_in": f"${{{{outputs.{SCORE}}}}}",
        "append_file_name": call.output_file,
    }
    inputs: dict[str, Any] = {
        given.name: {"job_input_type": LITERAL, "value": f"${{{{parent.inputs.{given.name}}}}}"}
    }
    if spec.model:
        task["model"] = f"${{{{inputs.{model_input}}}}}"
        inputs[model_input] = {"job_input_type": model_type, "uri": spec.model, "mode": "Download"}
    if spec.append:
        task["append_row_to"] = f"${{{{outputs.{SCORE}}}}}"
    return {
        "type": "parallel",
        "component": spec.label,  # the SDK reads no step without one; the step itself says all there is
        "is_deterministic": False,  # whoever calls wants it done
        "compute": call.compute or spec.compute,
        "resources": {
            "instance_count": call.instances or spec.instances,
            "instance_type": call.instance_type or spec.instance_type,
        },
        "environment_variables": dict(spec.environment_variables),
        "inputs": inputs,
        "outputs": {SCORE: {"job_output_type": output_type, "value": f"${{{{parent.outputs.{SCORE}}}}}"}},
        "input_data": f"${{{{inputs.{given.name}}}}}",
        # Of a table it is a number of bytes, which a number of files is not: there the usual size holds.
        "mini_batch_size": "" if given.type == "mltable" else str(batching.size),
        "max_concurrency_per_instance": batching.concurrency,
        "error_threshold": batching.errors,
        "retry_settings": {"max_retries": batching.retries, "timeout": round(batching.timeout_s)},
        "logging_level": batching.logging_level,
        "task": {key: value for key, value in task.items() if value},
    }


def _input(one: CallInput) -> dict[str, Any]:
    if one.type == LITERAL:
        return {"jobInputType": LITERAL, "value": one.value}
    return {"jobInputType": one.type, "uri": one.value, **({"mode": one.mode} if one.mode else {})}


def _output(one: CallOutput) -> dict[str, Any]:
    found = {
        "jobOutputType": one.type,
        "uri": one.uri,
        "mode": one.mode,
        "assetName": one.asset_name,
        "assetVersion": one.asset_version,
    }
    return {key: value for key, value in found.items() if value}
