"""Parallel steps by the unmodified Azure SDK: parallel_run_function in a dsl pipeline, components,
YAML of the shape of Microsoft's examples; and the same YAML by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.slow, pytest.mark.timeout(600)]

# As in azureml-examples, cli/jobs/parallel/3a_mnist_batch_identification, with an environment of its own.
STEP = """
    type: parallel
    inputs:
      job_data_path:
        type: uri_folder
        path: ./images
        mode: ro_mount
      score_model:
        type: uri_folder
        path: ./model
        mode: download
    outputs:
      job_output_file:
        type: uri_file
        path: azureml://datastores/${{default_datastore}}/paths/${{name}}/aggregated_returns.csv
        mode: rw_mount
    mini_batch_size: "5"
    resources:
      instance_count: 2
    mini_batch_error_threshold: 5
    logging_level: "DEBUG"
    input_data: ${{inputs.job_data_path}}
    max_concurrency_per_instance: 2
    retry_settings:
      max_retries: 2
      timeout: 60
    environment_variables:
      "AZUREML_PARALLEL_EXAMPLE": "3a_yaml"
    task:
      type: run_function
      code: ./script
      entry_script: digit_identification.py
      environment: azureml:plain:1
      program_arguments: >-
        --model ${{inputs.score_model}}
        --task_overhead_timeout 1200
      append_row_to: ${{outputs.job_output_file}}
"""
PIPELINE = f"""
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
display_name: digits
settings: {{default_compute: azureml:cpu-cluster}}
jobs:
  predict_digits:
{STEP}
"""
ENTRY = """
import argparse, os
def init():
    global model
    parser = argparse.ArgumentParser(allow_abbrev=False, description="ParallelRunStep Agent")
    parser.add_argument("--model", type=str, default=0)
    args, _ = parser.parse_known_args()
    assert os.environ["AZUREML_PARALLEL_EXAMPLE"] == "3a_yaml"
    model = open(os.path.join(args.model, "m")).read()
def run(mini_batch):
    print(f"run method start: {__file__}, run({mini_batch})")
    return ["{}: {}{}".format(os.path.basename(image), open(image).read(), model) for image in mini_batch]
"""
KEYED = """
def run(mini_batch, mini_batch_context):
    key = mini_batch_context.partition_key_value
    return [key["shop"] + "/" + key["brand"] + " has " + str(len(mini_batch))] * len(mini_batch)
"""
COUNT = 23
EXAMPLE = Path(__file__).parents[2] / "examples/parallel-words/pipeline.yml"
SETUP = """
import json, logging, os, pathlib, sys, time
logging.disable(logging.WARNING)
from azure.ai.ml import Input, MLClient, Output, dsl, load_component, load_job
from azure.ai.ml.entities import AmlCompute, Environment
from azure.ai.ml.parallel import RunFunction, parallel_run_function
from azure.core.exceptions import HttpResponseError
from azure.ai.ml.exceptions import MlException
from azure.identity import DefaultAzureCredential
ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
tmp = pathlib.Path(sys.argv[1])
os.chdir(tmp)
out = {}

def ended(job, timeout=300):
    deadline = time.monotonic() + timeout
    while (now := ml.jobs.get(job.name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < deadline, (job.name, now.status)
        time.sleep(0.1)
    return now

def child(job):
    return list(ml.jobs.list(parent_job_name=job.name))[0]

def rows(job, name):
    ml.jobs.download(job.name, output_name=name, download_path=str(tmp / "got" / job.name))
    return sorted(p.read_text() for p in (tmp / "got" / job.name).rglob("*") if p.is_file())

ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))

cluster = AmlCompute(name="cpu-cluster", size="Standard_DS1_v2", min_instances=0, max_instances=2)
ml.compute.begin_create_or_update(cluster).result()

# YAML
made = ml.jobs.create_or_update(load_job("pipeline.yml"))
out["yaml"] = ended(made).status
found = child(made)
out["child"] = [ml.jobs.get(found.name).type, found.display_name]
out["rows"] = rows(found, "job_output_file")
again = ml.jobs.create_or_update(load_job("pipeline.yml"))
out["again"] = ended(again).status
out["reused"] = child(again).properties.get("azureml.isreused")

# A function of the SDK, in a dsl pipeline
score = parallel_run_function(
    name="score", display_name="Score",
    inputs={"data": Input(type="uri_folder"), "model": Input(type="uri_folder")},
    outputs={"rows": Output(type="uri_file")}, input_data="${{inputs.data}}", instance_count=1,
    max_concurrency_per_instance=2, mini_batch_size="4", mini_batch_error_threshold=1,
    retry_settings={"max_retries": 1, "timeout": 60}, logging_level="INFO",
    environment_variables={"AZUREML_PARALLEL_EXAMPLE": "3a_yaml"},
    task=RunFunction(code="./script", entry_script="digit_identification.py", environment="azureml:plain:1",
                     program_arguments="--model ${{inputs.model}}", append_row_to="${{outputs.rows}}"))

@dsl.pipeline(default_compute="cpu-cluster")
def flow(data, model):
    step = score(data=data, model=model)
    step.mini_batch_size = 3
    return {"all": step.outputs.rows}

images, model = (Input(type="uri_folder", path=path) for path in ("./images", "./model"))
job = ml.jobs.create_or_update(flow(images, model))
out["dsl"] = ended(job).status
out["dsl_rows"] = rows(job, "all")

# A component of its own, keyed
component = ml.components.create_or_update(load_component("keyed.yml"))
out["component"] = [component.name, component.version, component.type, component.mini_batch_size]
out["same"] = ml.components.create_or_update(load_component("keyed.yml")).version
keyed = ml.components.get("keyed", version="1")

@dsl.pipeline(default_compute="cpu-cluster")
def parts(data):
    return {"all": keyed(data=data).outputs.rows}

job = ml.jobs.create_or_update(parts(Input(type="mltable", path="./table", mode="direct")))
out["keyed"] = ended(job).status
out["keyed_rows"] = rows(job, "all")

# Refusals
def refused(**changes):
    bad = load_job("pipeline.yml")
    for name, value in changes.items():
        setattr(bad.jobs["predict_digits"], name, value)
    try:
        ml.jobs.create_or_update(bad)
    except HttpResponseError as error:
        return error.error.message
    except MlException as error:
        return error.message

out["no_input"] = refused(input_data="${{inputs.nothing}}")
out["threshold"] = refused(mini_batch_error_threshold=-7)
print("RESULT" + json.dumps(out))
"""
KEYED_YML = """
$schema: https://azuremlschemas.azureedge.net/latest/parallelComponent.schema.json
type: parallel
name: keyed
version: 1
inputs:
  data: {type: mltable}
outputs:
  rows: {type: uri_file}
input_data: ${{inputs.data}}
mini_batch_size: "10kb"
partition_keys: [shop, brand]
error_threshold: -1
task:
  type: run_function
  code: ./keyed
  entry_script: keyed.py
  environment: azureml:plain:1
  append_row_to: ${{outputs.rows}}
"""
MLTABLE = """
type: mltable
paths:
  - pattern: ./**/*.csv
transformations:
  - extract_columns_from_partition_format:
      partition_format: "{shop}/{brand}/{name}.{extension}"
"""
EXPECTED = "".join(f"d{number:02}: {number}!\n" for number in range(COUNT))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("parallel")

    def write(path: str, text: str) -> None:
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_text(text)

    for number in range(COUNT):
        write(f"images/d{number:02}", str(number))
    for shop, brand, files in (("a", "x", 2), ("a", "y", 1), ("b", "x", 3)):
        for number in range(files):
            write(f"table/{shop}/{brand}/{number}.csv", "1\n")
    write("table/MLTable", MLTABLE)
    write("model/m", "!")
    write("script/digit_identification.py", ENTRY)
    write("keyed/keyed.py", KEYED)
    write("pipeline.yml", PIPELINE)
    write("keyed.yml", KEYED_YML)
    return made


@pytest.fixture(scope="module")
def found(server, sdk_python, folder) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [sdk_python, "-c", SETUP, str(folder)],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def test_yaml_of_the_examples_runs_as_it_is(found):
    assert found["yaml"] == "Completed"
    assert found["child"] == ["command", "predict_digits"]
    assert found["rows"] == [EXPECTED]


def test_a_second_run_is_reused(found):
    assert (found["again"], found["reused"]) == ("Completed", "true")


def test_a_function_in_a_dsl_pipeline(found):
    assert found["dsl"] == "Completed"
    assert found["dsl_rows"] == [EXPECTED]


def test_a_component_is_registered_once_and_cut_by_its_keys(found):
    assert found["component"] == ["keyed", "1", "parallel", 10240]
    assert found["same"] == "1"
    assert found["keyed"] == "Completed"
    assert found["keyed_rows"] == ["a/x has 2\n" * 2 + "a/y has 1\n" + "b/x has 3\n" * 3]


def test_refusals_name_the_step_and_the_fix(found):
    assert "'nothing'" in found["no_input"]
    assert "Step 'predict_digits': mini_batch_error_threshold is -7" in found["threshold"]


def test_the_command_line_takes_the_same_file(server, folder, found):
    tidemill = str(Path(sys.executable).with_name("tidemill"))

    def run(*words: str) -> str:
        done = subprocess.run(
            [tidemill, *words],
            cwd=folder,
            env={**os.environ, **server.env, "TIDEMILL_HOME": str(server.home)},
            capture_output=True,
            text=True,
            timeout=570,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("job", "create", "-f", str(EXAMPLE), "--name", "words", "--stream")
    (words,) = json.loads(run("job", "list", "--parent", "words", "--output", "json"))
    run("job", "download", "--name", words["name"], "--output-name", "rows", "--download-path", "words")
    (rows,) = [path.read_text() for path in (folder / "words").rglob("*") if path.is_file()]
    assert rows.splitlines()[:3] == ["high.txt,5", "low.txt,2", "mill.txt,3"]
    assert "predict_digits" in run("validate", "-f", "pipeline.yml")
    assert "parallel" in run("job", "graph", "-f", "pipeline.yml")
    run("component", "create", "-f", "keyed.yml", "--version", "2")
    made = run(
        "job", "create", "-f", "pipeline.yml", "--set", "name=by_cli", "--set", "settings.force_rerun=true"
    )
    assert "by_cli" in made
    run("job", "stream", "--name", "by_cli")
    (child,) = json.loads(run("job", "list", "--parent", "by_cli", "--output", "json"))
    assert "5 of 5 mini-batches are done; 23 items" in run("job", "show", "--name", child["name"])
