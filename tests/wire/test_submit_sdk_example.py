"""The example that users of the Azure SDK start from, as it is, and a curated environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train-digits" / "submit_sdk.py"
EXAMPLES = Path(__file__).resolve().parents[3] / "shared/data/azureml_examples"

CURATED = """
import os
from azure.ai.ml import MLClient, command
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
for environment in ("azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
                    "AzureML-sklearn-1.5@latest"):
    job = ml.jobs.create_or_update(command(
        command="python -c 'import sklearn; print(\\"sklearn\\", sklearn.__version__)'",
        environment=environment, compute="local"))
    ml.jobs.stream(job.name)
    print("status:", ml.jobs.get(job.name).status)
"""


MICROSOFTS = """
import os, pathlib, shutil, sys
from azure.ai.ml import Input, MLClient, load_job
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
examples, tmp = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

def submit(job):
    made = ml.jobs.create_or_update(job)
    ml.jobs.stream(made.name)
    return ml.jobs.get(made.name)

for name in ("hello-world", "hello-pipeline"):
    print("RESULT", name, submit(load_job(examples / "jobs/basics" / (name + ".yml"))).status)
# The script and the data of this one are elsewhere: these stand in for them, and its 20 trials are two
shutil.copy(examples / "jobs/single-step/lightgbm/iris/job-sweep.yml", tmp)
(tmp / "iris.csv").write_text("1,2")
sweep = load_job(tmp / "job-sweep.yml")
sweep.inputs["iris_csv"] = Input(type="uri_file", path=str(tmp / "iris.csv"))
sweep.trial.environment = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
sweep.limits.max_total_trials = 2
ended = submit(sweep)
print("RESULT", "job-sweep", ended.status, "best_child_run_id" in ended.properties)
"""
IRIS = """\
import argparse, mlflow
given = argparse.ArgumentParser()
for name in ("--iris-csv", "--learning-rate", "--boosting"):
    given.add_argument(name)
found = given.parse_args()
assert open(found.iris_csv).read() == "1,2" and found.boosting in ("gbdt", "dart")
mlflow.log_metric("test-multi_logloss", float(found.learning_rate))
"""


def run(server, python: str, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [python, *arguments],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=440,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def example(server, sdk_python) -> list[str]:
    """What it prints the first time, and again at once."""
    return [run(server, sdk_python, str(EXAMPLE)) for _ in range(2)]


def test_the_script_knows_nothing_of_us():
    imports = [line for line in EXAMPLE.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "tidemill" in line.lower()]


def test_the_example_trains_and_registers(example):
    first, again = example
    for printed in example:
        assert "workspace: main" in printed
        assert "trained on 1347 images: accuracy 0.99" in printed
        assert "artifacts/user_logs/std_log.txt" in printed
        assert "named-outputs/model/model.pkl" in printed
        assert printed.count("model saved") == 1
    assert "registered: digits-sdk version 1" in first
    assert "registered: digits-sdk version 2" in again


def test_curated_environments_by_both_names(server, sdk_python):
    printed = run(server, sdk_python, "-c", CURATED)
    assert printed.count("sklearn 1.5.") == 2
    assert printed.count("Completed") + printed.count("COMPLETED") == 2


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="Microsoft's examples are not on this machine")
def test_microsofts_own_job_files_run(server, sdk_python, example, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(IRIS)
    printed = run(server, sdk_python, "-c", MICROSOFTS, str(EXAMPLES), str(tmp_path))
    results = [line.split()[1:] for line in printed.splitlines() if line.startswith("RESULT")]
    assert [(name, status.rsplit(".")[-1].lower()) for name, status, *_ in results] == [
        ("hello-world", "completed"),
        ("hello-pipeline", "completed"),
        ("job-sweep", "completed"),
    ]
    assert results[-1][2] == "True"
