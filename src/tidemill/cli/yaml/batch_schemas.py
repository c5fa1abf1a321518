"""Azure's YAML of batch endpoints, their deployments and calls of them, as tables.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-endpoint-batch,
https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-batch
"""

from __future__ import annotations

from tidemill.cli.yaml.endpoint_schemas import COMMON, MODEL
from tidemill.cli.yaml.kinds import (
    Choice,
    Either,
    Field,
    Flag,
    Free,
    Integer,
    Literal,
    Mapping,
    Record,
    Tagged,
    Text,
)
from tidemill.cli.yaml.schemas import INLINE_ENVIRONMENT, INPUT, OUTPUT

_VARIABLES = Field(Mapping(Either(scalar=Text(loose=True, empty=True), nothing=True), "environment variable"))
_RETRY = Field(Record("retry_settings", {"max_retries": Field(Integer()), "timeout": Field(Integer(1))}))
_RESOURCES = Record(
    "resources",
    {
        "instance_count": Field(Integer(1)),
        "instance_type": Field(Text()),
        "properties": Field(Free()),
    },
)
# As Azure has had them: in `settings`, and before that in the deployment itself.
SETTINGS = {
    "mini_batch_size": Field(Integer(1)),
    "max_concurrency_per_instance": Field(Integer(1)),
    "error_threshold": Field(Integer(-1)),
    "retry_settings": _RETRY,
    "logging_level": Field(Choice(("debug", "info", "warning", "error", "critical"))),
    "output_action": Field(Choice(("append_row", "summary_only"))),
    "output_file_name": Field(Text()),
    "environment_variables": _VARIABLES,
}

BATCH_ENDPOINT = Record(
    "a batch endpoint",
    {
        **COMMON,
        "auth_mode": Field(Choice(("aad_token",))),
        "defaults": Field(Record("defaults", {"deployment_name": Field(Text())})),
        "location": Field(Text()),
        "scoring_uri": Field(Text(), read_only=True),
        "openapi_uri": Field(Text(), read_only=True),
    },
)

MODEL_DEPLOYMENT = Record(
    "a batch deployment of a model",
    {
        **COMMON,
        "endpoint_name": Field(Text(), required=True),
        "model": Field(Either(scalar=Text(), record=MODEL)),
        "code_configuration": Field(
            Record(
                "a code_configuration",
                {"code": Field(Text(), required=True), "scoring_script": Field(Text(), required=True)},
            )
        ),
        "environment": Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT)),
        "compute": Field(Text()),
        "resources": Field(_RESOURCES),
        "settings": Field(
            Record("settings", {**SETTINGS, "instance_count": Field(Integer(1))}),
        ),
        **SETTINGS,
    },
)
PIPELINE_DEPLOYMENT = Record(
    "a batch deployment of a pipeline component",
    {
        **COMMON,
        "endpoint_name": Field(Text(), required=True),
        "component": Field(Text(), required=True),
        "settings": Field(
            Record(
                "settings",
                {
                    "default_compute": Field(Text()),
                    "default_datastore": Field(Text()),
                    "continue_on_step_failure": Field(Flag()),
                    "continue_on_failed_optional_input": Field(Flag()),
                    "force_rerun": Field(Flag()),
                },
            )
        ),
    },
)
BATCH_DEPLOYMENT = Tagged(
    "a batch deployment",
    "type",
    {"model": MODEL_DEPLOYMENT, "pipeline": PIPELINE_DEPLOYMENT},
    default="model",
)

CALL = Record(
    "a call",
    {
        "inputs": Field(Mapping(Either(scalar=Literal(), record=INPUT), "input")),
        "outputs": Field(Mapping(Either(record=OUTPUT, nothing=True), "output")),
        "job_name": Field(Text()),
        "experiment_name": Field(Text()),
        "compute": Field(
            Record(
                "a compute",
                {
                    "target": Field(Text()),
                    "instance_count": Field(Integer(1)),
                    "instance_type": Field(Text()),
                },
            )
        ),
        **{
            name: SETTINGS[name]
            for name in (
                "mini_batch_size",
                "error_threshold",
                "retry_settings",
                "logging_level",
                "output_file_name",
            )
        },
    },
)
