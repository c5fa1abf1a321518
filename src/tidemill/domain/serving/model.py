"""Managed online endpoints and their deployments, read from Azure's bodies into frozen values.

`read_endpoint` and `read_deployment` take ARM `properties` of any API version that the SDK speaks
(https://learn.microsoft.com/rest/api/azureml/online-endpoints, …/online-deployments) and refuse what cannot
be served, naming the property. Where a body says nothing, Azure's defaults hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import choice, duration, integer, mapping, text, variables
from tidemill.domain.serving.traffic import read_percentages

KEY, AML_TOKEN, AAD_TOKEN = "Key", "AMLToken", "AADToken"  # auth modes
_AUTH_MODES = {"key": KEY, "amltoken": AML_TOKEN, "aadtoken": AAD_TOKEN}
_FLAG = {"true": "true", "false": "false"}
_SWITCH = {"enabled": "Enabled", "disabled": "Disabled"}
DEFAULT_SCALE, TARGET_UTILIZATION = "Default", "TargetUtilization"
_SCALES = {"default": DEFAULT_SCALE, "targetutilization": TARGET_UTILIZATION}
DEFAULT_SIZE = "Standard_DS3_v2"
MAX_INSTANCES = 1000
MAX_CONCURRENT = 10_000
LONGEST_S = 3600.0

# As `az ml` and the SDK check it before they send.
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
SHORTEST, LONGEST = 3, 32


class Provisioning(StrEnum):
    """States of endpoints and deployments: ARM's `provisioningState`, and the row's `state`."""

    CREATING = "Creating"
    UPDATING = "Updating"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETING = "Deleting"

    @property
    def final(self) -> bool:
        return self in (Provisioning.SUCCEEDED, Provisioning.FAILED)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """`traffic` and `mirror`: (deployment, percent) as given, without zeroes. `public`: reachable from
    outside of the workspace."""

    name: str
    auth_mode: str = KEY
    traffic: tuple[tuple[str, int], ...] = ()
    mirror: tuple[tuple[str, int], ...] = ()
    public: bool = True


@dataclass(frozen=True, slots=True)
class Probe:
    """How an instance is asked whether it lives, or is ready. Times in seconds."""

    initial_delay_s: float = 10.0
    period_s: float = 10.0
    timeout_s: float = 2.0
    success: int = 1
    failure: int = 30


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """`timeout_s`: for one answer; `queue_wait_s`: for a place among the `max_concurrent` of an instance."""

    timeout_s: float = 5.0
    max_concurrent: int = 1
    queue_wait_s: float = 0.5


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """`kind` DEFAULT_SCALE: as many instances as asked for. TARGET_UTILIZATION: between `minimum` and
    `maximum`, towards `target_percent` of CPU, and of the requests that an instance may have at once, or
    `target_requests` of them. With a minimum of 0 it sleeps after `idle_s` without a request; `parks`: one
    instance then stands still instead of ending. The last three are Tidemill's own."""

    kind: str = DEFAULT_SCALE
    minimum: int = 1
    maximum: int = 1
    polling_s: float = 1.0
    target_percent: int = 70
    target_requests: int | None = None
    idle_s: float = 300.0
    parks: bool = True


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What a deployment is to be. `model`, `code_id`, `environment_id` are references as they were given;
    "" where there are none."""

    endpoint: str
    name: str
    model: str = ""
    code_id: str = ""
    scoring_script: str = ""
    environment_id: str = ""
    environment_variables: tuple[tuple[str, str], ...] = ()
    instance_type: str = DEFAULT_SIZE
    instances: int = 1
    request: RequestSettings = field(default_factory=RequestSettings)
    liveness: Probe = field(default_factory=Probe)
    readiness: Probe = field(default_factory=Probe)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    model_mount_path: str = ""
    egress: bool = True  # `egressPublicNetworkAccess`; never more than the workspace's computes may

    @property
    def label(self) -> str:
        """Of its compute: the first part of its nodes' names."""
        return f"{self.endpoint}.{self.name}"


class Change(StrEnum):
    """What a new spec asks of a deployment that serves, the strongest of it."""

    NONE = "none"
    ROUTE = "route"  # the gateway's settings
    SCALE = "scale"  # how many instances
    REPLACE = "replace"  # other instances


def change_between(old: DeploymentSpec, new: DeploymentSpec) -> Change:
    """Only what instances were started with needs other ones."""
    if _started_with(old) != _started_with(new):
        return Change.REPLACE
    if (old.instances, old.scale) != (new.instances, new.scale):
        return Change.SCALE
    return Change.ROUTE if old.request != new.request else Change.NONE


def _started_with(spec: DeploymentSpec) -> tuple[Any, ...]:
    return (
        spec.model,
        spec.code_id,
        spec.scoring_script,
        spec.environment_id,
        spec.environment_variables,
        spec.instance_type.casefold(),
        spec.liveness,
        spec.readiness,
        spec.model_mount_path,
        spec.egress,
    )


def check_name(name: str, what: str) -> None:
    """`what`: "Endpoint" or "Deployment". Raises InvalidRequest."""
    if not (SHORTEST <= len(name) <= LONGEST and _NAME.fullmatch(name)):
        raise InvalidRequest(
            f"{what} name {name[:80]!r} is not valid: use {SHORTEST} to {LONGEST} letters, digits or '-', "
            "starting with a letter and ending with a letter or digit.",
            "InvalidName",
            "name",
        )


def read_endpoint(name: str, properties: Mapping[str, Any]) -> EndpointSpec:
    """Raises InvalidRequest or NotOffered (target: the property)."""
    check_name(name, "Endpoint")
    if properties.get("compute"):
        raise NotOffered(
            f"Endpoint {name!r} names the compute {text(properties['compute'])!r}: endpoints on a Kubernetes "
            "compute are not offered. Leave 'compute' out: instances are nodes of this host.",
            "properties.compute",
        )
    return EndpointSpec(
        name,
        choice(properties.get("authMode"), _AUTH_MODES, KEY, "properties.authMode"),
        read_percentages(properties.get("traffic"), "properties.traffic"),
        read_percentages(properties.get("mirrorTraffic"), "properties.mirrorTraffic"),
        choice(properties.get("publicNetworkAccess"), _SWITCH, "Enabled", "properties.publicNetworkAccess")
        == "Enabled",
    )


def read_deployment(
    endpoint: str, name: str, properties: Mapping[str, Any], sku: Mapping[str, Any]
) -> DeploymentSpec:
    """`sku`: ARM's; its `capacity` is the number of instances. Raises InvalidRequest or NotOffered."""
    check_name(name, "Deployment")
    _check_kind(name, properties)
    code = mapping(properties.get("codeConfiguration"), "properties.codeConfiguration")
    spec = DeploymentSpec(
        endpoint,
        name,
        model=model_id(properties.get("model")),
        code_id=text(code.get("codeId")),
        scoring_script=text(code.get("scoringScript")),
        environment_id=text(properties.get("environmentId")),
        environment_variables=variables(properties.get("environmentVariables")),
        instance_type=text(properties.get("instanceType")) or DEFAULT_SIZE,
        instances=integer(sku.get("capacity"), 1, "sku.capacity", 0, MAX_INSTANCES),
        request=_request(mapping(properties.get("requestSettings"), "properties.requestSettings")),
        liveness=_probe(properties, "livenessProbe"),
        readiness=_probe(properties, "readinessProbe"),
        scale=_scale(mapping(properties.get("scaleSettings"), "properties.scaleSettings")),
        model_mount_path=_mount_path(text(properties.get("modelMountPath"))),
        egress=choice(
            properties.get("egressPublicNetworkAccess"),
            _SWITCH,
            "Enabled",
            "properties.egressPublicNetworkAccess",
        )
        == "Enabled",
    )
    _check_whole(spec)
    return spec


def _check_kind(name: str, properties: Mapping[str, Any]) -> None:
    kind = text(properties.get("endpointComputeType")) or "Managed"
    if kind.lower() not in ("managed", "azuremlcompute"):
        raise NotOffered(
            f"Deployment {name!r} is of kind {kind!r}: only managed online deployments are offered. "
            "Use endpointComputeType Managed (type: managed_online_deployment is the default).",
            "properties.endpointComputeType",
        )
    collector = mapping(properties.get("dataCollector"), "properties.dataCollector")
    collections = mapping(collector.get("collections"), "properties.dataCollector.collections")
    if any(_collects(value) for value in collections.values()):
        raise NotOffered(
            f"Deployment {name!r} asks for data collection, which Tidemill does not offer yet. Leave "
            "data_collector out, or set its collections to enabled: false.",
            "properties.dataCollector",
        )


def _collects(collection: Any) -> bool:
    mode = text(mapping(collection, "properties.dataCollector.collections").get("dataCollectionMode"))
    return mode.lower() not in ("disabled", "false")


def _check_whole(spec: DeploymentSpec) -> None:
    """There is something to serve, and how."""
    check_code(f"deployment {spec.name!r}", spec.code_id, spec.scoring_script)
    if not spec.code_id and not spec.model and not spec.environment_id:
        raise InvalidRequest(
            f"Deployment {spec.name!r} has neither a scoring script nor a model: there is nothing to serve. "
            "Give code_configuration, a model that needs none (an mlflow_model), or an environment whose "
            "image serves by itself (inference_config).",
            target="properties.model",
        )


def check_code(of: str, code_id: str, script: str, where: str = "properties.codeConfiguration") -> None:
    """Both or neither, and a script that lies in the code. `of`: "deployment 'blue'". Raises
    InvalidRequest."""
    if bool(code_id) != bool(script):
        lacks, has = ("scoringScript", "codeId") if code_id else ("codeId", "scoringScript")
        raise InvalidRequest(
            f"codeConfiguration of {of} has {has} and no {lacks}: give both (in YAML: "
            "code_configuration: code, scoring_script).",
            target=f"{where}.{lacks}",
        )
    if script.startswith("/") or ".." in script.split("/") or "\\" in script:
        raise InvalidRequest(
            f"scoringScript {script!r} must be a path below the code folder.",
            target=f"{where}.scoringScript",
        )


def model_id(raw: Any) -> str:
    """An id; of some API versions an object with `assetId`."""
    if isinstance(raw, Mapping):
        return text(mapping(raw, "properties.model").get("assetId"))
    return text(raw)


def _request(raw: Mapping[str, Any]) -> RequestSettings:
    where, default = "properties.requestSettings", RequestSettings()
    return RequestSettings(
        duration(raw.get("requestTimeout"), default.timeout_s, f"{where}.requestTimeout", 0.001, LONGEST_S),
        integer(
            raw.get("maxConcurrentRequestsPerInstance"),
            default.max_concurrent,
            f"{where}.maxConcurrentRequestsPerInstance",
            1,
            MAX_CONCURRENT,
        ),
        duration(raw.get("maxQueueWait"), default.queue_wait_s, f"{where}.maxQueueWait", 0, LONGEST_S),
    )


def _probe(properties: Mapping[str, Any], kind: str) -> Probe:
    where, default = f"properties.{kind}", Probe()
    raw = mapping(properties.get(kind), where)
    return Probe(
        duration(raw.get("initialDelay"), default.initial_delay_s, f"{where}.initialDelay", 0, LONGEST_S),
        duration(raw.get("period"), default.period_s, f"{where}.period", 0.1, LONGEST_S),
        duration(raw.get("timeout"), default.timeout_s, f"{where}.timeout", 0.1, LONGEST_S),
        integer(raw.get("successThreshold"), default.success, f"{where}.successThreshold", 1, 1000),
        integer(raw.get("failureThreshold"), default.failure, f"{where}.failureThreshold", 1, 1000),
    )


def _scale(raw: Mapping[str, Any]) -> ScaleSettings:
    where, default = "properties.scaleSettings", ScaleSettings()
    kind = choice(raw.get("scaleType"), _SCALES, DEFAULT_SCALE, f"{where}.scaleType")
    parks = choice(raw.get("parkInstance"), _FLAG, "true", f"{where}.parkInstance") == "true"
    if kind == DEFAULT_SCALE:
        return replace(default, parks=parks)
    low = integer(raw.get("minInstances"), default.minimum, f"{where}.minInstances", 0, MAX_INSTANCES)
    high = integer(raw.get("maxInstances"), max(1, low), f"{where}.maxInstances", 1, MAX_INSTANCES)
    if low > high:
        raise InvalidRequest(
            f"The least number of instances, {low}, is more than the greatest, {high}: "
            "lower the first or raise the second.",
            target=f"{where}.minInstances",
        )
    return ScaleSettings(
        kind,
        low,
        high,
        duration(raw.get("pollingInterval"), default.polling_s, f"{where}.pollingInterval", 1, LONGEST_S),
        integer(
            raw.get("targetUtilizationPercentage"),
            default.target_percent,
            f"{where}.targetUtilizationPercentage",
            1,
            100,
        ),
        integer(
            raw.get("targetRequestsPerInstance"), 0, f"{where}.targetRequestsPerInstance", 1, MAX_CONCURRENT
        )
        or None,
        duration(
            raw.get("idleTimeBeforeScaleToZero"),
            default.idle_s,
            f"{where}.idleTimeBeforeScaleToZero",
            1,
            24 * LONGEST_S,
        ),
        parks,
    )


def _mount_path(path: str) -> str:
    if path and (not path.startswith("/") or ".." in path.split("/") or "\0" in path):
        raise InvalidRequest(
            f"modelMountPath {path!r} must be an absolute path without '..', for example /var/models.",
            target="properties.modelMountPath",
        )
    return path
