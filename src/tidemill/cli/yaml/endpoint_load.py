"""Files of online endpoints and deployments -> checked specs, and ARM's bodies of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.cli.yaml import overrides, references
from tidemill.cli.yaml.document import Document, Problem, YamlError, read_file
from tidemill.cli.yaml.endpoint_schemas import DEPLOYMENT, ENDPOINT
from tidemill.cli.yaml.kinds import check
from tidemill.cli.yaml.load import Spec, check_environment_mapping
from tidemill.cli.yaml.to_arm import iso_duration

_AUTH = {"key": "Key", "aml_token": "AMLToken", "aad_token": "AADToken"}
_IDENTITIES = {"system_assigned": "SystemAssigned", "user_assigned": "UserAssigned", "none": "None"}
_DURATIONS = {"initial_delay": "initialDelay", "period": "period", "timeout": "timeout"}
_COUNTS = {"success_threshold": "successThreshold", "failure_threshold": "failureThreshold"}


@dataclass(frozen=True, slots=True)
class DeploymentReferences:
    """ARM ids of what a deployment's file names, "" for what it does not."""

    model: str = ""
    code_id: str = ""
    environment_id: str = ""


def load_endpoint(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    """Raises YamlError (all problems), CliError for an unreadable file."""
    document = read_file(path, shown)
    overrides.apply(document, settings)
    problems: list[Problem] = []
    data = check(ENDPOINT, document, document.data, (), problems)
    if problems or data is None:
        raise YamlError(problems)
    return Spec(data, document)


def load_deployment(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    """Raises YamlError (all problems), CliError for an unreadable file."""
    document = read_file(path, shown)
    overrides.apply(document, settings)
    problems: list[Problem] = []
    data = check(DEPLOYMENT, document, document.data, (), problems)
    if data is not None:
        check_references(document, data, problems)
    if problems or data is None:
        raise YamlError(problems)
    return Spec(data, document)


def check_references(document: Document, data: dict[str, Any], problems: list[Problem]) -> None:
    """Of a deployment: its model, environment and code."""
    model, environment = data.get("model"), data.get("environment")
    if isinstance(model, str):
        references.check_data(document, model, ("model",), problems)
    elif isinstance(model, dict) and isinstance(model.get("path"), str):
        references.check_data(document, model["path"], ("model", "path"), problems)
    if isinstance(environment, str):
        references.check_environment(document, environment, ("environment",), problems)
    elif isinstance(environment, dict):
        check_environment_mapping(document, environment, ("environment",), problems)
    code = data.get("code_configuration")
    if isinstance(code, dict) and isinstance(code.get("code"), str):
        before = len(problems)
        references.check_code(document, code["code"], ("code_configuration", "code"), problems)
        if len(problems) == before and isinstance(code.get("scoring_script"), str):
            _check_script(document, code, problems)


def _check_script(document: Document, code: dict[str, Any], problems: list[Problem]) -> None:
    """Of code on this machine."""
    if not references.is_local(code["code"]):
        return
    root = references.local_path(document, code["code"])
    root = root if root.is_dir() else root.parent
    if not (root / code["scoring_script"]).is_file():
        place = document.place(("code_configuration", "scoring_script"))
        problems.append(Problem(place, f"scoring_script: there is no {code['scoring_script']} in {root}."))


def endpoint_body(spec: Mapping[str, Any], location: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "authMode": _AUTH[spec.get("auth_mode") or "key"],
        "properties": spec.get("properties") or {},
    }
    for key, wire in (("description", "description"), ("compute", "compute")):
        if spec.get(key):
            properties[wire] = spec[key]
    for key, wire in (("traffic", "traffic"), ("mirror_traffic", "mirrorTraffic")):
        if spec.get(key) is not None:
            properties[wire] = spec[key]
    if spec.get("public_network_access"):
        properties["publicNetworkAccess"] = spec["public_network_access"].capitalize()
    body: dict[str, Any] = {
        "location": spec.get("location") or location,
        "tags": spec.get("tags") or {},
        "properties": properties,
    }
    if spec.get("identity"):
        body["identity"] = _identity(spec["identity"])
    return body


def _identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"type": _IDENTITIES[spec.get("type") or "system_assigned"]}
    ids = [one.get("resource_id") for one in spec.get("user_assigned_identities") or []]
    if ids:
        body["userAssignedIdentities"] = {str(id): {} for id in ids if id}
    return body


def deployment_body(spec: Mapping[str, Any], found: DeploymentReferences, location: str) -> dict[str, Any]:
    """As the SDK sends it."""
    variables: Mapping[str, Any] = spec.get("environment_variables") or {}
    properties: dict[str, Any] = {
        "endpointComputeType": (spec.get("type") or "managed").capitalize(),
        "properties": spec.get("properties") or {},
        "environmentVariables": {name: value for name, value in variables.items() if value is not None},
        "appInsightsEnabled": bool(spec.get("app_insights_enabled")),
    }
    if spec.get("code_configuration"):
        script = spec["code_configuration"]["scoring_script"]
        properties["codeConfiguration"] = {"codeId": found.code_id, "scoringScript": script}
    access = spec.get("egress_public_network_access")
    for wire, value in (
        ("model", found.model),
        ("environmentId", found.environment_id),
        ("description", spec.get("description")),
        ("instanceType", spec.get("instance_type")),
        ("modelMountPath", spec.get("model_mount_path")),
        ("egressPublicNetworkAccess", access.capitalize() if access else None),
        ("requestSettings", _request(spec.get("request_settings"))),
        ("livenessProbe", _probe(spec.get("liveness_probe"))),
        ("readinessProbe", _probe(spec.get("readiness_probe"))),
        ("scaleSettings", _scale(spec.get("scale_settings"))),
        ("dataCollector", _collector(spec.get("data_collector"))),
    ):
        if value:
            properties[wire] = value
    count = spec.get("instance_count")
    return {
        "location": location,
        "tags": spec.get("tags") or {},
        "sku": {"name": "Default", "capacity": 1 if count is None else count},
        "properties": properties,
    }


def _request(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for key, wire in (("request_timeout_ms", "requestTimeout"), ("max_queue_wait_ms", "maxQueueWait")):
        if spec and spec.get(key) is not None:
            body[wire] = f"PT{spec[key] / 1000:g}S"
    if spec and spec.get("max_concurrent_requests_per_instance") is not None:
        body["maxConcurrentRequestsPerInstance"] = spec["max_concurrent_requests_per_instance"]
    return body


def _probe(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Times are seconds in the file."""
    given = spec or {}
    times = {wire: iso_duration(given[key]) for key, wire in _DURATIONS.items() if given.get(key) is not None}
    return {**times, **{wire: given[key] for key, wire in _COUNTS.items() if given.get(key) is not None}}


def _scale(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    if not spec:
        return {}
    if spec["type"] == "default":
        return {"scaleType": "Default"}
    names = {
        "min_instances": "minInstances",
        "max_instances": "maxInstances",
        "target_utilization_percentage": "targetUtilizationPercentage",
        "target_requests_per_instance": "targetRequestsPerInstance",
        "park_instance": "parkInstance",
    }
    body: dict[str, Any] = {"scaleType": "TargetUtilization"}
    body |= {wire: spec[key] for key, wire in names.items() if spec.get(key) is not None}
    times = {
        "polling_interval": "pollingInterval",
        "idle_time_before_scale_to_zero": "idleTimeBeforeScaleToZero",
    }
    body |= {wire: iso_duration(spec[key]) for key, wire in times.items() if spec.get(key) is not None}
    return body


def _collector(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Only so much that the server can say of what it does not offer."""
    collections = (spec or {}).get("collections") or {}
    return {
        "collections": {
            name: {
                "dataCollectionMode": "Enabled" if str(one.get("enabled")).lower() == "true" else "Disabled"
            }
            for name, one in collections.items()
            if isinstance(one, Mapping)
        }
    }
