"""Azure's command job body, read; what is wrong is named with its property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.app.jobs.jobs import KINDS
from tidemill.domain.errors import InvalidRequest, NotOffered, TidemillError
from tidemill.domain.jobspec import job_kind, read_command_job

# As the SDK sends it (azure-ai-ml 1.35.2, recorded).
RECORDED = {
    "command": "python train.py --d ${{inputs.d}}",
    "codeId": "/subscriptions/s/c",
    "computeId": "/subscriptions/s/computes/cpu",
    "properties": {},
    "experimentName": "e",
    "isArchived": False,
    "inputs": {
        "d": {"uri": "azureml:d1:1", "jobInputType": "uri_file"},
        "k": {"value": "1", "jobInputType": "literal"},
    },
    "outputs": {"o": {"jobOutputType": "uri_folder"}},
    "environmentId": "/subscriptions/s/environments/env1/versions/1",
    "distribution": {"processCountPerInstance": 2, "distributionType": "PyTorch"},
    "tags": {},
    "environmentVariables": {"A": "b"},
    "resources": {"instanceCount": 2, "properties": {}},
    "jobType": "Command",
    "displayName": "shown",
    "limits": {"timeout": "PT1H", "jobLimitsType": "Command"},
}


def test_the_recorded_body():
    job = read_command_job("j", RECORDED)
    assert job.node_count == 2
    assert (job.distribution.kind, job.distribution.processes_per_node) == ("pytorch", 2)
    assert [(i.name, i.type, i.value, i.mode) for i in job.inputs] == [
        ("d", "uri_file", "azureml:d1:1", "ro_mount"),
        ("k", "literal", "1", "ro_mount"),
    ]
    assert (job.outputs[0].name, job.outputs[0].type, job.outputs[0].mode) == ("o", "uri_folder", "rw_mount")
    assert job.timeout_s == 3600
    assert job.environment_variables == (("A", "b"),)
    assert (job.experiment, job.display_name) == ("e", "shown")


@pytest.mark.parametrize("kind", ["AutoML", "Spark", "FineTuning"])
def test_other_job_types_are_refused_by_name(kind):
    with pytest.raises(NotOffered, match="Tidemill does not offer"):
        job_kind("j", {"jobType": kind}, KINDS)


def test_a_kind_is_known_by_its_type_and_is_a_command_without_one():
    assert {job_kind("j", {"jobType": kind.title()}, KINDS) for kind in KINDS} == set(KINDS)
    assert job_kind("j", {}, KINDS) == "command"
    with pytest.raises(InvalidRequest, match="'Comand' of job 'j' is not a job type") as caught:
        job_kind("j", {"jobType": "Comand"}, KINDS)
    assert caught.value.target == "properties.jobType"


@pytest.mark.parametrize(
    ("change", "target"),
    [
        ({"command": ""}, "properties.command"),
        ({"command": None}, "properties.command"),
        ({"resources": {"instanceCount": 0}}, "properties.resources.instanceCount"),
        ({"resources": {"instanceCount": "two"}}, "properties.resources.instanceCount"),
        ({"inputs": {"d": {"jobInputType": "uri_file"}}}, "properties.inputs.d"),
        ({"inputs": {"d": {"jobInputType": "uri_fiel", "uri": "x"}}}, "properties.inputs.d"),
        ({"inputs": {"d": {"jobInputType": "uri_file", "uri": "x", "mode": "Mount"}}}, "properties.inputs.d"),
        ({"outputs": {"o": {"jobOutputType": "folder"}}}, "properties.outputs.o"),
        ({"distribution": {"distributionType": "Horovod"}}, "properties.distribution.distributionType"),
        ({"limits": {"timeout": "an hour"}}, "properties.limits.timeout"),
        ({"environmentVariables": {"A=B": "c"}}, "properties.environmentVariables"),
        ({"inputs": []}, "properties.inputs"),
    ],
)
def test_what_is_wrong_is_named(change, target):
    with pytest.raises(InvalidRequest) as caught:
        read_command_job("j", {**RECORDED, **change})
    assert caught.value.target == target
    assert len(caught.value.message) > 20


def test_mpi_on_several_nodes_is_refused_with_the_key_and_what_to_do():
    distribution = {"distributionType": "Mpi", "processCountPerInstance": 2}
    assert read_command_job("j", {**RECORDED, "distribution": distribution, "resources": {}}).node_count == 1
    with pytest.raises(NotOffered) as caught:
        read_command_job("j", {**RECORDED, "distribution": distribution})
    assert caught.value.target == "properties.resources.instanceCount"
    assert "instance_count to 1 (with process_count_per_instance up to 4)" in caught.value.message


def test_optional_inputs_without_a_value_are_known_by_name():
    given = {"a": None, "b": {"jobInputType": "literal"}, "c": {"jobInputType": "literal", "value": "1"}}
    job = read_command_job("j", {**RECORDED, "inputs": given})
    assert ([item.name for item in job.inputs], job.unset_inputs) == (["c"], ("a", "b"))


def test_tensorflow_tasks_must_fill_the_nodes_evenly():
    distribution = {"distributionType": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}
    with pytest.raises(InvalidRequest, match="multiple of 2"):
        read_command_job("j", {**RECORDED, "distribution": distribution})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(RECORDED)), json_values, max_size=5))
def test_any_body_is_read_or_refused_in_our_words(change):
    try:
        read_command_job("j", {**RECORDED, **change})
    except TidemillError as error:
        assert len(error.message) > 0  # noqa: PT017
