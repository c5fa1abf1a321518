"""From a checked pipeline or component to what the server is sent: components first, each once by its
content, then the pipeline that names them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from tidemill.cli import submit
from tidemill.cli.session import Session
from tidemill.cli.yaml import references, to_arm
from tidemill.cli.yaml.load import Spec
from tidemill.cli.yaml.pipeline_load import load_component

API = "2024-01-01-preview"
ANONYMOUS = "azureml_anonymous"
_SEARCH = ("search_space", "objective", "sampling_algorithm", "limits", "early_termination")
_BATCHES = (
    "input_data",
    "mini_batch_size",
    "partition_keys",
    "max_concurrency_per_instance",
    "mini_batch_error_threshold",
    "error_threshold",
    "retry_settings",
    "logging_level",
)
_BLOCKS = ("type", "body", "condition", "true_block", "false_block", "items", "max_concurrency", "mapping")


def pipeline_job(session: Session, spec: Spec, name: str, experiment: str) -> dict[str, Any]:
    """The ARM body of a pipeline job. Uploads and registers what its steps need."""
    data = spec.data
    settings = {key: value for key, value in (data.get("settings") or {}).items() if value is not None}
    compute = settings.pop("default_compute", None) or data.get("compute")
    if compute:
        settings["default_compute"] = submit.compute_id(session, compute)
    if settings.get("default_environment"):
        settings["default_environment"] = submit.environment_id(
            session, spec, settings["default_environment"]
        )
    inputs = submit.with_types(spec, data.get("inputs") or {})
    properties: dict[str, Any] = {
        "jobType": "Pipeline",
        "displayName": data.get("display_name") or name,
        "experimentName": data.get("experiment_name") or experiment,
        "inputs": to_arm.job_inputs(inputs, submit.input_uris(session, spec, inputs)),
        "outputs": {key: _pipeline_output(value) for key, value in (data.get("outputs") or {}).items()},
        "jobs": {key: _step(session, spec, key, step) for key, step in (data.get("jobs") or {}).items()},
        "settings": settings,
        "tags": data.get("tags") or {},
        "properties": data.get("properties") or {},
        "isArchived": False,
    }
    if data.get("component"):
        properties["componentId"] = component_id(session, spec, data["component"])
    properties |= {
        key: made
        for key, made in (
            ("description", data.get("description")),
            ("identity", to_arm.identity(data.get("identity"))),
        )
        if made
    }
    return {"properties": properties}


def component_version(session: Session, spec: Spec, anonymous: bool = False) -> dict[str, Any]:
    """The ARM body of a component."""
    data = spec.data
    body = {key: value for key, value in data.items() if key not in ("tags", "properties")}
    body["type"] = data.get("type") or "command"
    for field in ("inputs", "outputs"):
        body[field] = {name: _port(value) for name, value in (data.get(field) or {}).items()}
    if data.get("code"):
        body["code"] = _named(submit.code_id(session, spec, data["code"]))
    if data.get("environment"):
        body["environment"] = _named(submit.environment_id(session, spec, data["environment"]))
    if data.get("task"):
        body["task"] = _task(session, spec, data["task"])
    if data.get("jobs"):
        body["jobs"] = {name: _step(session, spec, name, step) for name, step in data["jobs"].items()}
    spec_body = {key: value for key, value in body.items() if value is not None}
    digest = hashlib.sha256(json.dumps(spec_body, sort_keys=True, default=str).encode()).hexdigest()
    return {
        "properties": {
            "componentSpec": spec_body,
            "description": data.get("description"),
            "isAnonymous": anonymous,
            "isArchived": False,
            "properties": {"client_component_hash": str(uuid.UUID(digest[:32]))},
            "tags": data.get("tags") or {},
        }
    }


def _port(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of a component's inputs are texts, as the SDK writes them."""
    return {
        key: str(item) if key in ("default", "min", "max") else item
        for key, item in (value or {}).items()
        if item is not None
    }


def _named(id: str) -> str:
    """As a component's spec names what is in its workspace; a registry's address is a name already."""
    return id if id.startswith("azureml:") else f"azureml:{id}"


def component_id(session: Session, spec: Spec, given: str | dict[str, Any]) -> str:
    """A component of the workspace, or one of this machine, registered by its content."""
    if isinstance(given, dict):
        return _register(session, Spec(given, spec.document))
    if references.is_local(given) and (spec.path(given).exists() or given.startswith("file:")):
        path = spec.path(given)
        return _register(session, load_component(path, (), given))
    text = given if given.startswith(("azureml:", "/")) else f"azureml:{given}"
    return submit.asset_id(session, "components", text)


def _register(session: Session, spec: Spec) -> str:
    body = component_version(session, spec, anonymous=True)
    known = {
        key: value
        for key, value in body["properties"]["componentSpec"].items()
        if key not in ("name", "version")
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()
    path = f"{session.workspace_id()}/components/{ANONYMOUS}/versions/{uuid.UUID(digest[:32])}"
    return session.client.call("PUT", path, body, {"api-version": API})["id"]


def _step(session: Session, spec: Spec, name: str, step: Mapping[str, Any]) -> dict[str, Any]:
    kind = step.get("type") or "command"
    if kind in ("if_else", "do_while", "parallel_for"):
        node = {key: step[key] for key in (*_BLOCKS, "limits") if step.get(key) is not None}
        if kind == "parallel_for" and not isinstance(node["items"], str):
            node["items"] = json.dumps(node["items"])
        if step.get("outputs"):
            node["outputs"] = {key: _output(value) for key, value in step["outputs"].items()}
        return {**node, "type": kind}
    node = {
        "name": name,
        "type": kind,
        "display_name": step.get("display_name"),
        "comment": step.get("comment"),
        "tags": step.get("tags"),
        "properties": step.get("properties"),
        "environment_variables": step.get("environment_variables"),
        "inputs": _inputs(session, spec, step.get("inputs") or {}),
        "outputs": {key: _output(value) for key, value in (step.get("outputs") or {}).items()},
        "settings": step.get("settings"),
        "is_deterministic": step.get("is_deterministic"),
        **to_arm.step_settings(step),
    }
    if step.get("compute"):
        node["computeId"] = submit.compute_id(session, step["compute"])
    if kind == "sweep":
        node |= {key: step[key] for key in _SEARCH if step.get(key) is not None}
        node["trial"] = _trial(session, spec, step["trial"])
    elif kind == "parallel":
        node |= {key: step[key] for key in _BATCHES if step.get(key) is not None}
        if step.get("task"):
            node["task"] = _task(session, spec, step["task"])
        if step.get("component"):
            node["componentId"] = component_id(session, spec, step["component"])
    elif step.get("component"):
        node["componentId"] = component_id(session, spec, step["component"])
        if step.get("environment"):
            node["environment"] = submit.environment_id(session, spec, step["environment"])
    else:
        node["command"] = step["command"]
        if step.get("code"):
            node["codeId"] = submit.code_id(session, spec, step["code"])
        if step.get("environment"):
            node["environmentId"] = submit.environment_id(session, spec, step["environment"])
    return {key: value for key, value in node.items() if value not in (None, {})}


def _task(session: Session, spec: Spec, task: Mapping[str, Any]) -> dict[str, Any]:
    """Of a parallel step or component, with its code uploaded."""
    made = dict(task)
    if task.get("code"):
        made["code"] = _named(submit.code_id(session, spec, task["code"]))
    if task.get("environment"):
        made["environment"] = _named(submit.environment_id(session, spec, task["environment"]))
    return made


def _trial(session: Session, spec: Spec, trial: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(trial, str):
        return {"componentId": component_id(session, spec, trial)}
    node: dict[str, Any] = {"command": trial["command"], **to_arm.step_settings(trial)}
    node["environmentId"] = submit.environment_id(session, spec, trial["environment"])
    if trial.get("code"):
        node["codeId"] = submit.code_id(session, spec, trial["code"])
    if trial.get("environment_variables"):
        node["environment_variables"] = trial["environment_variables"]
    return node


def _inputs(session: Session, spec: Spec, inputs: Mapping[str, Any]) -> dict[str, Any]:
    bound = {name: value for name, value in inputs.items() if _binding(value)}
    plain = submit.with_types(spec, {name: value for name, value in inputs.items() if name not in bound})
    made = to_arm.job_inputs(plain, submit.input_uris(session, spec, plain))
    found = {name: {_wire(key): value for key, value in entry.items()} for name, entry in made.items()}
    for name, value in bound.items():
        entry = {"job_input_type": "literal", "value": _binding(value)}
        if isinstance(value, dict) and value.get("mode"):
            entry["mode"] = to_arm.INPUT_MODES[value["mode"]]
        found[name] = entry
    return found


def _wire(key: str) -> str:
    return "job_input_type" if key == "jobInputType" else key


def _binding(value: Any) -> str:
    """The expression that an input is bound to, "" for none."""
    text = (value.get("path") or value.get("value")) if isinstance(value, dict) else value
    return text if isinstance(text, str) and "${{" in text else ""


def _output(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"value": value, "type": "literal"}
    made = to_arm.job_outputs({"o": value})["o"]
    names = {"jobOutputType": "job_output_type", "assetName": "asset_name", "assetVersion": "asset_version"}
    found = {str(names.get(key, key)): item for key, item in made.items()}
    if not (value or {}).get("type"):
        found.pop("job_output_type", None)  # the component says it
    return found


def _pipeline_output(value: Any) -> dict[str, Any]:
    return to_arm.job_outputs({"o": value if isinstance(value, dict) else None})["o"]
