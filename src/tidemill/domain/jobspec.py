"""A command job as Azure's REST body describes it, read into a frozen value, and what was resolved of it.

`read_command_job` takes ARM `properties` (https://learn.microsoft.com/rest/api/azureml/jobs/create-or-update,
`CommandJob`) and refuses what cannot be run, naming the property. Unknown properties are left to the caller,
who stores the body as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import integer, mapping, text, variables
from tidemill.domain.notifications import Notify, read_notify
from tidemill.domain.units import parse_duration, parse_span

AML_TOKEN, USER_IDENTITY, MANAGED = "aml_token", "user_identity", "managed"
_IDENTITIES = {"amltoken": AML_TOKEN, "useridentity": USER_IDENTITY, "managed": MANAGED}
LOW, MEDIUM, HIGH = 1, 2, 3  # as the SDK writes them; none given is medium
TIERS = {"spot": 0, "basic": LOW, "standard": MEDIUM, "premium": HIGH, "null": MEDIUM}
"""Priority by `jobTier`, of jobs that name none: "Spot" is what runs when nobody else wants to."""

KEEP = "tidemill.keep_on_failure"  # among the job's properties: every client carries them
MOST_KEPT_S = 24 * 3600

NOT_OFFERED = {
    "automl": "AutoML",
    "finetuning": "fine-tuning",
    "labeling": "data labeling",
    "spark": "Spark",
    "base": "imported",
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*\Z")  # as in `${{inputs.NAME}}`
_MAX_NAME = 128

INPUT_MODES = {
    "readonlymount": "ro_mount",
    "readwritemount": "rw_mount",
    "download": "download",
    "direct": "direct",
    "evaldownload": "eval_download",
    "evalmount": "eval_mount",
}
OUTPUT_MODES = {"readwritemount": "rw_mount", "upload": "upload", "direct": "direct"}
MODEL_TYPES = ("custom_model", "mlflow_model", "triton_model")
DATA_TYPES = ("uri_file", "uri_folder", "mltable", *MODEL_TYPES)


@dataclass(frozen=True, slots=True)
class JobInput:
    """`type` is "literal" (`value` is its text) or one of DATA_TYPES (`value` is a URI or asset id)."""

    name: str
    type: str
    value: str
    mode: str = "ro_mount"


@dataclass(frozen=True, slots=True)
class JobOutput:
    name: str
    type: str
    mode: str = "rw_mount"
    uri: str = ""  # "": the default place
    asset_name: str = ""  # registered under this name when the job completes
    asset_version: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """`kind`: "none" | "pytorch" | "tensorflow" | "mpi" | "ray" | "parallel" (of steps of that type) |
    "containers" (of runs of container groups)."""

    kind: str = "none"
    processes_per_node: int = 1
    workers: int = 0
    parameter_servers: int = 0
    port: int = 0
    head_args: str = ""
    worker_args: str = ""


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """`kind`: AML_TOKEN | USER_IDENTITY | MANAGED. The ids choose among the identities of the compute."""

    kind: str = AML_TOKEN
    client_id: str = ""
    object_id: str = ""
    resource_id: str = ""


@dataclass(frozen=True, slots=True)
class CommandJob:
    command: str
    code_id: str = ""
    environment_id: str = ""
    compute_id: str = ""
    experiment: str = "Default"
    display_name: str = ""
    description: str = ""
    inputs: tuple[JobInput, ...] = ()
    unset_inputs: tuple[str, ...] = ()  # optional ones that were given without a value
    outputs: tuple[JobOutput, ...] = ()
    environment_variables: tuple[tuple[str, str], ...] = ()
    distribution: Distribution = field(default_factory=Distribution)
    node_count: int = 1
    timeout_s: int | None = None
    priority: int = MEDIUM
    instance_types: tuple[str, ...] = ()  # VM sizes, the first that fits counts; of jobs without a compute
    identity: JobIdentity = field(default_factory=JobIdentity)
    notify: Notify | None = None  # who is told when it ends
    keep_s: int = 0  # how long its nodes stay for a look when it has failed


def job_kind(name: str, properties: Mapping[str, Any], offered: Collection[str]) -> str:
    """The job's type, one of `offered`, in lower case. Raises InvalidRequest or NotOffered."""
    job_type = str(properties.get("jobType") or "Command")
    kind = job_type.lower()
    if kind in offered:
        return kind
    if kind == "parallel":
        raise NotOffered(
            f"Job {name!r} is of type parallel: as on Azure, that is a step of a pipeline. Put it below "
            "'jobs' of a job of type pipeline, and submit that.",
            "properties.jobType",
        )
    called = NOT_OFFERED.get(kind)
    if called is None:
        raise InvalidRequest(
            f"jobType {job_type!r} of job {name!r} is not a job type. Use 'Command'.",
            target="properties.jobType",
        )
    raise NotOffered(
        f"Job {name!r} is of type {called} (jobType {job_type!r}); "
        f"Tidemill does not offer {called} jobs yet. Use a command job.",
        "properties.jobType",
    )


def read_command_job(name: str, properties: Mapping[str, Any]) -> CommandJob:
    """ARM properties -> CommandJob. Raises InvalidRequest (target: the property)."""
    command = properties.get("command")
    if not isinstance(command, str) or not command.strip():
        raise InvalidRequest(
            f"Job {name!r} has no command: give what to run, for example 'python train.py'.",
            target="properties.command",
        )
    resources = mapping(properties.get("resources"), "properties.resources")
    node_count = integer(resources.get("instanceCount"), 1, "properties.resources.instanceCount", 1, 10_000)
    distribution = _distribution(
        mapping(properties.get("distribution"), "properties.distribution"), node_count
    )
    given = mapping(properties.get("inputs"), "properties.inputs")
    inputs = _inputs(given)
    return replace(
        read_header(name, properties),
        command=command,
        code_id=text(properties.get("codeId")),
        environment_id=text(properties.get("environmentId")),
        compute_id=compute_of(properties),
        inputs=inputs,
        unset_inputs=tuple(name for name in given if name not in {item.name for item in inputs}),
        outputs=_outputs(mapping(properties.get("outputs"), "properties.outputs")),
        environment_variables=variables(properties.get("environmentVariables")),
        distribution=distribution,
        node_count=node_count,
        instance_types=instance_types(resources),
        keep_s=_keep(mapping(properties.get("properties"), "properties.properties")),
    )


def read_header(name: str, properties: Mapping[str, Any]) -> CommandJob:
    """What all kinds of jobs have. Raises InvalidRequest (target: the property)."""
    limits = mapping(properties.get("limits"), "properties.limits")
    return CommandJob(
        command="",
        experiment=text(properties.get("experimentName")) or "Default",
        display_name=text(properties.get("displayName")) or name,
        description=text(properties.get("description")),
        timeout_s=_timeout(limits.get("timeout")),
        priority=_priority(mapping(properties.get("queueSettings"), "properties.queueSettings")),
        identity=_identity(mapping(properties.get("identity"), "properties.identity")),
        notify=read_notify(properties),
    )


def _inputs(raw: Mapping[str, Any]) -> tuple[JobInput, ...]:
    found: list[JobInput] = []
    for name, entry in raw.items():
        if entry is None:
            continue
        where = f"properties.inputs.{name}"
        _check_entry_name(name, "Input", where)
        value = mapping(entry, where)
        kind = text(value.get("jobInputType")) or "literal"
        if kind.lower() == "literal":
            if value.get("value") is None:
                continue
            found.append(JobInput(name, "literal", text(value["value"])))
            continue
        kind = _data_type(kind, where)
        uri = text(value.get("uri"))
        if not uri:
            raise InvalidRequest(f"Input {name!r} of type {kind} has no uri.", target=where)
        found.append(JobInput(name, kind, uri, _mode(value.get("mode"), INPUT_MODES, "ro_mount", where)))
    return tuple(found)


def _outputs(raw: Mapping[str, Any]) -> tuple[JobOutput, ...]:
    found: list[JobOutput] = []
    for name, entry in raw.items():
        where = f"properties.outputs.{name}"
        _check_entry_name(name, "Output", where)
        value: Mapping[str, Any] = mapping(entry, where)
        found.append(
            JobOutput(
                name,
                _data_type(text(value.get("jobOutputType")) or "uri_folder", where),
                _mode(value.get("mode"), OUTPUT_MODES, "rw_mount", where),
                text(value.get("uri")),
                text(value.get("assetName")),
                text(value.get("assetVersion")),
                text(value.get("description")),
            )
        )
    return tuple(found)


def _check_entry_name(name: str, what: str, where: str) -> None:
    """It becomes a folder of the job's and a word of its command: never a path."""
    if len(name) > _MAX_NAME or not _NAME.match(name):
        raise InvalidRequest(
            f"{what} name {name[:80]!r} is not valid: use 1 to {_MAX_NAME} letters, digits, '_', '-' or '.', "
            "starting with a letter or '_'.",
            "InvalidName",
            where,
        )


def _distribution(raw: Mapping[str, Any], node_count: int) -> Distribution:
    where = "properties.distribution"
    kind = text(raw.get("distributionType")).lower()
    if not kind:
        return Distribution()
    if kind in ("pytorch", "mpi"):
        count = integer(raw.get("processCountPerInstance"), 1, f"{where}.processCountPerInstance", 1, 1024)
        if kind == "mpi" and node_count > 1:
            raise NotOffered(
                f"instanceCount is {node_count} and the distribution is Mpi: one mpirun starts all processes "
                "of a job, and it cannot start any on other nodes here. Set instance_count to 1 (with "
                f"process_count_per_instance up to {count * node_count}), or use the PyTorch distribution.",
                "properties.resources.instanceCount",
            )
        return Distribution(kind, processes_per_node=count)
    if kind == "tensorflow":
        servers = integer(raw.get("parameterServerCount"), 0, f"{where}.parameterServerCount", 0, 10_000)
        workers = integer(raw.get("workerCount"), node_count, f"{where}.workerCount", 1, 10_000)
        if (workers + servers) % node_count:
            raise InvalidRequest(
                f"workerCount {workers} + parameterServerCount {servers} = {workers + servers} tasks "
                f"cannot be spread evenly over instanceCount {node_count} nodes. "
                f"Make the sum a multiple of {node_count}.",
                target=f"{where}.workerCount",
            )
        return Distribution(
            kind,
            processes_per_node=(workers + servers) // node_count,
            workers=workers,
            parameter_servers=servers,
        )
    if kind == "ray":
        return Distribution(
            kind,
            port=integer(raw.get("port"), 0, f"{where}.port", 0, 65_535),
            head_args=text(raw.get("headNodeAdditionalArgs")),
            worker_args=text(raw.get("workerNodeAdditionalArgs")),
        )
    raise InvalidRequest(
        f"distributionType {raw.get('distributionType')!r} is not known. "
        "Use PyTorch, TensorFlow, Mpi or Ray.",
        target=f"{where}.distributionType",
    )


def _timeout(raw: Any) -> int | None:
    if raw is None or raw == "":
        return None
    try:
        seconds = parse_duration(str(raw))
    except ValueError as error:
        raise InvalidRequest(
            f"limits.timeout {raw!r} is not an ISO 8601 duration such as PT30M: {error}.",
            target="properties.limits.timeout",
        ) from error
    if seconds <= 0:
        raise InvalidRequest(
            f"limits.timeout {raw!r} must be more than zero.", target="properties.limits.timeout"
        )
    return int(seconds)


def instance_types(resources: Mapping[str, Any]) -> tuple[str, ...]:
    """Of `resources.instanceType`: one size or a list of them. Raises InvalidRequest."""
    raw = resources.get("instanceType")
    if not isinstance(raw, list):
        return (text(raw),) if raw else ()
    words = cast(list[Any], raw)
    if not all(isinstance(word, str) and word for word in words):
        raise InvalidRequest(
            f"instanceType {words!r} must be the name of a VM size, or a list of names.",
            target="properties.resources.instanceType",
        )
    return tuple(words)


def compute_of(properties: Mapping[str, Any]) -> str:
    """What a command job names, "" for nothing. The SDK says `compute="local"` by a property of `resources`:
    `{"IsLocal": {"IsLocal": true}}`."""
    resources = mapping(properties.get("resources"), "properties.resources")
    given = mapping(resources.get("properties"), "properties.resources.properties")
    return text(properties.get("computeId")) or ("local" if given.get("IsLocal") else "")


def _priority(raw: Mapping[str, Any]) -> int:
    """The priority that is given, else that of the tier."""
    tier = text(raw.get("jobTier")) or "null"
    if tier.lower() not in TIERS:
        raise InvalidRequest(
            f"jobTier {tier!r} is not known. Use Spot, Basic, Standard, Premium or Null.",
            target="properties.queueSettings.jobTier",
        )
    return integer(raw.get("priority"), TIERS[tier.lower()], "properties.queueSettings.priority", -1000, 1000)


def _keep(given: Mapping[str, Any]) -> int:
    raw, where = given.get(KEEP), f"properties.properties.{KEEP}"
    if raw is None or raw == "":
        return 0
    try:
        seconds = parse_span(str(raw))
    except ValueError:
        raise InvalidRequest(
            f"{KEEP} is {raw!r}: write how long the nodes of the job stay when it has failed, for example "
            "30m, 1h30m or PT30M.",
            target=where,
        ) from None
    if not 0 <= seconds <= MOST_KEPT_S:
        raise InvalidRequest(
            f"{KEEP} is {raw!r}: nodes stay for 24 h at most, because they are held all the time.",
            target=where,
        )
    return int(seconds)


def _identity(raw: Mapping[str, Any]) -> JobIdentity:
    given = text(raw.get("identityType"))
    kind = _IDENTITIES.get(given.lower().replace("_", "")) if given else AML_TOKEN
    if kind is None:
        raise InvalidRequest(
            f"identityType {given!r} is not known. Use AMLToken, UserIdentity or Managed.",
            target="properties.identity.identityType",
        )
    return JobIdentity(kind, *(text(raw.get(name)) for name in ("clientId", "objectId", "resourceId")))


def _data_type(kind: str, where: str) -> str:
    known = {t.replace("_", ""): t for t in DATA_TYPES}
    found = known.get(kind.lower().replace("_", ""))
    if found is None:
        raise InvalidRequest(f"Type {kind!r} is not known. Use one of {', '.join(DATA_TYPES)}.", target=where)
    return found


def _mode(raw: Any, table: Mapping[str, str], default: str, where: str) -> str:
    if raw is None or raw == "":
        return default
    found = table.get(str(raw).lower().replace("_", ""))
    if found is None and str(raw) in table.values():
        found = str(raw)
    if found is None:
        raise InvalidRequest(
            f"Mode {raw!r} is not known here. Use one of {', '.join(sorted(set(table.values())))}.",
            target=where,
        )
    return found
