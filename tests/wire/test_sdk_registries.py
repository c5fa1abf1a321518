"""Registries by the unmodified SDK: create, share, use from jobs of another workspace, outlive the source."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, pathlib, sys
from azure.ai.ml import Input, MLClient, Output, command, dsl, load_component
from azure.ai.ml.entities import AmlCompute, CommandComponent, Data, Environment, Model
from azure.ai.ml.entities import Registry, RegistryRegionDetails, Workspace
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

SCOPE = (os.environ["AZURE_SUBSCRIPTION_ID"], os.environ["AZURE_RESOURCE_GROUP"])
ml = MLClient(DefaultAzureCredential(), *SCOPE, os.environ["AZUREML_WORKSPACE_NAME"])
tmp = pathlib.Path(sys.argv[1])
out = {}

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code if error.error else "", str(error)]

def write(path, text):
    (tmp / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp / path).write_text(text)
    return str(tmp / path)

def tree(folder):
    return {str(p.relative_to(tmp / folder)): p.read_text() for p in (tmp / folder).rglob("*") if p.is_file()}

# The registry itself
def registry_named(name):
    region = RegistryRegionDetails(location="westeurope")
    return Registry(name=name, location="westeurope", tags={"a": "b"}, replication_locations=[region])

made = ml.registries.begin_create(registry_named("shared")).result()
out["made"] = [made.name, made.location, made.tags]
out["got"] = ml.registries.get("shared").name
out["listed"] = [[r.name for r in ml.registries.list()],
                 [r.name for r in ml.registries.list(scope="subscription")]]
out["reserved"] = error_of(lambda: ml.registries.begin_create(registry_named("azureml")).result())

# From a workspace that goes away afterwards
ml.workspaces.begin_create(Workspace(name="source", location="westeurope")).result()
source = MLClient(DefaultAzureCredential(), *SCOPE, "source")
write("mdir/MLmodel", "flavors:\\n  python_function:\\n    loader_module: x\\n")
write("mdir/data/w", "weights")
source.models.create_or_update(Model(name="m", version="3", path=str(tmp / "mdir"), type="mlflow_model",
                                     tags={"k": "v"}, description="d"))
shared = source.models.share("m", "3", share_with_name="digits", share_with_version="1",
                             registry_name="shared")
out["shared"] = [shared.name, shared.version, shared.id, shared.type, shared.tags,
                 sorted(shared.flavors or {})]
source.environments.create_or_update(Environment(name="env", version="1", image="python:3.11"))
env = source.environments.share("env", "1", share_with_name="plain", share_with_version="1",
                                registry_name="shared")
out["shared_env"] = [env.name, env.version, env.id, env.image]
write("ddir/x.csv", "1,2")
source.data.create_or_update(Data(name="d", version="1", path=str(tmp / "ddir"), type="uri_folder"))
data = source.data.share("d", "1", share_with_name="numbers", share_with_version="1", registry_name="shared")
out["shared_data"] = [data.name, data.version, data.id, data.type]
ml.workspaces.begin_delete("source", delete_dependent_resources=False).result()

# A client of the registry
registry = MLClient(DefaultAzureCredential(), registry_name="shared")
out["models"] = [m.name for m in registry.models.list()]
out["versions"] = [m.version for m in registry.models.list(name="digits")]
out["latest"] = registry.models.get("digits", label="latest").version
registry.models.download("digits", "1", download_path=str(tmp / "dl"))
out["files"] = sorted(tree("dl").values())
own = registry.models.create_or_update(Model(name="own", version="1", path=write("m.pkl", "pickle"),
                                             type="custom_model"))
out["own"] = [own.id, own.type]
registry.models.download("own", "1", download_path=str(tmp / "dl2"))
out["own_files"] = sorted(tree("dl2").values())
registry.data.create_or_update(Data(name="more", version="1", path=str(tmp / "ddir"), type="uri_folder"))
registry.environments.create_or_update(Environment(name="own", version="1", image="python:3.12"))
registry.models.archive("own", "1")
registry.models.archive("digits", "1")
registry.models.restore("digits", "1")
out["archived"] = [m.version for m in registry.models.list(name="own")]
write("src/run.sh", "cat $1/data/w $2/x.csv; cp $2/x.csv $3/")
component = CommandComponent(
    name="look", version="1", code=str(tmp / "src"), environment="azureml://registries/shared/environments/plain/versions/1",
    command="bash run.sh ${{inputs.m}} ${{inputs.d}} ${{outputs.o}}",
    inputs={"m": Input(type="mlflow_model"), "d": Input(type="uri_folder")},
    outputs={"o": Output(type="uri_folder")})
registered = registry.components.create_or_update(component)
out["component"] = [registered.name, registered.version, registered.id]
out["components"] = [c.name for c in registry.components.list()]

# Jobs of another workspace
ml.compute.begin_create_or_update(AmlCompute(name="cpu", size="Standard_DS3_v2", max_instances=1)).result()
inputs = {"m": Input(type="mlflow_model", path="azureml://registries/shared/models/digits/versions/1"),
          "d": Input(type="uri_folder", path="azureml://registries/shared/data/numbers/versions/1")}
job = ml.jobs.create_or_update(command(
    command="cat ${{inputs.m}}/data/w ${{inputs.d}}/x.csv", compute="cpu", inputs=inputs,
    environment="azureml://registries/shared/environments/plain/versions/1"))
ml.jobs.stream(job.name)
out["job"] = ml.jobs.get(job.name).status
look = registry.components.get("look", version="1")

@dsl.pipeline(default_compute="cpu")
def flow(m, d):
    look(m=m, d=d)

run = ml.jobs.create_or_update(flow(**inputs), experiment_name="shared")
ml.jobs.stream(run.name)
out["pipeline"] = ml.jobs.get(run.name).status
out["missing"] = error_of(lambda: ml.jobs.create_or_update(command(
    command="true", compute="cpu", environment="azureml://registries/shared/environments/plain/versions/1",
    inputs={"m": Input(type="mlflow_model", path="azureml://registries/shared/models/digit/versions/1")})))
out["no_registry"] = error_of(lambda: ml.jobs.create_or_update(command(
    command="true", compute="cpu", environment="azureml://registries/shared/environments/plain/versions/1",
    inputs={"m": Input(type="mlflow_model", path="azureml://registries/shard/models/digits/versions/1")})))
ml.compute.begin_delete("cpu").wait()
ml.registries.begin_delete(name="shared").result()
out["left"] = [r.name for r in ml.registries.list()]
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def flows(server, sdk_python, tmp_path_factory) -> tuple[dict, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [sdk_python, "-c", FLOWS, str(tmp_path_factory.mktemp("sdk"))],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT")), done.stdout


def test_a_registry_is_made_found_and_removed(flows):
    out, _ = flows
    assert out["made"] == ["shared", "westeurope", {"a": "b"}]
    assert out["got"] == "shared"
    assert out["listed"] == [["shared"], ["shared"]]
    assert out["reserved"][0] == 400
    assert out["left"] == []


def test_assets_are_shared_and_outlive_their_workspace(flows):
    out, _ = flows
    base = "azureml://registries/shared"
    assert out["shared"][:5] == [
        "digits",
        "1",
        f"{base}/models/digits/versions/1",
        "mlflow_model",
        {"k": "v"},
    ]
    assert out["shared"][5] == ["python_function"]
    assert out["shared_env"] == ["plain", "1", f"{base}/environments/plain/versions/1", "python:3.11"]
    assert out["shared_data"] == ["numbers", "1", f"{base}/data/numbers/versions/1", "uri_folder"]
    assert out["files"] == ["flavors:\n  python_function:\n    loader_module: x\n", "weights"]


def test_a_client_of_the_registry(flows):
    out, _ = flows
    assert out["models"] == ["digits"]
    assert out["versions"] == ["1"]
    assert out["latest"] == "1"
    assert out["own"] == ["azureml://registries/shared/models/own/versions/1", "custom_model"]
    assert out["own_files"] == ["pickle"]
    assert out["archived"] == []
    assert out["component"] == ["look", "1", "azureml://registries/shared/components/look/versions/1"]
    assert out["components"] == ["look"]


def test_jobs_use_what_is_in_a_registry(flows):
    out, printed = flows
    assert out["job"] == "Completed"
    assert out["pipeline"] == "Completed"
    assert "weights1,2" in printed
    assert out["missing"][0] == 404
    assert "Did you mean 'digits'" in out["missing"][2]
    assert out["no_registry"][0] == 404
    assert "Did you mean 'shared'" in out["no_registry"][2]
