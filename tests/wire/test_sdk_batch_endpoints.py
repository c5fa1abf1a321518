"""Batch endpoints by the unmodified azure-ai-ml client: create, deploy, invoke with folders, files, assets
and literals, follow, download, list jobs, delete; a pipeline component; and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

# As in azureml-examples, cli/endpoints/batch/deploy-models/mnist-classifier, with a model that adds.
SCRIPT = """
import json, os
from typing import Any, List

def init():
    global bias
    root = os.environ["AZUREML_MODEL_DIR"]
    with open(os.path.join(root, "model", "bias.json")) as file:
        bias = json.load(file)["bias"] + int(os.environ["MORE"])

def run(mini_batch: List[str]) -> List[Any]:
    print(f"run with {len(mini_batch)} files")
    rows = []
    for path in mini_batch:
        with open(path) as file:
            text = file.read()
        if text == "bad":
            continue
        rows.append(f"{os.path.basename(path)},{int(text) + bias}")
        seen = "seen-" + os.path.basename(path)
        with open(os.path.join(os.environ["AZUREML_BI_OUTPUT_PATH"], seen), "w") as out:
            out.write("1")
    return rows
"""
FLOWS = """
import json, os, pathlib, sys, time
from azure.ai.ml import Input, MLClient, Output, command, dsl
from azure.ai.ml.entities import (AmlCompute, BatchEndpoint, BatchRetrySettings, CodeConfiguration, Data,
    Environment, Model, ModelBatchDeployment, ModelBatchDeploymentSettings, PipelineComponentBatchDeployment)
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
E, D, out = ml.batch_endpoints, ml.batch_deployments, {}
COUNT = 7
pathlib.Path("code").mkdir()
pathlib.Path("code/batch_driver.py").write_text(SCRIPT)
pathlib.Path("model").mkdir()
pathlib.Path("model/bias.json").write_text('{"bias": 1000}')
pathlib.Path("data").mkdir()
for number in range(COUNT):
    pathlib.Path(f"data/n{number}.txt").write_text(str(number))

def ended(job, timeout=300):
    deadline = time.monotonic() + timeout
    while (now := ml.jobs.get(job.name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < deadline, (job.name, now.status)
        time.sleep(0.1)
    return now

def files(job, output="score"):
    target = pathlib.Path("got") / job.name
    ml.jobs.download(job.name, output_name=output, download_path=str(target))
    found = [path for path in target.rglob("*") if path.is_file() and not path.name.startswith("seen-")]
    return {path.name: path.read_text() for path in found}

def refused(what):
    try:
        what()
    except HttpResponseError as error:
        return error.message
    except Exception as error:
        return str(error)

ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
ml.compute.begin_create_or_update(
    AmlCompute(name="cpu-cluster", size="Standard_DS1_v2", min_instances=0, max_instances=2)).result()
made = E.begin_create_or_update(BatchEndpoint(name="adder", description="adds", tags={"a": "b"})).result()
out["endpoint"] = [made.name, made.auth_mode, made.provisioning_state, made.scoring_uri, made.defaults]

def deployment(name="first", **changes):
    given = dict(
        name=name, endpoint_name="adder", compute="cpu-cluster",
        model=Model(path="model", type="custom_model"),
        code_configuration=CodeConfiguration(code="code", scoring_script="batch_driver.py"),
        environment="plain:1",
        settings=ModelBatchDeploymentSettings(
            max_concurrency_per_instance=2, mini_batch_size=2, instance_count=1, output_action="append_row",
            output_file_name="sums.csv", retry_settings=BatchRetrySettings(max_retries=1, timeout=30),
            logging_level="info", environment_variables={"MORE": "1"}))
    return ModelBatchDeployment(**{**given, **changes})

out["no_default"] = refused(lambda: E.invoke("adder", input=Input(type="uri_folder", path="data")))
made = D.begin_create_or_update(deployment()).result()
state, count = made.provisioning_state, made.instance_count
out["deployment"] = [state, made.mini_batch_size, made.output_file_name, count]
endpoint = E.get("adder")
endpoint.defaults = {"deployment_name": "first"}
E.begin_create_or_update(endpoint).result()
out["default"] = E.get("adder").defaults.deployment_name

# A folder of this machine, followed; its scores by the job and by its step, as Azure's examples have it
job = E.invoke("adder", inputs={"numbers": Input(type="uri_folder", path="data")}, experiment_name="sums")
out["invoked"] = [job.status, ml.jobs.get(job.name).experiment_name, ml.jobs.get(job.name).type]
ml.jobs.stream(job.name)
out["folder"] = [ended(job).status, files(job)]
step = list(ml.jobs.list(parent_job_name=job.name))[0]
out["step"] = [step.display_name, step.status, files(step)]

# A data asset, by version; another file's name and size of mini-batches
data = ml.data.create_or_update(Data(name="numbers", path="data", type="uri_folder"))
asset = E.invoke("adder", inputs={"numbers": Input(type="uri_folder", path=data.id)},
                 params_override=[{"mini_batch_size": 7}, {"output_file_name": "other.csv"}])
# One file, into a place that the caller names
place = "azureml://datastores/workspaceblobstore/paths/results/mine.csv"
one = E.invoke("adder", deployment_name="first", input=Input(type="uri_file", path="data/n3.txt"))
named = E.invoke("adder", inputs={"x": Input(type="uri_folder", path=data.id)},
                 outputs={"score": Output(type="uri_file", path=place)})
out["asset"] = [ended(asset).status, files(asset)]
out["one"] = [ended(one).status, files(one)]
out["named"] = [ended(named).status, files(named)]
out["place"] = ml.jobs.get(named.name).outputs["score"].path

# Many failures are no failure, unless it says so
pathlib.Path("data/n0.txt").write_text("bad")
strict = deployment("strict", settings=ModelBatchDeploymentSettings(
    mini_batch_size=3, error_threshold=0, environment_variables={"MORE": "0"}))
D.begin_create_or_update(strict).result()
failed = E.invoke("adder", deployment_name="strict", input=Input(type="uri_folder", path="data"))
out["strict"] = ended(failed).status

out["jobs"] = [job.name for job in E.list_jobs("adder")] == [
    job.name for job in (failed, named, one, asset, job)]
out["of_deployment"] = [job.name for job in D.list_jobs("adder", name="strict")] == [failed.name]

# A pipeline component
@dsl.pipeline(name="summing", default_compute="cpu-cluster")
def summing(numbers: Input(type="uri_folder"), more: int):
    step = command(
        command="cd ${{inputs.numbers}}; (cat *.txt | wc -c; echo ${{inputs.more}}) > ${{outputs.sums}}/n",
        environment="plain:1", inputs={"numbers": Input(type="uri_folder"), "more": Input(type="integer")},
        outputs={"sums": Output(type="uri_folder")})(numbers=numbers, more=more)
    return {"sums": step.outputs.sums}

component = ml.components.create_or_update(summing().component)
made = D.begin_create_or_update(PipelineComponentBatchDeployment(
    name="flow", endpoint_name="adder", component=component,
    settings={"default_compute": "cpu-cluster"})).result()
out["pipeline"] = [made.name, made.component.rsplit("/", 3)[1:]]
literal = Input(type="integer", default=41)
job = E.invoke("adder", deployment_name="flow", inputs={
    "numbers": Input(type="uri_folder", path=data.id), "more": literal})
out["flow"] = [ended(job).status, files(job, "sums")]
out["flow_missing"] = refused(lambda: E.invoke("adder", deployment_name="flow", inputs={"more": literal}))

# What is refused
out["two"] = refused(lambda: E.invoke("adder", deployment_name="first", inputs={
    "a": Input(type="uri_folder", path=data.id), "b": Input(type="uri_folder", path=data.id)}))
out["nothing_there"] = refused(lambda: E.invoke("adder", deployment_name="first", inputs={
    "a": Input(type="uri_folder", path="azureml://datastores/workspaceblobstore/paths/nowhere/")}))
out["no_compute"] = refused(lambda: D.begin_create_or_update(deployment(compute="cpu-clutser")).result())
out["delete_default"] = refused(lambda: D.begin_delete("first", "adder").result())
D.begin_delete("strict", "adder").result()
out["left"] = [(d.name, d.provisioning_state) for d in D.list("adder")]
E.begin_delete("adder").result()
out["endpoints"] = [e.name for e in E.list()]
out["kept"] = ml.jobs.get(failed.name).status
print("\\nRESULT" + json.dumps(out, default=str))
"""
SUMS = "".join(f"n{number}.txt,{number + 1001}\n" for number in range(7))


@pytest.fixture(scope="module")
def flows(server: Any, sdk_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sdk_python, "-c", f"SCRIPT = {SCRIPT!r}\n{FLOWS}"],
        env={
            **os.environ,
            **server.env,
            "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
            "AZUREML_RUN_POLLING_INTERVAL_MAX": "1",
        },
        cwd=tmp_path_factory.mktemp("flows"),
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(line.removeprefix("RESULT"))


def test_an_endpoint_and_its_default_deployment(server: Any, flows: dict[str, Any]) -> None:
    name, mode, state, uri, defaults = flows["endpoint"]
    assert (name, mode, state, defaults) == ("adder", "aad_token", "Succeeded", None)
    assert uri.endswith(f"{server.workspace_id}/batchEndpoints/adder/jobs")
    assert "has no default deployment" in flows["no_default"]
    assert flows["deployment"] == ["Succeeded", 2, "sums.csv", 1]
    assert flows["default"] == "first"


def test_a_folder_is_scored_and_the_scores_are_right(flows: dict[str, Any]) -> None:
    assert flows["invoked"] == ["Running", "sums", "pipeline"]
    assert flows["folder"] == ["Completed", {"sums.csv": SUMS}]
    assert flows["step"] == ["batchscoring", "Completed", {"sums.csv": SUMS}]


def test_assets_files_and_places_that_the_caller_names(flows: dict[str, Any]) -> None:
    assert flows["asset"] == ["Completed", {"other.csv": SUMS}]
    assert flows["one"] == ["Completed", {"sums.csv": "n3.txt,1004\n"}]
    assert flows["named"] == ["Completed", {"mine.csv": SUMS}]
    assert flows["place"].endswith("/paths/results/mine.csv")


def test_the_error_threshold_holds_and_jobs_are_listed(flows: dict[str, Any]) -> None:
    assert flows["strict"] == "Failed"
    assert flows["jobs"] is True
    assert flows["of_deployment"] is True


def test_a_pipeline_component_with_data_and_literals(flows: dict[str, Any]) -> None:
    assert flows["pipeline"] == ["flow", ["summing", "versions", "1"]]
    assert flows["flow"] == ["Completed", {"n": "7\n41\n"}]
    assert "'numbers'" in flows["flow_missing"]


def test_what_is_refused_says_why(flows: dict[str, Any]) -> None:
    assert "scores one input with a model; the call has 2: a, b" in flows["two"]
    assert "nothing is stored at" in flows["nothing_there"]
    assert "Did you mean 'cpu-cluster'?" in flows["no_compute"]
    assert "is the default of batch endpoint 'adder'" in flows["delete_default"]


def test_deleted_nothing_is_left_but_its_jobs(flows: dict[str, Any]) -> None:
    assert flows["left"] == [["first", "Succeeded"], ["flow", "Succeeded"]]
    assert flows["endpoints"] == []
    assert flows["kept"] == "Failed"
