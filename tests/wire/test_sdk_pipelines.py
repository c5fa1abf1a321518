"""Components and pipelines by the unmodified Azure SDK: dsl, YAML, nested ones, control flow, refusals."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.slow, pytest.mark.timeout(600)]

SETUP = """
import io, json, logging, os, pathlib, sys, time
os.environ["AZURE_ML_CLI_PRIVATE_FEATURES_ENABLED"] = "true"  # the SDK hides its control flow behind it
logging.disable(logging.WARNING)
from azure.ai.ml import Input, MLClient, Output, command, dsl, load_component, load_job
from azure.ai.ml.dsl._condition import condition
from azure.ai.ml.dsl._do_while import do_while
from azure.ai.ml.dsl._parallel_for import parallel_for
from azure.ai.ml.entities import Environment
from azure.ai.ml.exceptions import JobException, MlException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
tmp = pathlib.Path(sys.argv[1])
out = {}

def write(path, text):
    (tmp / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp / path).write_text(text)
    return str(tmp / path)

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code, error.error.message]
    except MlException as error:  # the SDK's own, of what the server said before it submitted
        return [0, "", error.message]

def ended(name, timeout=300):
    deadline = time.monotonic() + timeout
    while (job := ml.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < deadline, (name, job.status)
        time.sleep(0.1)
    return job

def children(name):
    return {child.display_name: child for child in ml.jobs.list(parent_job_name=name)}

def stream(name):
    text, sys.stdout = io.StringIO(), sys.stdout
    sys.stdout, old = text, sys.stdout
    try:
        ml.jobs.stream(name)
    except JobException as error:
        text.write("JobException: " + error.message)
    finally:
        sys.stdout = old
    return text.getvalue()

def files(folder):
    return {str(p.relative_to(tmp / folder)): p.read_text() for p in (tmp / folder).rglob("*") if p.is_file()}

ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
write("src/add.py", '''
import pathlib, sys
number, source, target = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
before = sum(int(p.read_text()) for p in pathlib.Path(source).rglob("n")) if source != "-" else 0
(target / "n").write_text(str(before + number))
print("sum", before + number)
''')
write("add.yml", '''
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: add
version: 1
display_name: Add
inputs:
  number: {type: integer, default: 1}
  before: {type: uri_folder, optional: true}
outputs:
  sum: {type: uri_folder}
code: ./src
environment: azureml:plain:1
command: >-
  $[[BEFORE=${{inputs.before}};]] python add.py ${{inputs.number}} "${BEFORE:--}" ${{outputs.sum}}
''')
add = load_component(str(tmp / "add.yml"))
"""

LIFE = """
# Components
made = ml.components.create_or_update(add)
out["made"] = [made.name, made.version, made.inputs["number"]["default"], made.type]
again = ml.components.create_or_update(load_component(str(tmp / "add.yml")))
out["again"] = again.version
out["default"] = ml.components.get("add").version
out["latest"] = ml.components.get("add", label="latest").version
other = load_component(str(tmp / "add.yml"))
other.version = "2"
other.description = "second"
out["second"] = ml.components.create_or_update(other, version="2").version
out["versions"] = sorted(c.version for c in ml.components.list(name="add"))
ml.components.archive("add", version="2")
out["archived"] = [c.version for c in ml.components.list(name="add")]
ml.components.restore("add", version="2")
out["names"] = [c.name for c in ml.components.list()]
out["missing"] = error_of(lambda: ml.components.get("add", version="7"))

# A pipeline by dsl, with a nested one
@dsl.pipeline()
def twice(number: int = 3, before: Input(type="uri_folder", optional=True) = None):
    one = add(number=number, before=before)
    two = add(number=number, before=one.outputs.sum)
    return {"sum": two.outputs.sum}

@dsl.pipeline(default_compute="local", experiment_name="pipes", description="sums")
def sums(start: int = 1):
    first = add(number=start)
    first.environment_variables = {"A": "1"}
    middle = twice(number=10, before=first.outputs.sum)
    last = add(number=100, before=middle.outputs.sum)
    return {"total": last.outputs.sum}

job = ml.jobs.create_or_update(sums(start=2))
text = stream(job.name)
out["stream"] = text
done = ended(job.name)
out["state"] = [done.status, done.experiment_name, done.type]
ml.jobs.download(job.name, download_path=str(tmp / "got"), output_name="total")
out["total"] = files("got")
found = children(job.name)
out["children"] = sorted(found)
out["child_states"] = sorted({c.status for c in found.values()})
inner = next(c for c in found.values() if c.display_name == "middle")
out["inner"] = sorted(children(inner.name))
out["listed"] = [j.name == job.name for j in ml.jobs.list()]
one = ml.jobs.get(found["first"].name)
given = one.inputs["number"]._data
out["child"] = [one.type, one.environment_variables.get("A"), str(given)]

# Again: nothing runs
again = ml.jobs.create_or_update(sums(start=2))
ended(again.name)
out["reused"] = [c.properties.get("azureml.isreused") for c in children(again.name).values()
                 if c.display_name != "middle"]
ml.jobs.download(again.name, download_path=str(tmp / "got2"), output_name="total")
out["total_again"] = files("got2")
forced = sums(start=2)
forced.settings.force_rerun = True
forced = ml.jobs.create_or_update(forced)
ended(forced.name)
out["forced"] = [c.properties.get("azureml.isreused") for c in children(forced.name).values()
                 if c.display_name != "middle"]

# YAML, inline and registered
write("p.yml", '''
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
experiment_name: yaml
inputs:
  start: 5
outputs:
  total: {mode: upload}
settings:
  default_compute: azureml:local
jobs:
  first:
    type: command
    component: azureml:add:1
    inputs: {number: "${{parent.inputs.start}}"}
  second:
    type: command
    component: ./add.yml
    inputs: {before: "${{parent.jobs.first.outputs.sum}}", number: 4}
    outputs: {sum: "${{parent.outputs.total}}"}
  third:
    type: command
    command: cat ${{inputs.d}}/n
    environment: azureml:plain:1
    inputs: {d: "${{parent.jobs.second.outputs.sum}}"}
''')
yaml_job = load_job(str(tmp / "p.yml"))
yaml_job.outputs["total"].name = "total"
yaml_job = ml.jobs.create_or_update(yaml_job)
out["yaml"] = ended(yaml_job.name).status
out["yaml_children"] = sorted(children(yaml_job.name))
ml.jobs.download(yaml_job.name, download_path=str(tmp / "got3"), output_name="total")
out["yaml_total"] = files("got3")
out["asset"] = [ml.data.get("total", version="1").type, ml.data.get("total", version="1").path]

# A step that fails
bad = command(name="bad", command="echo why >&2; exit 3", environment="plain:1")

@dsl.pipeline(default_compute="local")
def failing():
    step = bad()
    step.name = "bad"

job = ml.jobs.create_or_update(failing())
out["failed"] = stream(job.name)
out["failed_state"] = ml.jobs.get(job.name).status

# Cancel of the whole
@dsl.pipeline(default_compute="local")
def slow():
    sleep = command(name="sleeps", command="sleep 600", environment="plain:1")()

job = ml.jobs.create_or_update(slow())
deadline = time.monotonic() + 300
while not any(c.status == "Running" for c in ml.jobs.list(parent_job_name=job.name)):
    assert time.monotonic() < deadline
    time.sleep(0.1)
ml.jobs.begin_cancel(job.name).result()
out["canceled"] = [ended(job.name).status, [c.status for c in children(job.name).values()]]
ml.jobs.archive(job.name)
out["archived_job"] = job.name in [j.name for j in ml.jobs.list()]
print("RESULT" + json.dumps(out, default=str))
"""

CONTROL = """
write("flip.yml", '''
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: flip
version: 1
inputs:
  number: {type: integer, default: 1}
outputs:
  more: {type: boolean}
  next: {type: integer}
  sum: {type: uri_folder}
environment: azureml:plain:1
command: >-
  n=$((${{inputs.number}} + 1)); echo $n > ${{outputs.next}}; echo $n > ${{outputs.sum}}/n;
  if [ $n -lt 4 ]; then echo True > ${{outputs.more}}; else echo False > ${{outputs.more}}; fi
''')
flip = load_component(str(tmp / "flip.yml"))
add.name = None

@dsl.pipeline()
def each(number: int):
    step = add(number=number)
    return {"sum": step.outputs.sum}

@dsl.pipeline(default_compute="local")
def flow():
    begin = flip(number=0)
    yes, no = add(number=1), add(number=2)
    yes.name, no.name = "yes", "no"
    condition(condition=begin.outputs.more, true_block=yes, false_block=no)
    body = flip(number=0)
    body.name = "body"
    do_while(body=body, condition=body.outputs.more, mapping={body.outputs.next: body.inputs.number},
             max_iteration_count=10)
    item = each(number=1)
    item.name = "item"
    loop = parallel_for(body=item, items=[{"number": 10}, {"number": 20}, {"number": 30}])
    loop.name = "loop"
    last = add(number=0, before=loop.outputs.sum)
    last.name = "last"
    return {"total": last.outputs.sum}

job = ml.jobs.create_or_update(flow())
out["state"] = ended(job.name).status
out["stream"] = stream(job.name)
out["children"] = sorted((c.display_name, c.status) for c in ml.jobs.list(parent_job_name=job.name))
ml.jobs.download(job.name, download_path=str(tmp / "got"), output_name="total")
out["total"] = files("got")
print("RESULT" + json.dumps(out, default=str))
"""

SWEEP = """
from azure.ai.ml.sweep import Choice
write("measure.yml", '''
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: measure
version: 1
inputs:
  number: {type: integer}
  before: {type: uri_folder}
outputs:
  sum: {type: uri_folder}
code: ./log
environment: azureml:plain:1
command: python log.py ${{inputs.number}} ${{inputs.before}} ${{outputs.sum}}
''')
write("log/log.py", '''
import json, os, pathlib, sys, time, urllib.request
number, source, target = int(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
total = int((source / "n").read_text()) + number
(target / "n").write_text(str(total))
body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "total", "value": total,
        "timestamp": int(time.time() * 1000)}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"],
           "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=60).read()
''')
measure = load_component(str(tmp / "measure.yml"))

@dsl.pipeline(default_compute="local")
def tuned():
    begin = add(number=1)
    trial = measure(number=Choice([3, 9, 5]), before=begin.outputs.sum)
    best = trial.sweep(primary_metric="total", goal="maximize", sampling_algorithm="grid")
    best.set_limits(max_total_trials=3, max_concurrent_trials=2, timeout=600)
    best.name = "best"
    last = add(number=100, before=best.outputs.sum)
    return {"total": last.outputs.sum}

job = ml.jobs.create_or_update(tuned())
out["state"] = ended(job.name).status
out["stream"] = stream(job.name)
found = children(job.name)
out["children"] = {name: child.status for name, child in found.items()}
out["trials"] = len(list(ml.jobs.list(parent_job_name=found["best"].name)))
ml.jobs.download(job.name, download_path=str(tmp / "got"), output_name="total")
out["total"] = files("got")

def typo():
    begin = add(number=1)
    trial = measure(number=1, before=begin.outputs.sum)
    best = trial.sweep(primary_metric="total", goal="maximize", sampling_algorithm="grid",
                       search_space={"numbr": Choice([3])})
    best.set_limits(max_total_trials=3)
    best.name = "best"

out["typo"] = error_of(lambda: ml.jobs.create_or_update(dsl.pipeline(default_compute="local")(typo)()))
print("RESULT" + json.dumps(out, default=str))
"""

REFUSED = """
def pipeline(build):
    return lambda: ml.jobs.create_or_update(dsl.pipeline(default_compute="local")(build)())

def compute_missing():
    step = add(number=1)
    step.compute = "nowhere"

def type_mismatch():
    one = add(number=1)
    two = command(name="reads", command="cat ${{inputs.f}}", environment="plain:1",
                  inputs={"f": Input(type="uri_file")})(f=one.outputs.sum)

def environment_missing():
    step = command(name="x", command="true", environment="plain:9")()

out["compute"] = error_of(pipeline(compute_missing))
out["type"] = error_of(pipeline(type_mismatch))
out["environment"] = error_of(pipeline(environment_missing))
out["jobs"] = len(list(ml.jobs.list()))
print("RESULT" + json.dumps(out, default=str))
"""


def run_flows(script: str, server, python: str, folder) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [python, "-c", SETUP + script, str(folder)],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


@pytest.fixture(scope="module")
def life(server, sdk_python, tmp_path_factory) -> dict:
    return run_flows(LIFE, server, sdk_python, tmp_path_factory.mktemp("life"))


@pytest.fixture(scope="module")
def control(server, sdk_python, tmp_path_factory) -> dict:
    return run_flows(CONTROL, server, sdk_python, tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def tuned(server, sdk_python, tmp_path_factory) -> dict:
    return run_flows(SWEEP, server, sdk_python, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def refused(server, sdk_python, tmp_path_factory) -> dict:
    return run_flows(REFUSED, server, sdk_python, tmp_path_factory.mktemp("refused"))


def test_components_are_kept_by_version_and_found_by_label(life):
    assert life["made"] == ["add", "1", 1, "command"]
    assert life["again"] == "1"
    assert life["default"] == life["latest"] == "1"
    assert life["second"] == "2"
    assert life["versions"] == ["1", "2"]
    assert life["archived"] == ["1"]
    assert life["names"] == ["add"]
    assert life["missing"][:2] == [404, "ResourceNotFound"]


def test_a_pipeline_runs_its_steps_and_nested_ones_in_order(life):
    assert life["state"] == ["Completed", "pipes", "pipeline"]
    assert list(life["total"].values()) == ["122"]
    assert life["children"] == ["first", "last", "middle"]
    assert life["child_states"] == ["Completed"]
    assert life["inner"] == ["one", "two"]
    assert life["listed"] == [True]
    assert life["child"] == ["command", "1", "2"]
    for word in ("Step first is started", "Step first completed", "Step last completed", "Execution Summary"):
        assert word in life["stream"]


def test_a_second_run_reuses_every_step_unless_told_not_to(life):
    assert life["reused"] == ["true", "true"]
    assert life["total_again"] == life["total"]
    assert life["forced"] == [None, None]


def test_yaml_with_registered_file_and_inline_steps(life):
    assert life["yaml"] == "Completed"
    assert life["yaml_children"] == ["first", "second", "third"]
    assert list(life["yaml_total"].values()) == ["9"]
    assert life["asset"][0] == "uri_folder"


def test_a_failed_step_fails_the_pipeline_with_its_name(life):
    assert life["failed_state"] == "Failed"
    assert "1 step failed: bad" in life["failed"]


def test_cancel_ends_the_whole(life):
    assert life["canceled"] == ["Canceled", ["Canceled"]]
    assert life["archived_job"] is False


def test_control_flow_as_the_dsl_emits_it(control):
    assert control["state"] == "Completed", control["stream"]
    shown = dict(control["children"])
    assert shown["yes"] == "Completed"
    assert "no" not in shown
    assert [name for name in shown if name.startswith("body")] == ["body[1]", "body[2]", "body[3]", "body[4]"]
    assert [name for name in shown if name.startswith("item")] == ["item[0]", "item[1]", "item[2]"]
    assert list(control["total"].values()) == ["60"]


def test_a_sweep_is_a_step_whose_best_trial_goes_on(tuned):
    assert tuned["state"] == "Completed", tuned["stream"]
    assert tuned["children"] == {"begin": "Completed", "best": "Completed", "last": "Completed"}
    assert tuned["trials"] == 3
    assert list(tuned["total"].values()) == ["110"]
    assert "Did you mean 'number'?" in tuned["typo"][2], tuned["typo"]


def test_refusals_name_the_step_and_the_fix(refused):
    assert "Compute 'nowhere' was not found" in refused["compute"][2]
    assert "jobs.step.compute" in refused["compute"][2]
    assert refused["type"][:2] == [400, "InputTypeMismatch"]
    assert "Step 'two': input 'f' is of type uri_file and is bound to" in refused["type"][2]
    assert refused["environment"][0] == 404
    assert "Step 'step': Environment 'plain' version '9' was not found" in refused["environment"][2]
