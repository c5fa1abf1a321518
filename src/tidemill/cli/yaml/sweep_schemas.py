"""Azure's v2 YAML schema of a sweep job, as a table."""

from __future__ import annotations

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
from tidemill.cli.yaml.schemas import COMMAND_JOB

_JOB_WIDE = (
    *("type", "name", "display_name", "experiment_name", "description", "tags", "properties", "compute"),
    *("inputs", "outputs", "resources", "queue_settings", "identity", "id", "status", "creation_context"),
)
_TRIAL = ("command", "code", "environment", "environment_variables", "distribution", "resources")
_INTERVALS = {
    "type": Field(Text()),
    "evaluation_interval": Field(Integer()),
    "delay_evaluation": Field(Integer()),
}
TRIAL = Record("a trial", {key: COMMAND_JOB.fields[key] for key in _TRIAL})
SWEEP_JOB = Record(
    "a sweep job",
    {
        **{key: COMMAND_JOB.fields[key] for key in _JOB_WIDE},
        "trial": Field(Either(scalar=Text(), record=TRIAL), required=True),
        "search_space": Field(Mapping(Free(), "parameter", identifiers=True), required=True),
        "objective": Field(
            Record(
                "an objective",
                {
                    "goal": Field(Choice(("maximize", "minimize")), required=True),
                    "primary_metric": Field(Text(), required=True),
                },
            ),
            required=True,
        ),
        "sampling_algorithm": Field(
            Either(
                scalar=Choice(("random", "grid", "bayesian")),
                record=Record(
                    "a sampling algorithm",
                    {
                        "type": Field(Choice(("random", "grid", "bayesian")), required=True),
                        "rule": Field(Choice(("random", "sobol"))),
                        "seed": Field(Integer()),
                        "logbase": Field(Literal()),
                    },
                ),
            )
        ),
        "limits": Field(
            Record(
                "limits",
                {
                    "max_total_trials": Field(Integer(1)),
                    "max_concurrent_trials": Field(Integer(1)),
                    "timeout": Field(Integer(1)),
                    "trial_timeout": Field(Integer(1)),
                },
            )
        ),
        "early_termination": Field(
            Tagged(
                "an early termination policy",
                "type",
                {
                    "bandit": Record(
                        "a bandit policy",
                        {**_INTERVALS, "slack_factor": Field(Literal()), "slack_amount": Field(Literal())},
                    ),
                    "median_stopping": Record("a median stopping policy", _INTERVALS),
                    "truncation_selection": Record(
                        "a truncation selection policy",
                        {
                            **_INTERVALS,
                            "truncation_percentage": Field(Integer(1), required=True),
                            "exclude_finished_jobs": Field(Flag()),
                        },
                    ),
                },
            )
        ),
    },
)
