"""The example that serves digits, as its tutorial goes: train, deploy blue and green, shift, roll back,
package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve-digits"


def test_train_deploy_shift_roll_back_and_package(server: Any, tmp_path: Path) -> None:
    def tidemill(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("tidemill")), "--home", str(server.home), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=EXAMPLE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def asked(times: int, *words: str) -> list[str]:
        """Which model answered."""
        request = ("--name", "digits", "--request-file", "sample.json", *words)
        answers = [json.loads(tidemill("endpoint", "invoke", *request)) for _ in range(times)]
        assert {tuple(answer["digits"]) for answer in answers} == {(0,)}
        return [answer["model"] for answer in answers]

    tidemill("job", "create", "-f", "train.yml", "--name", "linear", "--stream")
    tidemill("job", "create", "-f", "train.yml", "--name", "svm", "--set", "inputs.kind=svm", "--stream")
    tidemill("endpoint", "create", "--file", "endpoint.yml")
    tidemill("deployment", "create", "--file", "blue.yml", "--all-traffic")
    assert asked(1) == ["RidgeClassifier"]
    tidemill("deployment", "create", "--file", "green.yml")
    assert asked(1) == ["RidgeClassifier"]
    assert asked(1, "--deployment-name", "green") == ["SVC"]
    tidemill("endpoint", "traffic", "--name", "digits", "blue=50", "green=50")
    assert set(asked(20)) == {"RidgeClassifier", "SVC"}  # one in a million that chance gives one alone
    tidemill("endpoint", "traffic", "--name", "digits", "green=100")
    assert set(asked(5)) == {"SVC"}
    tidemill("endpoint", "traffic", "--name", "digits", "blue=100")
    assert set(asked(5)) == {"RidgeClassifier"}
    found = json.loads(tidemill("endpoint", "show", "--name", "digits", "-o", "json"))
    assert [(one["name"], one["model"], one["model_job"]) for one in found["deployments"]] == [
        ("blue", "served-digits:1", "linear"),
        ("green", "served-digits:2", "svm"),
    ]
    made = json.loads(tidemill("job", "show", "--name", "svm", "-o", "json"))
    assert made["serves"] == [{"endpoint": "digits", "deployment": "green", "model": "served-digits:2"}]
    layout = tmp_path / "digits"
    words = ("--name", "digits-packed", "--download-path", str(layout), "-o", "json")
    packed = json.loads(tidemill("model", "package", "--file", "green.yml", *words))
    assert packed["model"] == "served-digits:2"
    assert json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"] == packed["digest"]
    tidemill("deployment", "delete", "--endpoint-name", "digits", "--name", "green", "--yes")
    tidemill("endpoint", "delete", "--name", "digits", "--yes")
