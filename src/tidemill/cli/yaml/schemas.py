"""Azure's v2 YAML schemas as tables: command job, cluster, environment, data, model, datastore, workspace.

Keys are those of https://learn.microsoft.com/azure/machine-learning/reference-yaml-overview.
"""

from __future__ import annotations

from tidemill.cli.yaml.kinds import (
    Choice,
    Either,
    Field,
    Flag,
    Free,
    Integer,
    Items,
    Literal,
    Mapping,
    Record,
    Tagged,
    Text,
)

DATA_TYPES = ("uri_file", "uri_folder", "mltable")
MODEL_TYPES = ("custom_model", "mlflow_model", "triton_model")
LITERAL_TYPES = ("string", "number", "integer", "boolean")
INPUT_MODES = ("ro_mount", "download", "direct", "rw_mount", "eval_mount", "eval_download", "mount")
OUTPUT_MODES = ("rw_mount", "upload", "direct", "mount")

JOB_TYPES_NOT_OFFERED = (
    "spark",
    "automl",
    "parallel",
    "import",
    "data_transfer",
    "finetuning",
    "fine_tuning",
    "distillation",
)
COMPUTE_TYPES_NOT_OFFERED = (
    "computeinstance",
    "virtualmachine",
    "kubernetes",
    "synapsespark",
    "databricks",
    "hdinsight",
)
DATASTORE_TYPES_NOT_OFFERED = (
    "azure_file",
    "azure_data_lake_gen1",
    "azure_data_lake_gen2",
    "one_lake",
    "hdfs",
)

_TAGS = Mapping(Either(scalar=Text(loose=True, empty=True), nothing=True), "tag")
_PROPERTIES = Mapping(Either(scalar=Text(loose=True, empty=True), nothing=True), "property")
_READ_ONLY = Field(Free(), read_only=True)

BUILD = Record("a build context", {"path": Field(Text(), required=True), "dockerfile_path": Field(Text())})
_ROUTE = Record("a route", {"port": Field(Integer(1), required=True), "path": Field(Text(), required=True)})
_INFERENCE = Record(
    "an inference_config",
    {
        "liveness_route": Field(_ROUTE, required=True),
        "readiness_route": Field(_ROUTE, required=True),
        "scoring_route": Field(_ROUTE, required=True),
    },
)
_ENVIRONMENT_FIELDS = {
    "image": Field(Text()),
    "conda_file": Field(Either(scalar=Text(), record=Free())),
    "build": Field(BUILD),
    "os_type": Field(Choice(("linux", "windows"))),
    "inference_config": Field(_INFERENCE),
    "description": Field(Text(empty=True)),
    "tags": Field(_TAGS),
    "properties": Field(_PROPERTIES),
    "datastore": Field(Text()),
    "id": _READ_ONLY,
    "creation_context": _READ_ONLY,
}
INLINE_ENVIRONMENT = Record(
    "an environment", {"name": Field(Text()), "version": Field(Text(loose=True)), **_ENVIRONMENT_FIELDS}
)
ENVIRONMENT = Record(
    "an environment",
    {"name": Field(Text(), required=True), "version": Field(Text(loose=True)), **_ENVIRONMENT_FIELDS},
)

INPUT = Record(
    "an input",
    {
        "type": Field(Choice((*DATA_TYPES, *MODEL_TYPES, *LITERAL_TYPES))),
        "path": Field(Text()),
        "mode": Field(Choice(INPUT_MODES)),
        "value": Field(Literal()),
        "default": Field(Literal()),
        "optional": Field(Flag()),
        "description": Field(Text(empty=True)),
        "datastore": Field(Text()),
    },
)
OUTPUT = Record(
    "an output",
    {
        "type": Field(Choice((*DATA_TYPES, *MODEL_TYPES))),
        "path": Field(Text()),
        "mode": Field(Choice(OUTPUT_MODES)),
        "name": Field(Text()),
        "version": Field(Text(loose=True)),
        "description": Field(Text(empty=True)),
    },
)

_PROCESSES = {"type": Field(Text()), "process_count_per_instance": Field(Integer(1))}
DISTRIBUTION = Tagged(
    "a distribution",
    "type",
    {
        "pytorch": Record("a pytorch distribution", _PROCESSES),
        "mpi": Record("an mpi distribution", _PROCESSES),
        "tensorflow": Record(
            "a tensorflow distribution",
            {
                "type": Field(Text()),
                "worker_count": Field(Integer()),
                "parameter_server_count": Field(Integer()),
            },
        ),
        "ray": Record(
            "a ray distribution",
            {
                "type": Field(Text()),
                "port": Field(Integer(1)),
                "address": Field(Text()),
                "include_dashboard": Field(Flag()),
                "dashboard_port": Field(Integer(1)),
                "head_node_additional_args": Field(Text()),
                "worker_node_additional_args": Field(Text()),
            },
        ),
    },
)
_MANAGED = {
    "type": Field(Text()),
    "client_id": Field(Text()),
    "object_id": Field(Text()),
    "msi_resource_id": Field(Text()),
}
IDENTITY = Tagged(
    "an identity",
    "type",
    {
        "managed": Record("a managed identity", _MANAGED),
        "managed_identity": Record("a managed identity", _MANAGED),
        "user_identity": Record("a user identity", {"type": Field(Text())}),
        "aml_token": Record("an aml_token identity", {"type": Field(Text())}),
    },
)
RESOURCES = Record(
    "resources",
    {
        "instance_count": Field(Integer(1)),
        "instance_type": Field(Either(scalar=Text(), items=Items(Text()))),
        "max_instance_count": Field(Integer(1)),
        "shm_size": Field(Text(loose=True)),
        "docker_args": Field(Either(scalar=Text(), items=Items(Text()))),
        "locations": Field(Items(Text())),
        "properties": Field(Free()),
    },
)
SERVICE = Record(
    "a service",
    {
        "type": Field(Choice(("ssh", "tensor_board", "vs_code", "jupyter_lab", "custom"))),
        "port": Field(Integer(1)),
        "nodes": Field(Text()),
        "log_dir": Field(Text()),
        "ssh_public_keys": Field(Text()),
        "properties": Field(_PROPERTIES),
        "endpoint": _READ_ONLY,
        "status": _READ_ONLY,
        "error_message": _READ_ONLY,
    },
)

COMMAND_JOB = Record(
    "a command job",
    {
        "type": Field(Text()),
        "name": Field(Text()),
        "display_name": Field(Text()),
        "experiment_name": Field(Text()),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "properties": Field(_PROPERTIES),
        "command": Field(Text(), required=True),
        "code": Field(Text()),
        "environment": Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT), required=True),
        "environment_variables": Field(
            Mapping(Either(scalar=Text(loose=True, empty=True), nothing=True), "environment variable")
        ),
        "compute": Field(Text()),
        "inputs": Field(
            Mapping(Either(scalar=Literal(), record=INPUT, nothing=True), "input", identifiers=True)
        ),
        "outputs": Field(Mapping(Either(record=OUTPUT, nothing=True), "output", identifiers=True)),
        "resources": Field(RESOURCES),
        "distribution": Field(DISTRIBUTION),
        "limits": Field(Record("limits", {"timeout": Field(Integer(1))})),
        "queue_settings": Field(
            Record(
                "queue_settings",
                {
                    "job_tier": Field(Choice(("spot", "basic", "standard", "premium", "null"))),
                    "priority": Field(Choice(("low", "medium", "high"))),
                },
            )
        ),
        "identity": Field(IDENTITY),
        "services": Field(Mapping(SERVICE, "service")),
        "parent_job_name": Field(Text()),
        "id": _READ_ONLY,
        "status": _READ_ONLY,
        "creation_context": _READ_ONLY,
        "log_files": _READ_ONLY,
        "parameters": _READ_ONLY,
    },
)

_TRIGGER = {
    "type": Field(Text()),
    "start_time": Field(Text(loose=True)),
    "end_time": Field(Text(loose=True)),
    "time_zone": Field(Text()),
}
_NUMBERS = Either(scalar=Integer(), items=Items(Integer()))
_DAYS = Choice(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
TRIGGER = Tagged(
    "a trigger",
    "type",
    {
        "cron": Record("a cron trigger", {**_TRIGGER, "expression": Field(Text(), required=True)}),
        "recurrence": Record(
            "a recurrence trigger",
            {
                **_TRIGGER,
                "frequency": Field(Choice(("minute", "hour", "day", "week", "month")), required=True),
                "interval": Field(Integer(1), required=True),
                "schedule": Field(
                    Record(
                        "a schedule pattern",
                        {
                            "hours": Field(_NUMBERS, required=True),
                            "minutes": Field(_NUMBERS, required=True),
                            "week_days": Field(Either(scalar=_DAYS, items=Items(_DAYS))),
                            "month_days": Field(_NUMBERS),
                        },
                    )
                ),
            },
        ),
    },
)
SCHEDULE = Record(
    "a schedule",
    {
        "name": Field(Text(), required=True),
        "display_name": Field(Text()),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "properties": Field(_PROPERTIES),
        "trigger": Field(TRIGGER, required=True),
        "create_job": Field(Either(scalar=Text(), record=Free()), required=True),
        "id": _READ_ONLY,
        "creation_context": _READ_ONLY,
        "is_enabled": _READ_ONLY,
        "provisioning_state": _READ_ONLY,
    },
)
# What may be changed of a job that is there, where it is scheduled.
JOB_CHANGES = Record(
    "a change of a scheduled job",
    {
        "type": Field(Text()),
        "job": Field(Text(), required=True),
        "experiment_name": Field(Text()),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "compute": Field(Text()),
        "inputs": Field(
            Mapping(Either(scalar=Literal(), record=INPUT, nothing=True), "input", identifiers=True)
        ),
    },
)

AML_COMPUTE = Record(
    "a compute cluster",
    {
        "type": Field(Text(), required=True),
        "name": Field(Text(), required=True),
        "size": Field(Text()),
        "tier": Field(Choice(("dedicated", "low_priority"))),
        "min_instances": Field(Integer()),
        "max_instances": Field(Integer()),
        "idle_time_before_scale_down": Field(Integer()),
        "location": Field(Text()),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "ssh_public_access_enabled": Field(Flag()),
        "ssh_settings": Field(
            Record(
                "ssh_settings",
                {
                    "admin_username": Field(Text()),
                    "admin_password": Field(Text()),
                    "ssh_key_value": Field(Text()),
                },
            )
        ),
        "network_settings": Field(
            Record("network_settings", {"vnet_name": Field(Text()), "subnet": Field(Text())})
        ),
        "identity": Field(
            Record(
                "an identity",
                {
                    "type": Field(Choice(("system_assigned", "user_assigned", "none"))),
                    "user_assigned_identities": Field(Items(Free())),
                },
            )
        ),
        "enable_node_public_ip": Field(Flag()),
        "resource_id": Field(Text()),
        "id": _READ_ONLY,
        "provisioning_state": _READ_ONLY,
        "provisioning_errors": _READ_ONLY,
        "created_on": _READ_ONLY,
    },
)

DATA = Record(
    "a data asset",
    {
        "name": Field(Text(), required=True),
        "version": Field(Text(loose=True)),
        "type": Field(Choice(DATA_TYPES)),
        "path": Field(Text(), required=True),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "properties": Field(_PROPERTIES),
        "datastore": Field(Text()),
        "id": _READ_ONLY,
        "creation_context": _READ_ONLY,
    },
)

MODEL = Record(
    "a model",
    {
        "name": Field(Text(), required=True),
        "version": Field(Text(loose=True)),
        "type": Field(Choice(MODEL_TYPES)),
        "path": Field(Text(), required=True),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "properties": Field(_PROPERTIES),
        "flavors": Field(Free()),
        "stage": Field(Text()),
        "datastore": Field(Text()),
        "id": _READ_ONLY,
        "creation_context": _READ_ONLY,
        "job_name": _READ_ONLY,
        "latest_version": _READ_ONLY,
        "utc_time_created": _READ_ONLY,
    },
)

BLOB_DATASTORE = Record(
    "a blob datastore",
    {
        "type": Field(Text(), required=True),
        "name": Field(Text(), required=True),
        "account_name": Field(Text(), required=True),
        "container_name": Field(Text(), required=True),
        "endpoint": Field(Text()),
        "protocol": Field(Choice(("https", "wasbs"))),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "credentials": Field(
            Record("credentials", {"account_key": Field(Text()), "sas_token": Field(Text())})
        ),
        "id": _READ_ONLY,
    },
)

WORKSPACE = Record(
    "a workspace",
    {
        "name": Field(Text(), required=True),
        "location": Field(Text()),
        "resource_group": Field(Text()),
        "display_name": Field(Text(empty=True)),
        "description": Field(Text(empty=True)),
        "tags": Field(_TAGS),
        "hbi_workspace": Field(Flag()),
        "public_network_access": Field(Choice(("Enabled", "Disabled"))),
        "image_build_compute": Field(Text()),
        "storage_account": Field(Text()),
        "key_vault": Field(Text()),
        "application_insights": Field(Text()),
        "container_registry": Field(Text()),
        "id": _READ_ONLY,
        "discovery_url": _READ_ONLY,
        "mlflow_tracking_uri": _READ_ONLY,
    },
)

JOB = Tagged("a job", "type", {"command": COMMAND_JOB}, default="command", refused=JOB_TYPES_NOT_OFFERED)
COMPUTE = Tagged("a compute", "type", {"amlcompute": AML_COMPUTE}, refused=COMPUTE_TYPES_NOT_OFFERED)
DATASTORE = Tagged("a datastore", "type", {"azure_blob": BLOB_DATASTORE}, refused=DATASTORE_TYPES_NOT_OFFERED)
