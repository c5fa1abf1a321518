"""The unmodified Azure SDK against codes, environments, data, models and datastores, with real uploads."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, pathlib, sys
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AccountKeyConfiguration, AzureBlobDatastore, BuildContext
from azure.ai.ml.entities import Data, Environment, Model
from azure.ai.ml.entities._assets import Code
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
tmp = pathlib.Path(sys.argv[1])
out = {}

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code, error.error.message]

def write(path, text):
    (tmp / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp / path).write_text(text)
    return str(tmp / path)

def tree(folder):
    return {str(p.relative_to(tmp / folder)): p.read_text() for p in (tmp / folder).rglob("*") if p.is_file()}

def versions(operations, name, **more):
    return [item.version for item in operations.list(name=name, **more)]

def names(operations, **more):
    return [item.name for item in operations.list(**more)]

# Environments
conda = write("conda.yml", "name: x\\ndependencies:\\n- python=3.11\\n")
env = ml.environments.create_or_update(
    Environment(name="env1", version="1", image="python:3.11", conda_file=conda, tags={"a": "b"}))
out["env"] = {"id": env.id, "conda": env.conda_file, "tags": env.tags, "by": env.creation_context.created_by,
              "at": str(env.creation_context.created_at)}
again = ml.environments.create_or_update(
    Environment(name="env1", version="1", image="python:3.11", conda_file=conda, tags={"c": "d"},
                description="e"))
out["env_tagged"] = {"tags": again.tags, "description": again.description}
out["env_conflict"] = error_of(lambda: ml.environments.create_or_update(
    Environment(name="env1", version="1", image="python:3.12", conda_file=conda)))
out["env_auto"] = [ml.environments.create_or_update(Environment(name="env2", image=image)).version
                   for image in ("python:3.11", "python:3.12")]
write("ctx/Dockerfile", "FROM python:3.11")
context = BuildContext(path=str(tmp / "ctx"))
built = ml.environments.create_or_update(Environment(name="envb", version="1", build=context))
out["env_build"] = built.build.path
out["env_latest"] = ml.environments.get("env2", label="latest").version
out["env_names"] = sorted(names(ml.environments))
ml.environments.archive("env2", "1")
out["env_archived"] = [versions(ml.environments, "env2"),
                       versions(ml.environments, "env2", list_view_type="ALL")]
ml.environments.restore("env2", "1")
out["env_restored"] = sorted(versions(ml.environments, "env2"))
ml.environments.archive("env1")
out["env_hidden"] = sorted(names(ml.environments))
ml.environments.restore("env1")
out["env_shown"] = sorted(names(ml.environments))
out["env_missing"] = error_of(lambda: ml.environments.get("env1", "9"))
curated = ml.environments.get("AzureML-sklearn-1.5", label="latest")
out["env_curated"] = [curated.name, "scikit-learn" in json.dumps(curated.conda_file)]

# Models
model = ml.models.create_or_update(
    Model(name="m1", version="1", path=write("m.pkl", "model"), type="custom_model"))
out["model"] = {"path": model.path, "id": model.id}
write("mdir/MLmodel", "flavors: {}")
write("mdir/data/w", "weights")
out["model_auto"] = [
    ml.models.create_or_update(Model(name="m2", path=str(tmp / "mdir"), type="mlflow_model")).version
    for _ in range(2)]
out["model_latest"] = ml.models.get("m2", label="latest").version
out["model_lists"] = [sorted(names(ml.models)), versions(ml.models, "m2")]
ml.models.download("m1", "1", download_path=str(tmp / "dl1"))
ml.models.download("m2", "1", download_path=str(tmp / "dl2"))
out["model_files"] = [tree("dl1"), tree("dl2")]
ml.models.archive("m1", "1")
out["model_archived"] = versions(ml.models, "m1")
ml.models.restore("m1", "1")
out["model_restored"] = versions(ml.models, "m1")
ml.models.archive("m2")
out["model_hidden"] = sorted(names(ml.models))
ml.models.restore("m2")
for kind in ("mlflow_model", "triton_model"):
    ml.models.create_or_update(Model(name=kind, version="1", path=str(tmp / "mdir"), type=kind,
                                     tags={"a": "b"}, stage="Production", properties={"p": "q"},
                                     description="d"))
    kept = ml.models.get(kind, "1")
    out[kind] = [kept.type, kept.tags, kept.stage, kept.properties, kept.description]
ml.models.archive("triton_model", "1")
ml.models.restore("triton_model", "1")
out["triton_again"] = ml.models.get("triton_model", "1").type
ml.models.archive("mlflow_model")
ml.models.archive("triton_model")
out["next"] = [
    ml.models.create_or_update(Model(name="m2", path=str(tmp / "mdir"), type="mlflow_model")).version]
# The SDK's own caller of this one gives its body a name that it does not have.
dataplane = ml.jobs._model_dataplane_operations
paths = dataplane._operation.batch_get_resolved_uris(
    ml.subscription_id, ml.resource_group_name, ml.workspace_name,
    body={"values": [ml.models.get("m1", "1").id]})
out["resolved"] = [value.path for value in paths.values_property.values()]
out["model_nojob"] = error_of(lambda: ml.models.create_or_update(
    Model(name="m3", path="azureml://jobs/job1/outputs/artifacts/paths/model/", type="custom_model")))

# Data
d1 = ml.data.create_or_update(Data(name="d1", version="1", path=write("d.csv", "1,2"), type="uri_file"))
write("ddir/x.csv", "1")
d2 = ml.data.create_or_update(Data(name="d2", path=str(tmp / "ddir"), type="uri_folder"))
write("mlt/MLTable", "paths:\\n  - file: ./a.csv\\n"
      "transformations:\\n  - read_delimited:\\n      delimiter: ','\\n")
write("mlt/a.csv", "1,2")
d3 = ml.data.create_or_update(Data(name="d3", version="1", path=str(tmp / "mlt"), type="mltable"))
d4 = ml.data.create_or_update(Data(name="d4", version="1", type="uri_file",
                                   path="azureml://datastores/workspaceblobstore/paths/x/y.csv"))
out["data"] = [[d.version, d.type, d.path] for d in (d1, d2, d3, d4)]
out["data_latest"] = ml.data.get("d1", label="latest").version
out["data_lists"] = [sorted(names(ml.data)), versions(ml.data, "d1")]
ml.data.archive("d1", "1")
out["data_archived"] = versions(ml.data, "d1")
ml.data.restore("d1", "1")
out["data_conflict"] = error_of(lambda: ml.data.create_or_update(
    Data(name="d4", version="1", type="uri_file",
         path="azureml://datastores/workspaceblobstore/paths/x/z.csv")))

# Datastores
out["stores"] = sorted(names(ml.datastores))
out["default"] = ml.datastores.get_default().name
ours = ml.datastores.get("workspaceblobstore", include_secrets=True)
out["ours"] = [ours.account_name, ours.container_name, len(ours.credentials.account_key)]
ml.datastores.create_or_update(AzureBlobDatastore(
    name="ds1", account_name="acct", container_name="c",
    credentials=AccountKeyConfiguration(account_key="a2V5")))
out["theirs"] = ml.datastores.get("ds1", include_secrets=True).credentials.account_key
for n in range(31):
    ml.datastores.create_or_update(
        AzureBlobDatastore(name=f"many{n}", account_name="acct", container_name="c"))
out["many"] = len(list(ml.datastores.list()))
ml.datastores.delete("ds1")
out["gone"] = error_of(lambda: ml.datastores.get("ds1"))
out["kept"] = error_of(lambda: ml.datastores.delete("workspaceblobstore"))

# Code
write("src/train.py", "print(1)")
write("src/lib/util.py", "x = 1")
code = ml._code.create_or_update(Code(name="code1", version="1", path=str(tmp / "src")))
same = ml._code.create_or_update(Code(name="code2", version="1", path=str(tmp / "src")))
write("src/train.py", "print(2)")
other = ml._code.create_or_update(Code(name="code3", version="1", path=str(tmp / "src")))
out["codes"] = [c.id.split("/workspaces/main/")[1] for c in (code, same, other)]
out["containers"] = [c.path.split("/")[4] for c in (code, other)]
ml._code.download("code1", "1", str(tmp / "cdl"))
out["code_files"] = tree("cdl")
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def flows(server, sdk_python, tmp_path_factory) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    # The client looks for MLTable's schema on the internet; it does without, and tests stay on the loopback.
    clean |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}
    done = subprocess.run(
        [sdk_python, "-c", FLOWS, str(tmp_path_factory.mktemp("sdk"))],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def test_environments(flows, server):
    assert flows["env"]["id"] == f"{server.workspace_id}/environments/env1/versions/1"
    assert flows["env"]["conda"] == {"name": "x", "dependencies": ["python=3.11"]}
    assert flows["env"]["by"]
    assert flows["env"]["at"] != "None"
    assert flows["env_tagged"] == {"tags": {"c": "d"}, "description": "e"}
    assert flows["env_conflict"][:2] == [409, "VersionImmutable"]
    assert "Environment 'env1' version '1'" in flows["env_conflict"][2]
    assert flows["env_auto"] == ["1", "2"]
    assert flows["env_latest"] == "2"
    assert flows["env_names"] == ["env1", "env2", "envb"]


def test_a_build_context_is_found_again(flows):
    path = flows["env_build"]
    assert "/azureml-blobstore/LocalUpload/" in path
    assert ".blob.core.windows.net/" in path


def test_environments_are_archived_and_restored(flows):
    assert flows["env_archived"] == [["2"], ["2", "1"]]
    assert flows["env_restored"] == ["1", "2"]
    assert flows["env_hidden"] == ["env2", "envb"]
    assert flows["env_shown"] == ["env1", "env2", "envb"]


def test_what_is_missing_is_named(flows):
    assert flows["env_missing"][:2] == [404, "ResourceNotFound"]
    assert "There are: 1" in flows["env_missing"][2]
    assert flows["model_nojob"][0] == 404
    assert "Job 'job1'" in flows["model_nojob"][2]


def test_curated_environments_answer(flows):
    assert flows["env_curated"] == ["AzureML-sklearn-1.5", True]


def test_models(flows):
    assert flows["model"]["path"].startswith("azureml://subscriptions/")
    assert flows["model"]["path"].endswith("/m.pkl")
    assert flows["model_auto"] == ["1", "2"]
    assert flows["model_latest"] == "2"
    assert flows["model_hidden"] == ["m1"]
    for kind in ("mlflow_model", "triton_model"):
        assert flows[kind] == [kind, {"a": "b"}, "Production", {"p": "q"}, "d"]
    assert flows["triton_again"] == "triton_model"
    assert flows["next"] == ["3"]
    assert flows["resolved"] == [flows["model"]["path"]]
    assert flows["model_lists"] == [["m1", "m2"], ["2", "1"]]
    assert (flows["model_archived"], flows["model_restored"]) == ([], ["1"])


def test_what_was_uploaded_comes_back(flows):
    assert list(flows["model_files"][0].values()) == ["model"]
    assert sorted(flows["model_files"][1].values()) == ["flavors: {}", "weights"]
    assert flows["code_files"] == {"train.py": "print(1)", "lib/util.py": "x = 1"}


def test_data(flows):
    d1, d2, d3, d4 = flows["data"]
    assert [d[:2] for d in (d1, d2, d3, d4)] == [
        ["1", "uri_file"],
        ["1", "uri_folder"],
        ["1", "mltable"],
        ["1", "uri_file"],
    ]
    assert d1[2].endswith("/d.csv")
    assert d2[2].endswith("/ddir/")
    assert d3[2].endswith("/mlt/")
    assert d4[2].endswith("/datastores/workspaceblobstore/paths/x/y.csv")
    assert flows["data_latest"] == "1"
    assert flows["data_lists"] == [["d1", "d2", "d3", "d4"], ["1"]]
    assert flows["data_archived"] == []
    assert flows["data_conflict"][:2] == [409, "VersionImmutable"]


def test_datastores(flows, server):
    assert flows["stores"] == [
        "workspaceartifactstore",
        "workspaceblobstore",
        "workspacefilestore",
        "workspaceworkingdirectory",
    ]
    assert flows["default"] == "workspaceblobstore"
    account, container, key_length = flows["ours"]
    assert account.startswith(server.state["addresses"]["data"].split("://")[1] + "/tm")
    assert (container, key_length) == ("azureml-blobstore", 88)
    assert flows["theirs"] == "a2V5"
    assert flows["many"] == 4 + 1 + 31
    assert flows["gone"][:2] == [404, "ResourceNotFound"]
    assert flows["kept"][:2] == [409, "DatastoreIsDefault"]


def test_code_of_the_same_content_is_the_same_code(flows):
    assert flows["codes"] == ["codes/code1/versions/1", "codes/code1/versions/1", "codes/code3/versions/1"]
    assert len(set(flows["containers"])) == 2
