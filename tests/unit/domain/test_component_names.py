"""What a component's spec names, and the same spec with other names."""

from __future__ import annotations

from typing import Any

from tidemill.domain.component_names import Named, named_in, renamed

SPEC: dict[str, Any] = {
    "name": "flow",
    "description": "azureml:not:1 is only text",
    "tags": {"environment": "production", "code": "red"},
    "jobs": {
        "a": {
            "componentId": "azureml:say:1",
            "inputs": {
                "d": {"job_input_type": "uri_file", "uri": "azureml:d:1"},
                "m": {"job_input_type": "mlflow_model", "uri": "azureml:m:1"},
                "w": {"job_input_type": "literal", "value": "azureml:w:1"},
                "far": {"job_input_type": "uri_file", "uri": "https://example.test/x"},
            },
        },
        "b": {
            "task": {
                "code": "azureml:/c",
                "environment": "azureml:e:1",
                "environment_variables": {"component": "x"},
            }
        },
        "c": {"trial": {"componentId": "azureml:say:1"}},
    },
}


def test_names_by_their_kind() -> None:
    assert named_in(SPEC) == [
        Named("components", "azureml:say:1"),
        Named("data", "azureml:d:1"),
        Named("models", "azureml:m:1"),
        Named("codes", "azureml:/c"),
        Named("environments", "azureml:e:1"),
    ]


def test_only_names_are_renamed() -> None:
    found = renamed(SPEC, {named: f"new {named.text}" for named in named_in(SPEC)})
    assert named_in(found)[0] == Named("components", "new azureml:say:1")
    assert found["jobs"]["c"]["trial"]["componentId"] == "new azureml:say:1"
    assert found["jobs"]["a"]["inputs"]["w"] == SPEC["jobs"]["a"]["inputs"]["w"]
    assert (found["description"], found["tags"]) == (SPEC["description"], SPEC["tags"])
    assert renamed(SPEC, {}) == SPEC


def test_inputs_and_steps_are_called_as_the_user_likes() -> None:
    step = {
        "componentId": "azureml:say:1",
        "inputs": {"code": "red", "properties": {"job_input_type": "uri_file", "uri": "azureml:d:1"}},
    }
    spec = {"inputs": {"environment": "production", "tags": {"type": "string"}}, "jobs": {"tags": step}}
    assert named_in(spec) == [Named("components", "azureml:say:1"), Named("data", "azureml:d:1")]
