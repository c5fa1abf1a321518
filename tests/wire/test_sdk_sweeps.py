"""Sweeps by the unmodified Azure SDK, over a real scikit-learn model: the best trial is the right one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sweep-digits"

SCRIPT = """
import io, json, os, pathlib, sys
from azure.ai.ml import MLClient, command, load_component, load_job
from azure.ai.ml.entities import AmlCompute
from azure.ai.ml.sweep import BanditPolicy, Choice, LogUniform
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
example, tmp = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
ml.compute.begin_create_or_update(
    AmlCompute(name="cpu-cluster", size="Standard_DS3_v2", max_instances=2)).result()
out = {}

def streamed(name):
    text = io.StringIO()
    before, sys.stdout = sys.stdout, text
    try:
        ml.jobs.stream(name)
    finally:
        sys.stdout = before
    return text.getvalue()

# The documented way: a command, its inputs replaced by distributions, .sweep()
step = command(
    code=str(example / "src"), environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
    command="python train.py --gamma ${{inputs.gamma}} --kernel ${{inputs.kernel}} && "
            "mkdir -p ${{outputs.found}} && echo ${{inputs.gamma}} > ${{outputs.found}}/gamma.txt",
    inputs={"gamma": 0.1, "kernel": "rbf"}, outputs={"found": {"type": "uri_folder"}})
sweep = step(gamma=Choice([1.0, 0.001, 0.00001]), kernel=Choice(["rbf"])).sweep(
    sampling_algorithm="grid", primary_metric="accuracy", goal="maximize", compute="cpu-cluster")
sweep.set_limits(max_total_trials=10, max_concurrent_trials=2, timeout=600)
sweep.experiment_name = "digits"
made = ml.jobs.create_or_update(sweep)
out["log"] = streamed(made.name)
ended = ml.jobs.get(made.name)
out["status"], out["best"], out["type"] = ended.status, ended.properties.get("best_child_run_id"), ended.type
out["space"] = {name: type(space).__name__ for name, space in ended.search_space.items()}
children = list(ml.jobs.list(parent_job_name=made.name))
out["children"] = {c.name: [c.status, c.tags.get("hyperparameters")] for c in children}
out["top"] = [j.name for j in ml.jobs.list()]
ml.jobs.download(made.name, download_path=str(tmp / "best"), output_name="found")
out["found"] = [p.read_text().strip() for p in (tmp / "best").rglob("gamma.txt")]

# The example as it is: bayesian, with early termination
job = load_job(example / "sweep.yml")
job.limits.max_total_trials = 4
found = ml.jobs.create_or_update(job)
out["example_log"] = streamed(found.name)
out["example"] = [ml.jobs.get(found.name).status, len(list(ml.jobs.list(parent_job_name=found.name)))]

# A component's .sweep(): of a file, and of one that is registered
def of_component(component):
    made = component(gamma=Choice([0.001, 0.00001]), kernel="rbf").sweep(
        sampling_algorithm="grid", primary_metric="accuracy", goal="maximize", compute="cpu-cluster")
    made.set_limits(max_total_trials=2, max_concurrent_trials=2)
    name = ml.jobs.create_or_update(made).name
    streamed(name)
    ended = ml.jobs.get(name)
    best = ml.jobs.get(ended.properties["best_child_run_id"])
    return [ended.status, ended.trial.command, best.tags["hyperparameters"]]

loaded = load_component(tmp / "train.yml")
out["of_file"] = of_component(loaded)
ml.components.create_or_update(load_component(tmp / "train.yml"))
out["of_registered"] = of_component(ml.components.get("train_digits", "1"))

# What is wrong is said before anything is there
def refused(**changes):
    again = step(gamma=changes.pop("space", LogUniform(-3, -1)), kernel=Choice(["rbf"])).sweep(
        sampling_algorithm=changes.pop("how", "random"), primary_metric="accuracy", goal="maximize",
        compute=changes.pop("compute", "cpu-cluster"))
    try:
        ml.jobs.create_or_update(again)
    except HttpResponseError as error:
        return [error.status_code, error.error.code, error.error.message]

out["grid"] = refused(how="grid")
out["compute"] = refused(compute="cpu-clutser")
print("RESULT" + json.dumps(out))
"""


COMPONENT = f"""\
type: command
name: train_digits
version: "1"
inputs:
  gamma: {{type: number, min: 0, max: 1}}
  kernel: {{type: string, default: rbf}}
outputs:
  found: {{type: uri_folder}}
code: {EXAMPLE / "src"}
command: >-
  python train.py --gamma ${{{{inputs.gamma}}}} --kernel ${{{{inputs.kernel}}}} &&
  echo ${{{{inputs.gamma}}}} > ${{{{outputs.found}}}}/gamma.txt
environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
"""
SWEEP = """\
type: sweep
trial: TRIAL
compute: azureml:cpu-cluster
search_space:
  gamma: {type: choice, values: [0.00001, 0.001]}
sampling_algorithm: grid
objective: {goal: maximize, primary_metric: accuracy}
limits: {max_total_trials: 2, max_concurrent_trials: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "train.yml").write_text(COMPONENT)
    return folder


@pytest.fixture(scope="module")
def found(server, sdk_python, folder) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [sdk_python, "-c", SCRIPT, str(EXAMPLE), str(folder)],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def test_the_best_of_a_grid_is_the_one_that_learns(found):
    assert found["status"] == "Completed"
    assert found["type"] == "sweep"
    assert found["space"] == {"gamma": "Choice", "kernel": "Choice"}
    states = {name: status for name, (status, _) in found["children"].items()}
    assert list(states.values()) == ["Completed"] * 3
    assert json.loads(found["children"][found["best"]][1]) == {"gamma": "0.001", "kernel": "rbf"}


def test_children_are_listed_below_their_sweep_only(found):
    assert len(found["children"]) == 3
    assert not set(found["children"]) & set(found["top"])


def test_the_stream_tells_trials_and_the_best(found):
    assert "Best trial" in found["log"]
    assert "accuracy 0.9" in found["log"]
    assert found["log"].count("is started: gamma=") == 3


def test_the_best_trials_output_is_downloaded(found):
    assert found["found"] == ["0.001"]


def test_the_example_file_runs_as_it_is(found):
    assert found["example"] == ["Completed", 4]
    assert "Best trial" in found["example_log"]


def test_a_components_sweep_runs_its_command(found):
    for how in ("of_file", "of_registered"):
        status, command, best = found[how]
        assert status == "Completed"
        assert "--gamma ${{search_space.gamma}} --kernel ${{inputs.kernel}}" in command
        assert json.loads(best) == {"gamma": "0.001"}


def tidemill(server, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=570, cwd=folder)


@pytest.mark.parametrize("trial", ["./train.yml", "azureml:train_digits:1"])
def test_a_sweeps_file_may_name_a_component_as_its_trial(server, folder, found, trial):
    (folder / "sweep.yml").write_text(SWEEP.replace("TRIAL", trial))
    done = tidemill(server, folder, "job", "create", "--file", "sweep.yml", "--stream")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gamma=0.001. 2 trials completed." in done.stdout + done.stderr
    assert "output found" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "  gamma:",
            "  gama:",
            "sweep.yml:5:3: Sweep 's': the search space has 'gama', but its trial has no input",
        ),
        (
            "limits:",
            "inputs: {kernle: x}\nlimits:",
            "sweep.yml:8:18: Sweep 's': its trial has no input 'kernle'. Did",
        ),
        (
            "limits:",
            "inputs: {gamma: 1}\nlimits:",
            "sweep.yml:8:17: Sweep 's': 'gamma' is set by the search space",
        ),
        ("./train.yml", "./trian.yml", "sweep.yml:2:8: trial: there is no trian.yml"),
        ("./train.yml", "azureml:train_digits:9", "'9' was not found"),
    ],
)
def test_what_does_not_fit_a_trials_component_is_told_with_its_place(server, folder, found, old, new, said):
    (folder / "sweep.yml").write_text(SWEEP.replace("TRIAL", "./train.yml").replace(old, new))
    done = tidemill(server, folder, "job", "create", "--file", "sweep.yml", "--name", "s")
    assert done.returncode != 0
    assert said in done.stderr


def test_what_cannot_be_is_refused_with_the_fix(found):
    assert found["grid"][:2] == [400, "BadRequest"]
    assert "has endlessly many values" in found["grid"][2]
    assert found["compute"][0] == 404
    assert "Did you mean 'cpu-cluster'" in found["compute"][2]
