"""The ARM bodies are those that azure-ai-ml 1.35.2 was recorded sending."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.cli.yaml import load, to_arm
from tidemill.cli.yaml.to_arm import JobReferences

W = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


def job_body(folder: Path, text: str, references: JobReferences, name: str = "j1") -> dict[str, object]:
    path = folder / "job.yml"
    path.write_text(text)
    body = to_arm.command_job(load.load_job(path).data, name, references, "proof")
    return body["properties"]


def test_command_job_with_distribution(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    text = """
command: python train.py --d ${{inputs.d}}
code: src
environment: azureml:env1:1
compute: azureml:cpu
experiment_name: e
inputs:
  d: {type: uri_file, path: azureml:d1:1}
  k: 1
outputs:
  o: {type: uri_folder}
resources: {instance_count: 2}
distribution: {type: pytorch, process_count_per_instance: 2}
"""
    references = JobReferences(
        environment_id=f"{W}/environments/env1/versions/1",
        code_id=f"{W}/codes/c/versions/1",
        compute_id=f"{W}/computes/cpu",
        inputs={"d": f"{W}/data/d1/versions/1"},
    )
    assert job_body(tmp_path, text, references) == {
        "command": "python train.py --d ${{inputs.d}}",
        "codeId": f"{W}/codes/c/versions/1",
        "computeId": f"{W}/computes/cpu",
        "properties": {},
        "experimentName": "e",
        "isArchived": False,
        "inputs": {
            "d": {"uri": f"{W}/data/d1/versions/1", "jobInputType": "uri_file"},
            "k": {"value": "1", "jobInputType": "literal"},
        },
        "outputs": {"o": {"jobOutputType": "uri_folder"}},
        "environmentId": f"{W}/environments/env1/versions/1",
        "distribution": {"processCountPerInstance": 2, "distributionType": "PyTorch"},
        "tags": {},
        "environmentVariables": {},
        "resources": {"instanceCount": 2, "properties": {}},
        "jobType": "Command",
        "displayName": "j1",
    }


def test_serverless_and_local_jobs(tmp_path: Path) -> None:
    text = """
command: echo
environment: azureml:env1:1
resources: {instance_type: Standard_DS3_v2, instance_count: 1}
"""
    references = JobReferences(environment_id=f"{W}/environments/env1/versions/1")
    assert job_body(tmp_path, text, references) == {
        "command": "echo",
        "properties": {},
        "isArchived": False,
        "inputs": {},
        "outputs": {},
        "environmentId": f"{W}/environments/env1/versions/1",
        "tags": {},
        "environmentVariables": {},
        "resources": {"instanceCount": 1, "instanceType": "Standard_DS3_v2", "properties": {}},
        "jobType": "Command",
        "displayName": "j1",
        "experimentName": "proof",
    }
    local = job_body(tmp_path, "command: echo\nenvironment: azureml:env1:1\ncompute: local\n", references)
    assert local["resources"] == {"properties": {"IsLocal": {"IsLocal": True}}}
    assert "computeId" not in local


def test_everything_else_of_a_job(tmp_path: Path) -> None:
    text = """
command: echo
environment: azureml:e:1
description: d
environment_variables: {A: 1, B: null, C: yes}
inputs:
  flag: true
  rate: 1.5e-3
  given: {value: 7}
  fallback: {type: number, default: 0.5}
  absent: {type: string, optional: true}
  there: {path: "azureml://datastores/x/paths/y", mode: download}
outputs:
  model: {type: mlflow_model, mode: upload, name: digits, version: 3, path: azureml://datastores/x/paths/z}
  plain:
limits: {timeout: 3725}
queue_settings: {job_tier: Spot, priority: high}
identity: {type: user_identity}
services:
  board: {type: tensor_board, log_dir: logs}
"""
    uris = {"there": "azureml://datastores/x/paths/y"}
    body = job_body(tmp_path, text, JobReferences("e", inputs=uris))
    assert body["environmentVariables"] == {"A": "1", "C": "yes"}
    assert body["inputs"] == {
        "flag": {"value": "True", "jobInputType": "literal"},
        "rate": {"value": "0.0015", "jobInputType": "literal"},
        "given": {"value": "7", "jobInputType": "literal"},
        "fallback": {"value": "0.5", "jobInputType": "literal"},
        "there": {"uri": uris["there"], "jobInputType": "uri_folder", "mode": "Download"},
    }
    assert body["outputs"] == {
        "model": {
            "jobOutputType": "mlflow_model",
            "assetName": "digits",
            "assetVersion": "3",
            "uri": "azureml://datastores/x/paths/z",
            "mode": "Upload",
        },
        "plain": {"jobOutputType": "uri_folder"},
    }
    assert body["limits"] == {"jobLimitsType": "Command", "timeout": "PT1H2M5S"}
    assert body["queueSettings"] == {"jobTier": "Spot", "priority": 3}
    assert body["identity"] == {"identityType": "UserIdentity"}
    assert body["services"] == {
        "board": {"jobServiceType": "TensorBoard", "properties": {"logDir": "logs"}},
    }


def test_aml_compute() -> None:
    spec = {
        "type": "amlcompute",
        "name": "cpu",
        "min_instances": 0,
        "max_instances": 2,
        "idle_time_before_scale_down": 120,
    }
    body = to_arm.aml_compute(spec, "local")
    # What the SDK adds to the body out of an earlier answer (allocationState, …) is the server's to say.
    assert body == {
        "location": "local",
        "properties": {
            "computeType": "AmlCompute",
            "properties": {
                "vmSize": "STANDARD_DS3_V2",
                "vmPriority": "Dedicated",
                "scaleSettings": {
                    "maxNodeCount": 2,
                    "minNodeCount": 0,
                    "nodeIdleTimeBeforeScaleDown": "PT2M",
                },
                "remoteLoginPortPublicAccess": "NotSpecified",
                "enableNodePublicIp": True,
            },
            "disableLocalAuth": True,
        },
    }
    spot = to_arm.aml_compute({**spec, "tier": "low_priority", "location": "westeurope"}, "local")
    assert spot["location"] == "westeurope"
    assert spot["properties"]["properties"]["vmPriority"] == "LowPriority"


def test_environments_and_the_version_of_one_without_a_name() -> None:
    conda = {"name": "x", "dependencies": ["python=3.11"]}
    assert to_arm.environment_version({"image": "python:3.11"}, conda) == {
        "properties": {
            "condaFile": "dependencies:\n- python=3.11\nname: x\n",
            "image": "python:3.11",
            "isAnonymous": False,
            "isArchived": False,
        }
    }
    image = to_arm.environment_version({"image": "python:3.11"}, None, anonymous=True)
    assert image == {"properties": {"image": "python:3.11", "isAnonymous": True, "isArchived": False}}
    assert (
        to_arm.anonymous_version(image) == "cf5b091b5c0106f54f5b040169b322c104c6471fbe5f40384d2ef9b18e466112"
    )
    with_conda = to_arm.environment_version({"image": "python:3.11"}, conda, anonymous=True)
    assert to_arm.anonymous_version(with_conda) != to_arm.anonymous_version(image)


def test_data_models_datastores() -> None:
    assert to_arm.data_version({"name": "d", "type": "uri_file"}, "azureml://datastores/a/paths/x/y.csv") == {
        "properties": {
            "isAnonymous": False,
            "tags": {},
            "isArchived": False,
            "properties": {},
            "dataUri": "azureml://datastores/a/paths/x/y.csv",
            "dataType": "uri_file",
        }
    }
    assert to_arm.model_version({"name": "m3"}, "azureml://jobs/job1/outputs/artifacts/paths/model/") == {
        "properties": {
            "tags": {},
            "properties": {},
            "modelType": "custom_model",
            "modelUri": "azureml://jobs/job1/outputs/artifacts/paths/model/",
            "isAnonymous": False,
            "isArchived": False,
        }
    }
    spec = {
        "name": "ds1",
        "account_name": "acct",
        "container_name": "c",
        "credentials": {"account_key": "a2V5"},
    }
    assert to_arm.blob_datastore(spec) == {
        "properties": {
            "accountName": "acct",
            "containerName": "c",
            "credentials": {
                "secrets": {"key": "a2V5", "secretsType": "AccountKey"},
                "credentialsType": "AccountKey",
            },
            "endpoint": "core.windows.net",
            "protocol": "https",
            "tags": {},
            "datastoreType": "AzureBlob",
        }
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "PT0S"), (120, "PT2M"), (3600, "PT1H"), (3725, "PT1H2M5S")]
)
def test_durations(seconds: int, text: str) -> None:
    assert to_arm.iso_duration(seconds) == text
