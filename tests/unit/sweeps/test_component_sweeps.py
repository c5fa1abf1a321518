"""A sweep whose trial is a component: what it becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.domain.components import read_component
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.pipelines.component_sweeps import written_out

SPEC: dict[str, Any] = {
    "type": "command",
    "command": "train --lr ${{inputs.lr}} --data ${{inputs.data}} --epochs ${{ inputs.epochs }} "
    "> ${{outputs.o}}/x",
    "inputs": {
        "lr": {"type": "number"},
        "data": {"type": "uri_folder"},
        "epochs": {"type": "integer", "default": "3", "max": "9"},
        "note": {"type": "string", "optional": True},
    },
    "outputs": {"o": {"type": "uri_folder"}},
    "environment": "azureml:/subscriptions/s/e",
    "limits": {"timeout": 60},
}
BODY: dict[str, Any] = {
    "trial": {"componentId": "azureml:train:1"},
    "searchSpace": {"lr": ["choice", [[1, 2]]]},
    "inputs": {"data": {"jobInputType": "uri_folder", "uri": "azureml:d:1"}},
}


def write(**changes: Any) -> dict[str, Any]:
    return written_out("s", read_component(SPEC, "train", "1"), {**BODY, **changes})


def test_the_components_command_is_the_trial() -> None:
    found = write()
    assert found["trial"] == {
        "componentId": "azureml:train:1",
        "environmentId": "/subscriptions/s/e",
        "command": "train --lr ${{search_space.lr}} --data ${{inputs.data}} --epochs ${{ inputs.epochs }} "
        "> ${{outputs.o}}/x",
    }
    assert found["inputs"]["epochs"] == {"jobInputType": "literal", "value": "3"}
    assert set(found["inputs"]) == {"data", "epochs"}
    assert found["outputs"] == {"o": {"jobOutputType": "uri_folder"}}
    assert found["limits"] == {"jobLimitsType": "Sweep", "trialTimeout": "PT60S"}
    # what it has become stays what it is when it is sent again
    assert written_out("s", read_component(SPEC, "train", "1"), found) == found


@pytest.mark.parametrize(
    ("changes", "target", "said"),
    [
        (
            {"searchSpace": {"lrr": ["choice", [[1]]]}},
            "searchSpace.lrr",
            "has no input 'lrr'. Did you mean 'lr'?",
        ),
        ({"inputs": {}}, "inputs.data", "'data' \\(uri_folder\\) of its trial has no value"),
        ({"inputs": {"dta": {}}}, "inputs.dta", "has no input 'dta'"),
        ({"inputs": {"lr": {"value": "1"}}}, "inputs.lr", "is set by the search space"),
        (
            {"inputs": {"data": {"jobInputType": "literal", "value": "x"}}},
            "inputs.data",
            "is of type uri_folder",
        ),
        (
            {"inputs": {**BODY["inputs"], "epochs": {"jobInputType": "literal", "value": "10"}}},
            "inputs.epochs",
            "must lie between",
        ),
        ({"outputs": {"p": {}}}, "outputs.p", "has no output 'p'"),
    ],
)
def test_what_does_not_fit_names_its_place(changes: dict[str, Any], target: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        write(**changes)
    assert refused.value.target == f"properties.{target}"


def test_a_trial_is_a_command() -> None:
    pipeline = read_component({"type": "pipeline", "jobs": {"a": {"command": "x"}}}, "p")
    with pytest.raises(InvalidRequest, match="must be a command"):
        written_out("s", pipeline, BODY)
