"""Files of batch endpoints, deployments and calls -> checked specs, and ARM's bodies of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.cli.yaml import overrides, references, to_arm
from tidemill.cli.yaml.batch_schemas import BATCH_DEPLOYMENT, BATCH_ENDPOINT, CALL, SETTINGS
from tidemill.cli.yaml.document import Document, Place, Problem, YamlError, read_file
from tidemill.cli.yaml.endpoint_load import DeploymentReferences, check_references
from tidemill.cli.yaml.kinds import check
from tidemill.cli.yaml.load import Spec, check_input
from tidemill.cli.yaml.to_arm import iso_duration

_ACTIONS = {"append_row": "AppendRow", "summary_only": "SummaryOnly"}
_WIRE = {
    "uri_file": "UriFile",
    "uri_folder": "UriFolder",
    "mltable": "MLTable",
    "mlflow_model": "MLFlowModel",
    "custom_model": "CustomModel",
    "triton_model": "TritonModel",
    "literal": "Literal",
}


def load_endpoint(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    """Raises YamlError (all problems), CliError for an unreadable file."""
    document = read_file(path, shown)
    overrides.apply(document, settings)
    problems: list[Problem] = []
    data = check(BATCH_ENDPOINT, document, document.data, (), problems)
    return _done(document, data, problems)


def load_deployment(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    """Raises YamlError (all problems), CliError for an unreadable file."""
    document = read_file(path, shown)
    overrides.apply(document, settings)
    problems: list[Problem] = []
    given: Any = document.data
    if isinstance(given, dict) and "job_definition" in given:
        message = (
            "job_definition is not offered: register the pipeline as a component (tidemill component create) "
            "and name it in component."
        )
        raise YamlError([Problem(document.key_place(("job_definition",)), message)])
    data = check(BATCH_DEPLOYMENT, document, given, (), problems)
    if data is not None:
        check_references(document, data, problems)
        for trail in (("compute",), ("settings", "default_compute")):
            text = data.get("compute") if len(trail) == 1 else (data.get("settings") or {}).get(trail[1])
            if isinstance(text, str):
                references.check_compute(document, text, trail, problems)
        _check_once(document, data, problems)
    return _done(document, data, problems)


def _check_once(document: Document, data: Mapping[str, Any], problems: list[Problem]) -> None:
    """What stands both in `settings` and beside it would be one of two things."""
    for name in SETTINGS:
        if name in data and name in (data.get("settings") or {}):
            place = document.key_place((name,))
            problems.append(Problem(place, f"{name} stands in settings, too: say it once."))


def load_call(path: Path | None, settings: tuple[str, ...], shown: str | None = None) -> Document:
    """The file of a call, or what `--set` says alone. Checked by `call_in`, once flags have added to it."""
    document = read_file(path, shown) if path is not None else Document("", Path.cwd(), "", {})
    overrides.apply(document, settings)
    if document.data is None:
        document.data = {}
    return document


def add_flag(document: Document, flag: str, trail: tuple[str, ...], value: Any) -> None:
    """A flag's value, in place of the file's. Its problems name the flag."""
    holder: Any = document.data
    for part in trail[:-1]:
        holder = holder.setdefault(part, {})
    holder[trail[-1]] = value
    place = Place(flag, 0, 0, "" if isinstance(value, dict) else str(value))
    for depth in range(1, len(trail) + 1):
        document.values.setdefault(trail[:depth], place)
        document.keys.setdefault(trail[:depth], place)
    if isinstance(value, dict):
        for key in value:
            document.values[(*trail, key)] = document.keys[(*trail, key)] = place


def call_in(document: Document) -> Spec:
    """Raises YamlError (all problems)."""
    problems: list[Problem] = []
    data = check(CALL, document, document.data, (), problems)
    for name, value in ((data or {}).get("inputs") or {}).items():
        if isinstance(value, dict):
            check_input(document, value, ("inputs", name), problems)
    return _done(document, data, problems)


def _done(document: Document, data: Any, problems: list[Problem]) -> Spec:
    if problems or data is None:
        raise YamlError(problems)
    return Spec(data, document)


# ---------------------------------------------------------------- ARM


def endpoint_body(spec: Mapping[str, Any], location: str) -> dict[str, Any]:
    properties: dict[str, Any] = {"authMode": "AADToken", "properties": spec.get("properties") or {}}
    if spec.get("description"):
        properties["description"] = spec["description"]
    if spec.get("defaults") is not None:
        properties["defaults"] = {"deploymentName": spec["defaults"].get("deployment_name") or ""}
    return {
        "location": spec.get("location") or location,
        "tags": spec.get("tags") or {},
        "properties": properties,
    }


def deployment_body(
    spec: Mapping[str, Any], found: DeploymentReferences, compute: str, component: str, location: str
) -> dict[str, Any]:
    """As the SDK sends it."""
    properties: dict[str, Any] = {"properties": spec.get("properties") or {}}
    if spec.get("description"):
        properties["description"] = spec["description"]
    if spec.get("type") == "pipeline":
        properties["deploymentConfiguration"] = {
            "deploymentConfigurationType": "PipelineComponent",
            "componentId": {"assetId": component, "referenceType": "Id"},
            "settings": {**(spec.get("settings") or {}), **({"default_compute": compute} if compute else {})},
        }
    else:
        properties |= _model_properties(spec, found, compute)
    return {"location": location, "tags": spec.get("tags") or {}, "properties": properties}


def _model_properties(spec: Mapping[str, Any], found: DeploymentReferences, compute: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        **{name: spec[name] for name in SETTINGS if spec.get(name) is not None},
        **(spec.get("settings") or {}),
    }
    given: Mapping[str, Any] = spec.get("resources") or {}
    resources = {
        "instanceCount": settings.get("instance_count") or given.get("instance_count"),
        "instanceType": given.get("instance_type"),
    }
    variables: Mapping[str, Any] = settings.get("environment_variables") or {}
    properties: dict[str, Any] = {
        "compute": compute,
        "resources": {name: value for name, value in resources.items() if value is not None},
        "environmentId": found.environment_id,
        "model": {"assetId": found.model, "referenceType": "Id"} if found.model else None,
        "environmentVariables": {name: value for name, value in variables.items() if value is not None},
        "outputAction": _ACTIONS.get(settings.get("output_action") or ""),
        **_batching(settings),
    }
    if spec.get("code_configuration"):
        script = spec["code_configuration"]["scoring_script"]
        properties["codeConfiguration"] = {"codeId": found.code_id, "scoringScript": script}
    return {name: value for name, value in properties.items() if value not in (None, "", {})}


def call_body(spec: Mapping[str, Any], inputs: Mapping[str, Any], uris: Mapping[str, str]) -> dict[str, Any]:
    """As the SDK sends it. `inputs`: with their types; `uris`: of those with data."""
    compute: Mapping[str, Any] = spec.get("compute") or {}
    properties: dict[str, Any] = {
        "inputData": {name: _wired(one, "Input") for name, one in to_arm.job_inputs(inputs, uris).items()},
        "outputData": {
            name: _wired(one, "Output") for name, one in to_arm.job_outputs(spec.get("outputs") or {}).items()
        },
        "name": spec.get("job_name"),
        "properties": {"experimentName": spec["experiment_name"]} if spec.get("experiment_name") else {},
        "compute": {
            "target": compute.get("target"),
            "instanceCount": compute.get("instance_count"),
            "instanceType": compute.get("instance_type"),
        },
        **_batching(spec),
    }
    return {"properties": {name: value for name, value in properties.items() if value not in (None, {})}}


def _batching(settings: Mapping[str, Any]) -> dict[str, Any]:
    retry: Mapping[str, Any] = settings.get("retry_settings") or {}
    timeout = retry.get("timeout")
    wired = {"maxRetries": retry.get("max_retries"), "timeout": iso_duration(timeout) if timeout else None}
    found: dict[str, Any] = {
        "miniBatchSize": settings.get("mini_batch_size"),
        "maxConcurrencyPerInstance": settings.get("max_concurrency_per_instance"),
        "errorThreshold": settings.get("error_threshold"),
        "retrySettings": {key: value for key, value in wired.items() if value is not None} or None,
        "loggingLevel": settings.get("logging_level"),
        "outputFileName": settings.get("output_file_name"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _wired(one: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A job's input or output as a call has it."""
    kind = f"job{what}Type"
    return {**{key: value for key, value in one.items() if key != kind}, kind: _WIRE[one[kind]]}
