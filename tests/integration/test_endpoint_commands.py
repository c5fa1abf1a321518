"""`tidemill endpoint` and `tidemill deployment` against a real server: what needs no instance."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEPLOYMENT = """\
name: blue
endpoint_name: digits
model: {path: model.pkl}
code_configuration: {code: src, scoring_script: score.py}
environment: azureml:AzureML-sklearn-1.5@latest
instance_type: Standard_DS3_v2
"""


@pytest.fixture(scope="module")
def run(server: Any, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "src").mkdir()
    (folder / "src/score.py").write_text("def init(): pass\ndef run(data): return data\n")
    (folder / "model.pkl").write_text("x")
    (folder / "blue.yml").write_text(DEPLOYMENT)

    def call(*words: str, code: int = 0) -> str:
        tidemill = str(Path(sys.executable).with_name("tidemill"))
        argv = [tidemill, "--home", str(server.home), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return call


@pytest.fixture(scope="module")
def endpoint(run: Any) -> str:
    return run("endpoint", "create", "--name", "digits")


def test_an_endpoint_is_shown_with_all_that_matters(run: Any, endpoint: str):
    assert [line.split()[0] for line in endpoint.splitlines()][:5] == [
        "endpoint",
        "state",
        "address",
        "auth",
        "traffic",
    ]
    assert "Created by" in endpoint
    found = json.loads(run("endpoint", "show", "--name", "digits", "-o", "json"))
    assert (found["state"], found["auth_mode"], found["traffic"]) == ("Succeeded", "Key", {})
    assert "digits" in run("endpoint", "list")
    assert "has no deployment: nothing can answer" in run("endpoint", "why", "--name", "digits")
    assert "Did you mean 'digits'" in run("endpoint", "show", "--name", "digit", code=3)


def test_keys_are_shown_and_regenerated(run: Any, endpoint: str):
    before = json.loads(run("endpoint", "keys", "--name", "digits", "-o", "json"))
    after = json.loads(run("endpoint", "keys", "--name", "digits", "--regenerate", "primary", "-o", "json"))
    assert before["primary_key"] != after["primary_key"]
    assert before["secondary_key"] == after["secondary_key"]


def test_a_deployment_is_refused_with_its_line_or_comes_up(run: Any, endpoint: str):
    wrong = ("--set", "instance_type=Standard_DS3_v3")
    said = run("deployment", "create", "-f", "blue.yml", "--no-wait", *wrong, code=4)
    assert "--set instance_type: " in said
    assert "Did you mean" in said
    shown = run("deployment", "create", "-f", "blue.yml", "--no-wait")
    assert "digits/blue" in shown
    assert "blue" in run("deployment", "list", "-e", "digits")
    assert "Deployment blue is Creating" in run("endpoint", "why", "-n", "digits", "-d", "blue")
    assert "is Creating and serves nothing yet" in run(
        "endpoint", "traffic", "--name", "digits", "blue=100", code=4
    )
    assert "blue" in run("endpoint", "watch", "--name", "digits", "--once")
    assert "Created by" in run(
        "deployment", "logs", "-e", "digits", "-n", "blue", "-c", "storage-initializer"
    )
    run("deployment", "delete", "-e", "digits", "-n", "blue", "--yes")
    assert run("deployment", "list", "-e", "digits", "-o", "json").strip() == "[]"


def test_tags_change_and_deleted_is_gone(run: Any, endpoint: str):
    run("endpoint", "update", "--name", "digits", "--tags", "a=b")
    assert json.loads(run("endpoint", "show", "-n", "digits", "-o", "json"))["tags"] == {"a": "b"}
    run("endpoint", "delete", "--name", "digits", "--yes")
    run("endpoint", "show", "--name", "digits", code=3)
