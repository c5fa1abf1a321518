"""Data into a job and out of it, by the unmodified SDK: assets, uploads, registered outputs, downloads."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, pathlib, sys
from azure.ai.ml import Input, MLClient, Output, command
from azure.ai.ml.entities import AmlCompute, Data, Environment, Model
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

def tree(folder):
    files = [p for p in (tmp / folder).rglob("*") if p.is_file()]
    return {str(p.relative_to(tmp / folder)): p.read_text() for p in files}

script = "cat $1; ls $2; echo weights > $3/w.txt; echo 0.9 > $4; echo x > outputs/x.txt"
for path, text in {"d.csv": "1,2", "folder/a.txt": "a", "src/run.sh": script}.items():
    (tmp / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp / path).write_text(text)

ml.compute.begin_create_or_update(AmlCompute(name="cpu", size="Standard_DS3_v2", max_instances=1)).result()
ml.data.create_or_update(Data(name="numbers", version="1", path=str(tmp / "d.csv"), type="uri_file"))
ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
def job(**inputs):
    return command(
        code=str(tmp / "src"), compute="cpu", environment="plain:1", inputs=inputs,
        command="bash run.sh ${{inputs.d}} ${{inputs.f}} ${{outputs.model}} ${{outputs.score}}",
        outputs={"model": Output(type="custom_model", name="made"), "score": Output(type="uri_file")})
done = ml.jobs.create_or_update(job(d=Input(type="uri_file", path="azureml:numbers@latest"),
                                    f=Input(type="uri_folder", path=str(tmp / "folder"))))
ml.jobs.stream(done.name)
out["status"] = ml.jobs.get(done.name).status
ml.jobs.download(done.name, download_path=str(tmp / "all"), all=True)
out["all"] = tree("all")
ml.jobs.download(done.name, download_path=str(tmp / "one"), output_name="score")
out["one"] = list(tree("one").values())
made = ml.models.get("made", label="latest")
out["registered"] = [made.version, made.job_name == done.name]
again = ml.models.create_or_update(Model(name="again", path=f"azureml://jobs/{done.name}/outputs/model"))
out["same"] = again.path == made.path
ml.models.download("again", again.version, download_path=str(tmp / "model"))
out["model"] = list(tree("model").values())
kept = ml.models.create_or_update(
    Model(name="kept", path=f"azureml://jobs/{done.name}/outputs/artifacts/paths/outputs/"))
out["kept"] = kept.path.split("/paths/")[1] == f"ExperimentRun/dcid.{done.name}/outputs/"
# A table: one of its files in its folder, one wherever the data asset `numbers` lies
numbers = ml.data.get("numbers", "1").path
(tmp / "table").mkdir()
(tmp / "table" / "in.csv").write_text("3,4")
(tmp / "table" / "MLTable").write_text(f"type: mltable\\npaths:\\n- file: ./in.csv\\n- file: {numbers}\\n")
table = ml.data.create_or_update(Data(name="table", version="1", path=str(tmp / "table"), type="mltable"))
read = ml.jobs.create_or_update(command(
    command="cd ${{inputs.t}}; cat MLTable; sed -n 's/^- file: //p' MLTable | tr -d '\\"' | xargs cat",
    compute="cpu", environment="plain:1", inputs={"t": Input(type="mltable", path="azureml:table@latest")}))
ml.jobs.stream(read.name)
out["table"] = ml.jobs.get(read.name).status
out["no_output"] = error_of(lambda: ml.models.create_or_update(
    Model(name="x", path=f"azureml://jobs/{done.name}/outputs/modle")))
out["no_input"] = error_of(lambda: ml.jobs.create_or_update(job(
    d=Input(type="uri_file", path="azureml://datastores/workspaceblobstore/paths/nope.csv"),
    f=Input(type="uri_folder", path=str(tmp / "folder")))))
ml.compute.begin_delete("cpu").wait()
out["left"] = [c.name for c in ml.compute.list()]
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


def test_inputs_reached_the_job(flows):
    out, printed = flows
    assert out["status"] == "Completed"
    assert "1,2" in printed
    assert "a.txt" in printed


def test_a_job_reads_all_that_a_table_names(flows):
    out, printed = flows
    assert out["table"] == "Completed"
    assert "3,41,2" in printed
    assert "./_elsewhere/0/d.csv" in printed


def test_everything_comes_back(flows):
    files = flows[0]["all"]
    assert files.pop("artifacts/user_logs/std_log.txt").startswith("1,2a.txt")
    assert files.pop("named-outputs/model/w.txt") == "weights\n"
    assert files.pop("artifacts/outputs/x.txt") == "x\n"
    assert list(files.values()) == ["0.9\n"]
    assert flows[0]["one"] == ["0.9\n"]


def test_an_output_is_a_model_by_name_and_by_address(flows):
    out, _ = flows
    assert out["registered"] == ["1", True]
    assert out["same"]
    assert out["model"] == ["weights\n"]
    assert out["kept"]


def test_what_is_not_there_is_refused_with_what_is(flows):
    out, _ = flows
    assert out["no_output"][0] == 404
    assert "Did you mean 'model'" in out["no_output"][2]
    assert out["no_input"][:2] == [404, "InputNotFound"]
    assert "azureml/" in out["no_input"][2]


def test_a_cluster_with_a_node_goes_when_the_node_is_closed(flows):
    assert flows[0]["left"] == []
