"""Parallel steps as the SDK and YAML describe them: defaults, the step over its component, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.parallel import ParallelPlan, command_of, read_plan, settings_of, task_of

TASK = {"type": "run_function", "entry_script": "s.py", "append_row_to": "${{outputs.rows}}"}
SPEC = {"task": TASK, "input_data": "${{inputs.data}}"}


def plan(spec: dict[str, Any] = SPEC, **node: Any) -> ParallelPlan | None:
    return read_plan({"parallel": settings_of("score", spec, node)})


def test_azures_defaults() -> None:
    assert plan() == ParallelPlan("s.py", "data", append_to="rows")
    assert read_plan({"command": "x"}) is None


def test_the_step_says_more_than_its_component() -> None:
    spec = {
        **SPEC,
        "mini_batch_size": "10kb",
        "retry_settings": {"max_retries": 3, "timeout": 5},
        "error_threshold": 4,
        "partition_keys": ["a"],
        "logging_level": "debug",
    }
    found = plan(spec, mini_batch_size=7, retry_settings={"timeout": "9"}, mini_batch_error_threshold="2")
    assert found is not None
    assert (found.size, found.retries, found.timeout_s) == (7, 3, 9)
    assert (found.item_errors, found.batch_errors, found.logging_level) == (4, 2, "DEBUG")
    assert plan(spec, partition_keys='["b", "c"]').partition_keys == ("b", "c")  # type: ignore[union-attr]
    assert plan(spec).size == 10240  # type: ignore[union-attr]


def test_the_percent_that_azure_takes_from_the_arguments() -> None:
    spec = {**SPEC, "task": {**TASK, "program_arguments": "--x 1 --allowed_failed_percent 30"}}
    assert plan(spec).failed_percent == 30.0  # type: ignore[union-attr]
    assert command_of(task_of(spec, {})) == "s.py --x 1 --allowed_failed_percent 30"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_data": "data"}, r"input_data is 'data'; it must name one of the step's inputs"),
        ({"input_data": "${{outputs.data}}"}, "step's inputs"),
        ({"mini_batch_size": "ten"}, "mini_batch_size is 'ten'; give a number of files"),
        ({"mini_batch_size": 0}, "mini_batch_size is 0"),
        ({"mini_batch_size": "${{parent.inputs.n}}"}, "An expression is not offered"),
        ({"max_concurrency_per_instance": 0}, "must be a whole number from 1 to 1024"),
        ({"mini_batch_error_threshold": -2}, "from -1"),
        ({"retry_settings": {"timeout": "soon"}}, r"retry_settings.timeout is 'soon'"),
        ({"logging_level": "LOUD"}, "Use one of DEBUG"),
        ({"partition_keys": "shop"}, "must be a list of names"),
        ({"task": {"entry_script": ""}}, "has no task.entry_script"),
        ({"task": {"append_row_to": "rows"}}, "step's outputs"),
        ({"task": {"program_arguments": "--allowed_failed_percent 130"}}, "from 0 to 100"),
    ],
)
def test_what_cannot_be_names_the_step_and_the_fix(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as error:
        settings_of("score", SPEC, changes)
    assert "Step 'score'" in error.value.message


def test_other_tasks_are_not_offered() -> None:
    with pytest.raises(NotOffered, match=r"task\.type is 'model'"):
        settings_of("score", SPEC, {"task": {"type": "model"}})
