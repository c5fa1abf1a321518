"""A checked spec (yaml/load.py) -> the ARM body that Azure's SDK sends. Pure: what had to be looked up or
uploaded comes in as `JobReferences` or a uri."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.cli.yaml.schemas import LITERAL_TYPES

Body = dict[str, Any]

ANONYMOUS_ENVIRONMENT = "CliV2AnonymousEnvironment"
DEFAULT_SIZE = "STANDARD_DS3_V2"

INPUT_MODES = {
    "mount": "ReadOnlyMount",
    "ro_mount": "ReadOnlyMount",
    "rw_mount": "ReadWriteMount",
    "download": "Download",
    "direct": "Direct",
    "eval_mount": "EvalMount",
    "eval_download": "EvalDownload",
}
_OUTPUT_MODES = {
    "mount": "ReadWriteMount",
    "rw_mount": "ReadWriteMount",
    "upload": "Upload",
    "direct": "Direct",
}
_TIERS = {"spot": "Spot", "basic": "Basic", "standard": "Standard", "premium": "Premium", "null": "Null"}
_PRIORITIES = {"low": 1, "medium": 2, "high": 3}
_DISTRIBUTIONS = {"pytorch": "PyTorch", "mpi": "Mpi", "tensorflow": "TensorFlow", "ray": "Ray"}
_IDENTITIES = {
    "managed": "Managed",
    "managed_identity": "Managed",
    "user_identity": "UserIdentity",
    "aml_token": "AMLToken",
}
_COMPUTE_IDENTITIES = {
    "system_assigned": "SystemAssigned",
    "user_assigned": "UserAssigned",
    "none": "None",
}
_SERVICES = {"ssh": "SSH", "tensor_board": "TensorBoard", "vs_code": "VSCode", "jupyter_lab": "JupyterLab"}


@dataclass(frozen=True, slots=True)
class JobReferences:
    """What the names in a job stand for: ARM ids and URIs. `inputs`: by input name, data inputs only."""

    environment_id: str = ""
    code_id: str = ""
    compute_id: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    component_id: str = ""  # of a sweep whose trial is one


def command_job(spec: Mapping[str, Any], name: str, references: JobReferences, experiment: str) -> Body:
    """`experiment`: the name to use when the spec has none."""
    variables: Mapping[str, Any] = spec.get("environment_variables") or {}
    properties: Body = {
        "jobType": "Command",
        "displayName": spec.get("display_name") or name,
        "experimentName": spec.get("experiment_name") or experiment,
        "command": spec["command"],
        "environmentId": references.environment_id,
        "inputs": job_inputs(spec.get("inputs") or {}, references.inputs),
        "outputs": job_outputs(spec.get("outputs") or {}),
        "environmentVariables": {k: v for k, v in variables.items() if v is not None},
        "tags": spec.get("tags") or {},
        "properties": spec.get("properties") or {},
        "isArchived": False,
    }
    if references.code_id:
        properties["codeId"] = references.code_id
    if references.compute_id:
        properties["computeId"] = references.compute_id
    for key, made in (
        ("description", spec.get("description")),
        ("distribution", _distribution(spec.get("distribution"))),
        ("resources", _resources(spec)),
        ("limits", _limits(spec.get("limits"))),
        ("queueSettings", _queue(spec.get("queue_settings"))),
        ("identity", identity(spec.get("identity"))),
        ("services", _services(spec.get("services"))),
        ("parentJobName", spec.get("parent_job_name")),
    ):
        if made:
            properties[key] = made
    return {"properties": properties}


def job_inputs(inputs: Mapping[str, Any], uris: Mapping[str, str]) -> Body:
    """Literals as the SDK writes them (`str` of the value); optional inputs without one are left out."""
    result: Body = {}
    for name, value in inputs.items():
        if not isinstance(value, Mapping):
            if value is not None:
                result[name] = {"value": str(value), "jobInputType": "literal"}
            continue
        if is_literal(value):
            literal = value.get("value", value.get("default"))
            if literal is not None:
                result[name] = {"value": str(literal), "jobInputType": "literal"}
            continue
        if name not in uris:
            continue
        entry = {"uri": uris[name], "jobInputType": value.get("type") or "uri_folder"}
        if value.get("mode"):
            entry["mode"] = INPUT_MODES[value["mode"]]
        if value.get("description"):
            entry["description"] = value["description"]
        result[name] = entry
    return result


def is_literal(value: Mapping[str, Any]) -> bool:
    return (
        value.get("type") in LITERAL_TYPES or "value" in value or ("default" in value and "path" not in value)
    )


def job_outputs(outputs: Mapping[str, Any]) -> Body:
    result: Body = {}
    for name, value in outputs.items():
        value = value or {}
        entry: Body = {"jobOutputType": value.get("type") or "uri_folder"}
        _copy(
            value,
            entry,
            {"name": "assetName", "version": "assetVersion", "path": "uri", "description": "description"},
        )
        if value.get("mode"):
            entry["mode"] = _OUTPUT_MODES[value["mode"]]
        result[name] = entry
    return result


def aml_compute(spec: Mapping[str, Any], location: str) -> Body:
    """Without min_instances a cluster scales to 0; max_instances is 1 by default, as in the SDK."""
    scale: Body = {
        "maxNodeCount": 1 if spec.get("max_instances") is None else spec["max_instances"],
        "minNodeCount": spec.get("min_instances") or 0,
    }
    if spec.get("idle_time_before_scale_down") is not None:
        scale["nodeIdleTimeBeforeScaleDown"] = iso_duration(spec["idle_time_before_scale_down"])
    public = spec.get("ssh_public_access_enabled")
    inner: Body = {
        "vmSize": spec.get("size") or DEFAULT_SIZE,
        "vmPriority": "LowPriority" if spec.get("tier") == "low_priority" else "Dedicated",
        "scaleSettings": scale,
        "remoteLoginPortPublicAccess": "NotSpecified"
        if public is None
        else "Enabled"
        if public
        else "Disabled",
        "enableNodePublicIp": spec.get("enable_node_public_ip", True),
    }
    ssh = spec.get("ssh_settings")
    if ssh:
        inner["userAccountCredentials"] = {
            "adminUserName": ssh.get("admin_username"),
            "adminUserPassword": ssh.get("admin_password"),
            "adminUserSshPublicKey": ssh.get("ssh_key_value"),
        }
    properties: Body = {"computeType": "AmlCompute", "properties": inner, "disableLocalAuth": not ssh}
    if spec.get("description"):
        properties["description"] = spec["description"]
    body: Body = {"location": spec.get("location") or location, "properties": properties}
    if spec.get("tags"):
        body["tags"] = spec["tags"]
    if spec.get("identity"):
        body["identity"] = _compute_identity(spec["identity"])
    return body


def _compute_identity(spec: Mapping[str, Any]) -> Body:
    body: Body = {"type": _COMPUTE_IDENTITIES[spec.get("type") or "none"]}
    named = spec.get("user_assigned_identities") or []
    if named:
        ids = (one.get("resource_id") if isinstance(one, Mapping) else one for one in named)
        body["userAssignedIdentities"] = {str(id): {} for id in ids if id}
    return body


def environment_version(
    spec: Mapping[str, Any], conda: Any | None, context_uri: str = "", anonymous: bool = False
) -> Body:
    """`conda`: the text of the conda file, or its content (a mapping); `context_uri`: where the build context
    was put."""
    properties: Body = {"isAnonymous": anonymous, "isArchived": False}
    if conda:
        properties["condaFile"] = conda if isinstance(conda, str) else conda_text(conda)
    if spec.get("image"):
        properties["image"] = spec["image"]
    if context_uri:
        properties["build"] = {"contextUri": context_uri}
        if (spec.get("build") or {}).get("dockerfile_path"):
            properties["build"]["dockerfilePath"] = spec["build"]["dockerfile_path"]
    if spec.get("os_type"):
        properties["osType"] = spec["os_type"].capitalize()
    inference = spec.get("inference_config")
    if inference:
        properties["inferenceConfig"] = {
            wire: inference[key]
            for key, wire in (
                ("liveness_route", "livenessRoute"),
                ("readiness_route", "readinessRoute"),
                ("scoring_route", "scoringRoute"),
            )
        }
    _copy(spec, properties, {"description": "description", "tags": "tags", "properties": "properties"})
    return {"properties": properties}


def anonymous_version(body: Body, upload_hash: str = "") -> str:
    """The version of an environment without a name: the SDK's own digest for an image with or without a conda
    file, so that both clients share the built environment."""
    properties = body["properties"]
    build = properties.get("build") or {}
    if build:
        text = _sha256(upload_hash)
        if build.get("dockerfilePath"):
            text = text.join(_sha256(build["dockerfilePath"]))
        return _sha256(text)
    text = _sha256(properties["image"]) if properties.get("image") else ""
    if properties.get("inferenceConfig"):
        text = text.join(_sha256(repr(properties["inferenceConfig"])))
    if properties.get("condaFile"):
        text = text.join(_sha256(properties["condaFile"]))
    return _sha256(text)


def conda_text(conda: Any) -> str:
    """The conda mapping as the SDK writes it: YAML with sorted keys."""
    import yaml

    return yaml.dump(conda, sort_keys=True)


def data_version(spec: Mapping[str, Any], uri: str) -> Body:
    properties: Body = {
        "isAnonymous": False,
        "isArchived": False,
        "tags": spec.get("tags") or {},
        "properties": spec.get("properties") or {},
        "dataUri": uri,
        "dataType": spec.get("type") or "uri_folder",
    }
    _copy(spec, properties, {"description": "description"})
    return {"properties": properties}


def model_version(spec: Mapping[str, Any], uri: str) -> Body:
    properties: Body = {
        "isAnonymous": False,
        "isArchived": False,
        "tags": spec.get("tags") or {},
        "properties": spec.get("properties") or {},
        "modelUri": uri,
        "modelType": spec.get("type") or "custom_model",
    }
    _copy(spec, properties, {"description": "description", "flavors": "flavors", "stage": "stage"})
    return {"properties": properties}


def blob_datastore(spec: Mapping[str, Any]) -> Body:
    credentials = spec.get("credentials") or {}
    if credentials.get("account_key"):
        kind = "AccountKey"
        secret: Body | None = {"secretsType": kind, "key": credentials["account_key"]}
    elif credentials.get("sas_token"):
        kind, secret = "Sas", {"secretsType": "Sas", "sasToken": credentials["sas_token"]}
    else:
        kind, secret = "None", None
    properties: Body = {
        "datastoreType": "AzureBlob",
        "accountName": spec["account_name"],
        "containerName": spec["container_name"],
        "endpoint": spec.get("endpoint") or "core.windows.net",
        "protocol": spec.get("protocol") or "https",
        "credentials": {"credentialsType": kind, **({"secrets": secret} if secret else {})},
        "tags": spec.get("tags") or {},
    }
    _copy(spec, properties, {"description": "description"})
    return {"properties": properties}


def workspace(spec: Mapping[str, Any], location: str) -> Body:
    properties: Body = {}
    _copy(
        spec,
        properties,
        {
            "display_name": "friendlyName",
            "description": "description",
            "hbi_workspace": "hbiWorkspace",
            "public_network_access": "publicNetworkAccess",
            "image_build_compute": "imageBuildCompute",
            "storage_account": "storageAccount",
            "key_vault": "keyVault",
            "application_insights": "applicationInsights",
            "container_registry": "containerRegistry",
        },
    )
    return {
        "location": spec.get("location") or location,
        "identity": {"type": "SystemAssigned"},
        "tags": spec.get("tags") or {},
        "properties": properties,
    }


def iso_duration(seconds: int) -> str:
    """120 -> "PT2M", 3725 -> "PT1H2M5S", 0 -> "PT0S"."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    text = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "") + (f"{left}S" if left else "")
    return "PT" + (text or "0S")


def _distribution(spec: Mapping[str, Any] | None) -> Body | None:
    if not spec:
        return None
    body: Body = {"distributionType": _DISTRIBUTIONS[spec["type"]]}
    _copy(
        spec,
        body,
        {
            "process_count_per_instance": "processCountPerInstance",
            "worker_count": "workerCount",
            "parameter_server_count": "parameterServerCount",
            "port": "port",
            "address": "address",
            "include_dashboard": "includeDashboard",
            "dashboard_port": "dashboardPort",
            "head_node_additional_args": "headNodeAdditionalArgs",
            "worker_node_additional_args": "workerNodeAdditionalArgs",
        },
    )
    return body


def _resources(job: Mapping[str, Any]) -> Body | None:
    spec = job.get("resources") or {}
    body: Body = {"properties": dict(spec.get("properties") or {})}
    _copy(
        spec,
        body,
        {
            "instance_count": "instanceCount",
            "instance_type": "instanceType",
            "max_instance_count": "maxInstanceCount",
            "shm_size": "shmSize",
            "locations": "locations",
        },
    )
    if isinstance(spec.get("docker_args"), list):
        body["dockerArgsList"] = spec["docker_args"]
    elif spec.get("docker_args"):
        body["dockerArgs"] = spec["docker_args"]
    if (job.get("compute") or "").removeprefix("azureml:") == "local":
        body["properties"]["IsLocal"] = {"IsLocal": True}
    return body if spec or body["properties"] else None


def step_settings(step: Mapping[str, Any]) -> Body:
    """What a step of a pipeline says about how it runs, by the names that Azure's SDK sends for steps."""
    made = {
        "resources": _resources(step),
        "limits": _limits(step.get("limits")),
        "distribution": _distribution(step.get("distribution")),
        "queue_settings": _queue(step.get("queue_settings")),
        "identity": identity(step.get("identity")),
        "services": _services(step.get("services")),
    }
    return {key: value for key, value in made.items() if value}


def _limits(spec: Mapping[str, Any] | None) -> Body | None:
    if not spec or spec.get("timeout") is None:
        return None
    return {"jobLimitsType": "Command", "timeout": iso_duration(spec["timeout"])}


def _queue(spec: Mapping[str, Any] | None) -> Body | None:
    body: Body = {}
    if spec and spec.get("job_tier"):
        body["jobTier"] = _TIERS[spec["job_tier"]]
    if spec and spec.get("priority"):
        body["priority"] = _PRIORITIES[spec["priority"]]
    return body or None


def identity(spec: Mapping[str, Any] | None) -> Body | None:
    if not spec:
        return None
    body: Body = {"identityType": _IDENTITIES[spec["type"]]}
    _copy(spec, body, {"client_id": "clientId", "object_id": "objectId", "msi_resource_id": "resourceId"})
    return body


def _services(services: Mapping[str, Any] | None) -> Body | None:
    result: Body = {}
    for name, spec in (services or {}).items():
        properties = dict(spec.get("properties") or {})
        _copy(spec, properties, {"log_dir": "logDir", "ssh_public_keys": "sshPublicKeys"})
        kind = spec.get("type") or "custom"
        entry: Body = {"jobServiceType": _SERVICES.get(kind, kind), "properties": properties}
        _copy(spec, entry, {"port": "port"})
        if spec.get("nodes") == "all":
            entry["nodes"] = {"nodesValueType": "All"}
        result[name] = entry
    return result or None


def _copy(source: Mapping[str, Any], target: Body, names: Mapping[str, str]) -> None:
    for key, wire in names.items():
        if source.get(key) is not None:
            target[wire] = source[key]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
