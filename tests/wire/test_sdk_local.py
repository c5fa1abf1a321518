"""Local deployments (`local=True`) by the unmodified SDK and docker-py, without Docker."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidemill.cli.local.daemon import SOCKET

pytestmark = [pytest.mark.sdk, pytest.mark.slow, pytest.mark.timeout(600)]

SCORE = """
import json, os
def init():
    global factor
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "factor.txt")) as file:
        factor = int(file.read())
    print("factor", factor, flush=True)
def run(body):
    import yaml
    times = [factor * n for n in json.loads(body)["data"]]
    return {"times": times, "who": os.environ["WHO"], "yaml": yaml.__version__}
"""
CONDA = """
channels: [conda-forge]
dependencies:
- python=3.11
- pip
- pip: [pyyaml==6.0.2]
"""
SCRIPT = """
import json, os, sys, threading
import docker
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (BuildContext, CodeConfiguration, Environment, ManagedOnlineDeployment,
                                  ManagedOnlineEndpoint, Model)
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError

class Nobody:
    def get_token(self, *scopes, **more):
        raise AssertionError("a local deployment asked the server")

ml = MLClient(Nobody(), "00000000-0000-0000-0000-000000000000", "nowhere", "nothing")
here = sys.argv[1]
out = {}

def deployment(endpoint, name, script="score.py", **more):
    environment = Environment(image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest",
                              conda_file=f"{here}/conda.yml")
    return ManagedOnlineDeployment(**{**dict(
        name=name, endpoint_name=endpoint, model=Model(path=f"{here}/model"), environment=environment,
        code_configuration=CodeConfiguration(code=f"{here}/code", scoring_script=script),
        environment_variables={"WHO": "blue"}, instance_type="Standard_DS3_v2", instance_count=1), **more})

def error(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]

def good():
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="sums"), local=True)
    made = ml.online_deployments.begin_create_or_update(deployment("sums", "blue"), local=True)
    out["made"] = [made.name, made.endpoint_name, made.provisioning_state]

def bad():
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="broken"), local=True)
    out["bad"] = error(lambda: ml.online_deployments.begin_create_or_update(
        deployment("broken", "red", script="raises.py"), local=True))

threads = [threading.Thread(target=good), threading.Thread(target=bad)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out["state"] = ml.online_deployments.get("red", "broken", local=True).provisioning_state
out["traceback"] = ml.online_deployments.get_logs("red", "broken", 50, local=True)
out["answer"] = json.loads(ml.online_endpoints.invoke("sums", request_file=f"{here}/body.json", local=True))
out["uri"] = ml.online_endpoints.get("sums", local=True).scoring_uri
out["logs"] = ml.online_deployments.get_logs("blue", "sums", 50, local=True)
out["list"] = sorted(one.name for one in ml.online_endpoints.list(local=True))
own = deployment("own", "x", environment=Environment(
    build=BuildContext(path=f"{here}/context", dockerfile_path="Dockerfile")))
out["own"] = error(lambda: ml.online_deployments.begin_create_or_update(own, local=True))
out["image"] = error(lambda: docker.from_env().images.get("example.org/server:1"))  # that serves by itself
ml.online_deployments.begin_delete("red", "broken", local=True)
out["left"] = sorted(one.name for one in ml.online_deployments.list("sums", local=True))
print(json.dumps(out), file=open(sys.argv[2], "w"))
"""


def tidemill(*words: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run(
        [sys.executable, "-m", "tidemill.cli.main", *words], capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("local")
    done = tidemill("local", "up", "--folder", str(folder))
    assert done.stdout == f"export DOCKER_HOST=unix://{folder / SOCKET}\n", done.stderr
    try:
        yield folder
    finally:
        assert tidemill("local", "down", "--folder", str(folder)).returncode == 0


@pytest.fixture(scope="module")
def told(folder: Path, sdk_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = tmp_path_factory.mktemp("project")
    for name, text in {
        "code/score.py": SCORE,
        "code/raises.py": "def init():\n    raise ValueError('no such model')\ndef run(body): pass\n",
        "model/factor.txt": "3",
        "conda.yml": CONDA,
        "body.json": '{"data": [1, 2]}',
        "context/Dockerfile": "FROM debian:12\nRUN mkdir /x\nRUN apt-get install -y gcc\n",
    }.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    environment = os.environ | {"HOME": str(here), "DOCKER_HOST": f"unix://{folder / SOCKET}"}
    done = subprocess.run(
        [sdk_python, "-c", SCRIPT, str(here), str(here / "out.json")],
        env=environment, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((here / "out.json").read_text())


def test_it_is_deployed_and_answers(told: dict[str, Any]) -> None:
    assert told["made"] == ["blue", "sums", "Succeeded"]
    assert told["answer"] == {"times": [3, 6], "who": "blue", "yaml": "6.0.2"}
    assert "factor 3" in told["logs"]
    assert told["list"] == ["broken", "sums"]
    asked = urllib.request.Request(told["uri"], b'{"data": [5]}', {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert json.load(answer)["times"] == [15]


def test_a_failing_init_is_told_with_its_traceback(told: dict[str, Any]) -> None:
    assert told["bad"][0] == "LocalEndpointInFailedStateError"
    assert told["state"] == "Failed"
    assert "ValueError: no such model" in told["traceback"]


def test_what_needs_a_real_image_is_refused_by_its_line(told: dict[str, Any]) -> None:
    assert "Dockerfile, line 3: `RUN apt-get install -y gcc` needs a real image" in told["own"][1]
    assert "example.org/server:1 brings a server of its own" in told["image"][1]


def test_the_command_lists_what_is_there(folder: Path, told: dict[str, Any]) -> None:
    rows = json.loads(tidemill("local", "list", "--folder", str(folder), "--output", "json").stdout)
    assert [(row["endpoint"], row["deployment"], row["state"]) for row in rows] == [
        ("sums", "blue", "running")
    ]
    assert rows[0]["scoring_uri"] == told["uri"]
    assert told["left"] == ["blue"]
