"""Azure's v2 YAML schemas of pipelines and components, as tables. Keys are those of
https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline and its neighbours."""

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
from tidemill.cli.yaml.schemas import (
    COMMAND_JOB,
    DATA_TYPES,
    DISTRIBUTION,
    IDENTITY,
    INLINE_ENVIRONMENT,
    INPUT,
    INPUT_MODES,
    LITERAL_TYPES,
    MODEL_TYPES,
    OUTPUT,
    OUTPUT_MODES,
    RESOURCES,
)
from tidemill.cli.yaml.sweep_schemas import SWEEP_JOB, TRIAL

_TYPES = (*DATA_TYPES, *MODEL_TYPES, *LITERAL_TYPES)
STEPS_NOT_OFFERED = ("spark", "automl", "data_transfer", "import", "finetuning")
COMPONENTS_NOT_OFFERED = ("sweep", "automl", "data_transfer", "import")

_INPUTS = Field(Mapping(Either(scalar=Literal(), record=INPUT, nothing=True), "input"))
_OUTPUTS = Field(Mapping(Either(scalar=Text(), record=OUTPUT, nothing=True), "output"))
_COMPONENT = Field(Either(scalar=Text(), record=Free()), required=True)
_STEP = {
    "type": Field(Text()),
    "name": Field(Text()),
    "display_name": Field(Text()),
    "description": Field(Text(empty=True)),
    "comment": Field(Text(empty=True)),
    "tags": COMMAND_JOB.fields["tags"],
    "properties": COMMAND_JOB.fields["properties"],
    "compute": Field(Text()),
    "inputs": _INPUTS,
    "outputs": _OUTPUTS,
}
_RUN = {
    "environment_variables": COMMAND_JOB.fields["environment_variables"],
    "resources": Field(RESOURCES),
    "distribution": Field(DISTRIBUTION),
    "limits": COMMAND_JOB.fields["limits"],
    "queue_settings": COMMAND_JOB.fields["queue_settings"],
    "identity": Field(IDENTITY),
    "services": COMMAND_JOB.fields["services"],
}
COMMAND_STEP = Record(
    "a step",
    {
        **_STEP,
        **_RUN,
        "component": Field(Either(scalar=Text(), record=Free())),
        "command": Field(Text()),
        "code": Field(Text()),
        "environment": Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT)),
        "is_deterministic": Field(Flag()),
    },
)
_ENVIRONMENT = Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT))
TASK = Record(
    "a task",
    {
        "type": Field(Choice(("run_function",))),
        "code": Field(Text()),
        "entry_script": Field(Text(), required=True),
        "program_arguments": Field(Text()),
        "append_row_to": Field(Text()),
        "environment": _ENVIRONMENT,
    },
)
_BATCHES = {
    "task": Field(TASK),
    "input_data": Field(Text()),
    "mini_batch_size": Field(Literal()),
    "partition_keys": Field(Items(Text())),
    "max_concurrency_per_instance": Field(Integer(1)),
    "mini_batch_error_threshold": Field(Integer(-1)),
    "error_threshold": Field(Integer(-1)),
    "retry_settings": Field(
        Record("retry_settings", {"max_retries": Field(Integer()), "timeout": Field(Integer(1))})
    ),
    "logging_level": Field(Choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))),
    "environment_variables": COMMAND_JOB.fields["environment_variables"],
    "resources": Field(RESOURCES),
}
PARALLEL_STEP = Record(
    "a parallel step",
    {
        **_STEP,
        **_BATCHES,
        "component": Field(Either(scalar=Text(), record=Free())),
        "queue_settings": COMMAND_JOB.fields["queue_settings"],
        "identity": Field(IDENTITY),
        "is_deterministic": Field(Flag()),
    },
)
PIPELINE_STEP = Record("a pipeline step", {**_STEP, "component": _COMPONENT, "settings": Field(Free())})
_SEARCH = ("search_space", "objective", "sampling_algorithm", "limits", "early_termination")
SWEEP_STEP = Record(
    "a sweep step",
    {
        **_STEP,
        **{key: SWEEP_JOB.fields[key] for key in _SEARCH},
        "trial": Field(Either(scalar=Text(), record=TRIAL), required=True),
        "queue_settings": COMMAND_JOB.fields["queue_settings"],
        "identity": Field(IDENTITY),
        "resources": Field(RESOURCES),
    },
)
_BLOCK = Field(Either(scalar=Text(), items=Items(Text())))
IF_ELSE = Record(
    "an if_else",
    {
        "type": Field(Text()),
        "condition": Field(Literal(), required=True),
        "true_block": _BLOCK,
        "false_block": _BLOCK,
    },
)
DO_WHILE = Record(
    "a do_while",
    {
        "type": Field(Text()),
        "body": Field(Text(), required=True),
        "condition": Field(Text()),
        "mapping": Field(Mapping(Either(scalar=Text(), items=Items(Text())), "output")),
        "limits": Field(
            Record("limits", {"max_iteration_count": Field(Integer(1), required=True)}), required=True
        ),
    },
)
PARALLEL_FOR = Record(
    "a parallel_for",
    {
        "type": Field(Text()),
        "body": Field(Text(), required=True),
        "items": Field(Either(scalar=Text(), record=Free(), items=Items(Free())), required=True),
        "max_concurrency": Field(Integer(1)),
        "outputs": _OUTPUTS,
    },
)
STEP = Tagged(
    "a step",
    "type",
    {
        "command": COMMAND_STEP,
        "pipeline": PIPELINE_STEP,
        "sweep": SWEEP_STEP,
        "parallel": PARALLEL_STEP,
        "if_else": IF_ELSE,
        "do_while": DO_WHILE,
        "parallel_for": PARALLEL_FOR,
    },
    default="command",
    refused=STEPS_NOT_OFFERED,
)
SETTINGS = Record(
    "settings",
    {
        "default_compute": Field(Text()),
        "default_datastore": Field(Text()),
        "default_environment": Field(Text()),
        "continue_on_step_failure": Field(Flag()),
        "continue_on_failed_optional_input": Field(Flag()),
        "force_rerun": Field(Flag()),
    },
)
PIPELINE_JOB = Record(
    "a pipeline job",
    {
        "type": Field(Text()),
        "name": Field(Text()),
        "display_name": Field(Text()),
        "experiment_name": Field(Text()),
        "description": Field(Text(empty=True)),
        "tags": COMMAND_JOB.fields["tags"],
        "properties": COMMAND_JOB.fields["properties"],
        "compute": Field(Text()),
        "component": Field(Text()),
        "inputs": _INPUTS,
        "outputs": _OUTPUTS,
        "settings": Field(SETTINGS),
        "jobs": Field(Mapping(STEP, "step", identifiers=True)),
        "identity": Field(IDENTITY),
        "id": COMMAND_JOB.fields["id"],
        "status": COMMAND_JOB.fields["status"],
        "creation_context": COMMAND_JOB.fields["creation_context"],
    },
)

_PORT = Record(
    "an input",
    {
        "type": Field(Choice(_TYPES), required=True),
        "description": Field(Text(empty=True)),
        "default": Field(Literal()),
        "optional": Field(Flag()),
        "mode": Field(Choice(INPUT_MODES)),
        "min": Field(Literal()),
        "max": Field(Literal()),
        "enum": Field(Items(Literal())),
    },
)
_OUTLET = Record(
    "an output",
    {
        "type": Field(Choice(_TYPES), required=True),
        "description": Field(Text(empty=True)),
        "mode": Field(Choice(OUTPUT_MODES)),
    },
)
_KEPT = {
    "name": Field(Text(), required=True),
    "version": Field(Text(loose=True)),
    "type": Field(Text()),
    "display_name": Field(Text()),
    "description": Field(Text(empty=True)),
    "tags": COMMAND_JOB.fields["tags"],
    "is_deterministic": Field(Flag()),
    "inputs": Field(Mapping(_PORT, "input")),
    "outputs": Field(Mapping(_OUTLET, "output")),
    "id": COMMAND_JOB.fields["id"],
    "creation_context": COMMAND_JOB.fields["creation_context"],
}
COMPONENT = Tagged(
    "a component",
    "type",
    {
        "command": Record(
            "a command component",
            {
                **_KEPT,
                "command": Field(Text(), required=True),
                "code": Field(Text()),
                "environment": Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT), required=True),
                "resources": Field(RESOURCES),
                "distribution": Field(DISTRIBUTION),
                "limits": COMMAND_JOB.fields["limits"],
                "environment_variables": COMMAND_JOB.fields["environment_variables"],
            },
        ),
        "pipeline": Record(
            "a pipeline component",
            {**_KEPT, "jobs": Field(Mapping(STEP, "step", identifiers=True), required=True)},
        ),
        "parallel": Record(
            "a parallel component",
            {
                **_KEPT,
                **_BATCHES,
                "task": Field(TASK, required=True),
                "input_data": Field(Text(), required=True),
            },
        ),
        # Kept as it is; a step of it is refused.
        "spark": Record(
            "a spark component",
            {
                **_KEPT,
                "code": Field(Text()),
                "entry": Field(Free(), required=True),
                "args": Field(Text()),
                "environment": Field(Either(scalar=Text(), record=INLINE_ENVIRONMENT)),
                **{key: Field(Free()) for key in ("py_files", "jars", "files", "archives", "conf")},
            },
        ),
    },
    default="command",
    refused=COMPONENTS_NOT_OFFERED,
)
