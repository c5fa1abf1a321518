"""Reruns and clones: what is sent, which changes are said, what is refused with the nearest name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import NATIVE, Fake, W, make_home

from tidemill.cli import main

JOB: dict[str, Any] = {
    "name": "old",
    "properties": {
        "jobType": "Command",
        "status": "Failed",
        "services": {"Studio": {}},
        "error": {"code": "x"},
        "provisioningState": "Succeeded",
        "isArchived": True,
        "displayName": "old",
        "experimentName": "e",
        "command": "python train.py ${{inputs.lr}}",
        "environmentId": f"{W}/environments/sk/versions/3",
        "computeId": f"{W}/computes/cpu",
        "inputs": {
            "lr": {"jobInputType": "literal", "value": "0.01"},
            "digits": {"jobInputType": "uri_folder", "uri": "azureml:digits:1"},
        },
        "tags": {"team": "a"},
        "properties": {"tidemill.schedule": "nightly", "kept": "1"},
    },
}


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AZURE_SUBSCRIPTION_ID",
        "AZURE_RESOURCE_GROUP",
        "AZUREML_WORKSPACE_NAME",
        "ML_WORKSPACE_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIDEMILL_HOME", str(make_home(tmp_path, fake.address)))
    monkeypatch.chdir(tmp_path)
    fake.answers["GET", f"{W}/jobs/old"] = JOB
    fake.answers["PUT", f"{W}/jobs/new"] = {"name": "new", "properties": {"status": "Queued"}}
    fake.answers["GET", f"{NATIVE}/jobs/new"] = {"name": "new", "status": "Queued"}


def sent(fake: Fake) -> dict[str, Any]:
    (asked,) = fake.of("PUT", f"{W}/jobs/new")
    return asked.json["properties"]


def test_a_rerun_is_the_same_job_under_another_name(fake: Fake):
    assert main.run(["job", "rerun", "-n", "old", "--new-name", "new"]) == 0
    own = ("status", "services", "error", "provisioningState", "isArchived")
    expected = {key: value for key, value in JOB["properties"].items() if key not in own}
    expected |= {"displayName": "new", "properties": {"kept": "1", "tidemill.rerun_of": "old"}}
    assert sent(fake) == expected


def test_a_clone_says_what_differs(fake: Fake, capsys: pytest.CaptureFixture[str]):
    settings = [
        "inputs.lr=0.1",
        "inputs.digits=azureml:digits:2",
        "compute=azureml:gpu",
        "limits.timeout=90",
        "resources.instance_count=2",
        "queue_settings.priority=high",
        "tags.team=b",
        "environment_variables.A=1",
        "experiment_name=e",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main.run(["job", "clone", "-n", "old", "--new-name", "new", *words]) == 0
    found = sent(fake)
    assert found["inputs"]["lr"]["value"] == "0.1"
    assert found["inputs"]["digits"]["uri"] == f"{W}/data/digits/versions/2"
    assert found["computeId"] == f"{W}/computes/gpu"
    assert found["limits"] == {"jobLimitsType": "Command", "timeout": "PT1M30S"}
    assert found["resources"] == {"instanceCount": 2}
    assert found["queueSettings"] == {"priority": 3}
    assert (found["tags"], found["environmentVariables"]) == ({"team": "b"}, {"A": "1"})
    assert found["properties"]["tidemill.clone_of"] == "old"
    said = capsys.readouterr().err
    assert "inputs.lr: 0.01 -> 0.1\n" in said
    assert "limits.timeout: (none) -> PT1M30S\n" in said
    assert "experiment_name" not in said


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("inputs.rl=1", "job old has no input 'rl'. There are: lr, digits."),
        ("inputs.lr", "write it as PATH=VALUE"),
        ("input.lr=1", "job old has nothing called 'input.lr'. Did you mean 'inputs.lr'?"),
        ("comput=x", "Did you mean 'compute'?"),
        ("limits.timeout=soon", "'soon' must be a whole number"),
        ("queue_settings.priority=urgent", "'urgent' is not one of low, medium, high"),
        ("inputs.digits=./here", "input 'digits' is data (uri_folder): name an asset"),
        ("command=", "the value is empty"),
    ],
)
def test_what_a_job_does_not_have(fake: Fake, capsys: pytest.CaptureFixture[str], setting: str, says: str):
    assert main.run(["job", "clone", "-n", "old", "--new-name", "new", "--set", setting]) == 2
    said = capsys.readouterr().err
    assert f"--set {setting}: " in said
    assert says in said
    assert not fake.of("PUT", f"{W}/jobs/new")


def test_a_pipeline_has_other_words(fake: Fake, capsys: pytest.CaptureFixture[str]):
    fake.answers["GET", f"{W}/jobs/old"] = {"name": "old", "properties": {"jobType": "Pipeline", "jobs": {}}}
    assert main.run(["job", "clone", "-n", "old", "--set", "command=x"]) == 2
    assert "job old has nothing called 'command'." in capsys.readouterr().err
