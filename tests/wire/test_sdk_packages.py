"""The unmodified azure-ai-ml client packages a model, gets an environment, and deploys it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from hostcan import need, no_network

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, pathlib
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (AzureMLBatchInferencingServer, AzureMLOnlineInferencingServer,
                                  BaseEnvironment, CodeConfiguration, Environment, ManagedOnlineDeployment,
                                  ManagedOnlineEndpoint, Model, ModelConfiguration, ModelPackage)
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
out = {"errors": {}}
pathlib.Path("code").mkdir()
pathlib.Path("code/score.py").write_text('''
import json, os
def init():
    global bias
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "bias.json")) as file:
        bias = json.load(file)
def run(raw):
    return {"sum": sum(json.loads(raw)["data"]) + bias, "unit": os.environ["UNIT"]}
''')
pathlib.Path("bias.json").write_text("1000")
pathlib.Path("request.json").write_text('{"data": [1, 2]}')
ml.models.create_or_update(Model(name="bias", version="1", path="bias.json"))
ml.environments.create_or_update(
    Environment(name="plain", version="1", image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"))

def package(target, server=None, **more):
    online = AzureMLOnlineInferencingServer(
        code_configuration=CodeConfiguration(code="code", scoring_script="score.py"))
    source = BaseEnvironment(type="EnvironmentAsset", resource_id="azureml:plain:1")
    return ml.models.package("bias", "1", ModelPackage(
        target_environment=target, inferencing_server=server or online, base_environment_source=source,
        environment_variables={"UNIT": "points"}, tags={"by": "sdk"}, **more))

made = package("bias_packed")
route = made.inference_config["scoringRoute"]
out["made"] = [type(made).__name__, made.name, made.version, made.image, [route["port"], route["path"]]]
out["tags"] = made.tags
named = package("azureml:bias_packed:7")
out["named"] = [named.name, named.version]
for name, target, more in (
    ("taken", "azureml:bias_packed:7", {}),
    ("batch", "bias_batch", {"server": AzureMLBatchInferencingServer(
        code_configuration=CodeConfiguration(code="code", scoring_script="score.py"))}),
    ("download", "bias_late", {"model_configuration": ModelConfiguration(mode="download")}),
):
    try:
        package(target, **more)
    except HttpResponseError as error:
        out["errors"][name] = str(error)
if os.environ["DEPLOY"]:
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="packed-sdk")).result()
    ml.online_deployments.begin_create_or_update(ManagedOnlineDeployment(
        name="blue", endpoint_name="packed-sdk", environment=made, instance_type="Standard_DS1_v2",
        instance_count=1)).result()
    out["asked"] = json.loads(ml.online_endpoints.invoke(
        "packed-sdk", request_file="request.json", deployment_name="blue"))
    ml.online_endpoints.begin_delete("packed-sdk").result()
print("\\n" + json.dumps(out, default=str))
"""


@pytest.fixture(scope="module")
def flows(server: Any, sdk_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    deploys = os.geteuid() == 0 and not no_network()
    done = subprocess.run(
        [sdk_python, "-c", FLOWS],
        env={**os.environ, **server.env, "DEPLOY": "1" if deploys else ""},
        cwd=tmp_path_factory.mktemp("flows"),
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_package_is_an_environment(flows: dict[str, Any]) -> None:
    kind, name, version, image, route = flows["made"]
    assert (kind, name, version, image) == ("Environment", "bias_packed", "1", "package://bias_packed:1")
    assert route == [5001, "/score"]
    assert flows["tags"] == {"by": "sdk"}
    assert flows["named"] == ["bias_packed", "7"]


def test_what_cannot_be_is_refused_as_the_operations_error(flows: dict[str, Any]) -> None:
    assert "bias_packed:7 exists" in flows["errors"]["taken"]
    assert "only packages for online scoring" in flows["errors"]["batch"]
    assert "brings its model along" in flows["errors"]["download"]


def test_the_environment_is_deployed_without_model_and_code(flows: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        need("needs root: an image's own server needs a network of its own")
    need(no_network())
    assert flows["asked"] == {"sum": 1003, "unit": "points"}
