"""The unmodified azure-ai-ml client against endpoints that answer: create, deploy, invoke, traffic, logs,
update, a failing init(), delete."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, pathlib
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (CodeConfiguration, Environment, ManagedOnlineDeployment,
                                  ManagedOnlineEndpoint, Model)
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
E, D, out = ml.online_endpoints, ml.online_deployments, {}
SCRIPT = '''
import json, os
def init():
    global bias
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "bias.json")) as file:
        bias = json.load(file)["bias"]
    print("bias is", bias)
def run(raw):
    return {"sum": sum(json.loads(raw)["data"]) + bias, "version": VERSION}
'''
for number in (1, 2):
    pathlib.Path(f"code{number}").mkdir()
    pathlib.Path(f"code{number}/score.py").write_text(SCRIPT.replace("VERSION", str(number)))
pathlib.Path("broken").mkdir()
pathlib.Path("broken/score.py").write_text("def init():\\n    raise ValueError('no such weights')\\n"
                                           "def run(raw):\\n    return 1\\n")
pathlib.Path("model").mkdir()
pathlib.Path("model/bias.json").write_text('{"bias": 1000}')
pathlib.Path("request.json").write_text('{"data": [1, 2]}')

def deployment(name, code):
    return ManagedOnlineDeployment(
        name=name, endpoint_name="sums-sdk", model=Model(path="model"), instance_type="Standard_DS1_v2",
        code_configuration=CodeConfiguration(code=code, scoring_script="score.py"), instance_count=1,
        environment=Environment(image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"))

def ask(**more):
    return json.loads(E.invoke("sums-sdk", request_file="request.json", **more))

E.begin_create_or_update(ManagedOnlineEndpoint(name="sums-sdk", auth_mode="key")).result()
made = D.begin_create_or_update(deployment("blue", "code1")).result()
out["blue"] = [made.provisioning_state, made.instance_count]
endpoint = E.get("sums-sdk")
endpoint.traffic = {"blue": 100}
E.begin_create_or_update(endpoint).result()
out["asked"] = ask()
out["logs"] = D.get_logs("blue", "sums-sdk", lines=50)
D.begin_create_or_update(deployment("green", "code2")).result()
out["named"] = ask(deployment_name="green")
endpoint = E.get("sums-sdk")
endpoint.traffic = {"blue": 0, "green": 100}
E.begin_create_or_update(endpoint).result()
out["moved"] = ask()
try:
    D.begin_create_or_update(deployment("green", "broken")).result()
except HttpResponseError as error:
    out["failed"] = str(error)
out["still"] = ask()
out["state"] = D.get("green", "sums-sdk").provisioning_state
D.begin_create_or_update(deployment("green", "code1")).result()
out["updated"] = ask()
D.begin_delete("blue", "sums-sdk").result()
out["left"] = [d.name for d in D.list("sums-sdk")]
E.begin_delete("sums-sdk").result()
out["endpoints"] = [e.name for e in E.list()]
print("\\n" + json.dumps(out, default=str))
"""


@pytest.fixture(scope="module")
def flows(server: Any, sdk_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sdk_python, "-c", FLOWS],
        env={**os.environ, **server.env},
        cwd=tmp_path_factory.mktemp("flows"),
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_created_deployed_and_asked(flows: dict[str, Any]):
    assert flows["blue"] == ["Succeeded", 1]
    assert flows["asked"] == {"sum": 1003, "version": 1}
    assert "bias is 1000" in flows["logs"]


def test_traffic_moves_and_a_deployment_can_be_named(flows: dict[str, Any]):
    assert flows["named"]["version"] == 2
    assert flows["moved"]["version"] == 2


def test_a_failing_init_is_the_operations_error_and_the_older_one_answers(flows: dict[str, Any]):
    assert "init() failed: ValueError: no such weights" in flows["failed"]
    assert "raise ValueError('no such weights')" in flows["failed"]
    assert flows["still"]["version"] == 2
    assert flows["state"] == "Failed"
    assert flows["updated"]["version"] == 1


def test_deleted_nothing_is_left(flows: dict[str, Any]):
    assert flows["left"] == ["green"]
    assert flows["endpoints"] == []
