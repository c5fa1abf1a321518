"""Calls of batch deployments: what bodies mean, in Azure's spellings, and the jobs that are made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.parallel import ParallelPlan, read_plan, settings_of
from tidemill.domain.serving.batch import Batching, read_deployment
from tidemill.domain.serving.batch_calls import Call, read_call, stored
from tidemill.domain.serving.batch_jobs import SCORE, STEP, job_properties

MODEL = {
    "model": {"assetId": "azureml:m:1"},
    "codeConfiguration": {"codeId": "azureml:c:1", "scoringScript": "s.py"},
}
SPEC = read_deployment("numbers", "first", MODEL)
FOLDER = {"in": {"jobInputType": "UriFolder", "uri": "azureml://datastores/d/paths/in"}}
STORE = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/datastores/d"
)


def call(**properties: Any) -> Call:
    return read_call(SPEC, {"properties": {"inputData": FOLDER, **properties}})


def plan(made: Call, **changes: Any) -> ParallelPlan:
    spec = read_deployment("numbers", "first", {**MODEL, **changes})
    step = job_properties(spec, made, "azureml:e:1", "custom_model", {})["jobs"][STEP]
    found = read_plan({"parallel": settings_of(STEP, {}, step)})
    assert found is not None
    return found


def test_azures_defaults() -> None:
    assert SPEC.batching == Batching(size=10, concurrency=1, errors=-1, retries=3, timeout_s=30)
    found = plan(call())
    assert found == ParallelPlan(
        "s.py",
        "in",
        10,
        retries=3,
        timeout_s=30,
        append_to=SCORE,
        append_name="predictions.csv",
        model="model",
        results_in=SCORE,
    )


def test_a_call_says_more_than_its_deployment() -> None:
    retry = {"MaxRetries": 1, "timeout": "PT5S"}
    made = call(miniBatchSize="20", ErrorThreshold=2, retrySettings=retry, outputFileName="x.csv")
    found = plan(made, miniBatchSize=5, maxConcurrencyPerInstance=4)
    assert (found.size, found.item_errors, found.retries, found.timeout_s) == (20, 2, 1, 5)
    assert (found.append_name, call(compute={"instanceCount": 3}).instances) == ("x.csv", 3)


def test_summary_only_appends_nothing() -> None:
    spec = read_deployment("numbers", "first", {**MODEL, "outputAction": "SummaryOnly"})
    step = job_properties(spec, call(), "azureml:e:1", "custom_model", {})["jobs"][STEP]
    assert "append_row_to" not in step["task"]
    assert step["task"]["results_in"] == "${{outputs.score}}"


def test_an_input_called_model_is_no_model() -> None:
    made = read_call(SPEC, {"properties": {"inputData": {"model": FOLDER["in"]}}})
    found = plan(made)
    assert (found.input, found.model) == ("model", "deployed_model")


def test_a_table_is_cut_by_its_usual_size() -> None:
    made = call(inputData={"t": {"jobInputType": "MLTable", "uri": "azureml:t:1"}})
    assert plan(made).size is None


def test_keys_count_without_their_case_and_arm_ids_are_addresses() -> None:
    body = {"Properties": {"InputData": {"x": {"JobInputType": "UriFile", "Uri": f"{STORE}/paths/a/b.csv"}}}}
    (one,) = read_call(SPEC, body).inputs
    assert (one.type, one.value) == (
        "uri_file",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/a/b.csv",
    )
    assert stored("https://example.org/x") == "https://example.org/x"


def test_places_for_the_results_in_both_of_azures_forms() -> None:
    old = call(outputDataset={"datastoreId": f"azureml:{STORE}", "path": "/out/"}).outputs
    assert old[0].uri == "azureml://datastores/d/paths/out/"
    new = call(outputData={"any": {"jobOutputType": "UriFile", "uri": "azureml://datastores/d/paths/x.csv"}})
    job = job_properties(SPEC, new, "azureml:e:1", "custom_model", {})
    assert job["outputs"] == {
        SCORE: {"jobOutputType": "uri_file", "uri": "azureml://datastores/d/paths/x.csv"}
    }


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"inputData": {}}, "the call has none"),
        ({"inputData": {**FOLDER, "b": FOLDER["in"]}}, "the call has 2: in, b"),
        ({"inputData": {"n": {"jobInputType": "Literal", "value": "1"}}}, "Literals are for deployments"),
        ({"inputData": {"n": {"jobInputType": "UriFolder"}}}, "has no uri"),
        ({"inputData": {"n": {"jobInputType": "Folder", "uri": "x"}}}, "'Folder' is not known"),
        ({"outputData": {"a": {}, "b": {}}}, "has one output, 'score'"),
        ({"outputData": {"a": {"jobOutputType": "MLTable"}}}, "a uri_folder or a uri_file"),
        ({"outputDataset": {"path": "x"}}, "needs a datastoreId and a path"),
        ({"outputFileName": "../x"}, "must be the name of a file"),
        ({"miniBatchSize": "many"}, "must be a whole number, not 'many'"),
        ({"retrySettings": {"timeout": "soon"}}, "not an ISO 8601 duration"),
        ({"compute": {"instanceCount": 0}}, "must lie between 1 and"),
    ],
)
def test_what_is_wrong_names_its_place(properties: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        call(**properties)
    assert caught.value.target is not None
    assert caught.value.target.startswith("properties.")


def test_datasets_of_the_first_api_are_not_offered() -> None:
    with pytest.raises(NotOffered, match="Give inputData"):
        call(dataset="azureml:old:1")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(
    ANYTHING,
    st.sampled_from(
        [
            "inputData",
            "outputData",
            "compute",
            "retrySettings",
            "outputDataset",
            "miniBatchSize",
            "properties",
            "name",
            "outputFileName",
            "loggingLevel",
        ]
    ),
)
def test_any_call_is_read_or_refused(value: Any, key: str) -> None:
    try:
        made = call(**{key: value})
    except InvalidRequest:
        return
    assert job_properties(SPEC, made, "azureml:e:1", "custom_model", {})["jobType"] == "Pipeline"


@given(
    ANYTHING,
    st.sampled_from(
        [
            "model",
            "codeConfiguration",
            "resources",
            "retrySettings",
            "environmentVariables",
            "outputAction",
            "deploymentConfiguration",
            "errorThreshold",
            "compute",
            "environmentId",
        ]
    ),
)
def test_any_deployment_is_read_or_refused(value: Any, key: str) -> None:
    try:
        made = read_deployment("numbers", "first", {**MODEL, key: value})
    except (InvalidRequest, NotOffered):
        return
    assert made.name == "first"
