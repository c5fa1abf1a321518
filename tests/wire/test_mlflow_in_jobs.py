"""azureml-mlflow inside a job: by the address that the job's variables name, and by the workspace's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from mlflow_clients import ROOT

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

TRAIN = """
import os, mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
name = os.environ["MODEL"]
if name == "by-azure":
    host = os.environ["AZUREML_SERVICE_ENDPOINT"].split("://")[1]
    mlflow.set_tracking_uri(f"azureml://{host}/mlflow/v1.0" + os.environ["AZUREML_WORKSPACE_SCOPE"])
X, y = load_iris(return_X_y=True)
fitted = LogisticRegression(max_iter=500).fit(X, y)
mlflow.log_metric("accuracy", fitted.score(X, y))
mlflow.sklearn.log_model(
    fitted, name="model", registered_model_name=name, serialization_format="cloudpickle"
)
print("SAME", (mlflow.sklearn.load_model(f"models:/{name}/1").predict(X) == fitted.predict(X)).all())
"""
CONDA = (
    "name: m\ndependencies: [python=3.11, pip, "
    "{pip: ['azureml-mlflow>=1.60,<2', 'scikit-learn>=1.5,<2', 'pandas>=2.2,<3']}]\n"
)
JOB = """
type: command
experiment_name: in-jobs
code: src
command: python train.py
environment: {{image: 'mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04', conda_file: conda.yml}}
environment_variables: {{MODEL: {model}}}
"""


@pytest.mark.parametrize("model", ["plain", "by-azure"])
def test_a_job_logs_and_registers_a_model(server, model: str, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(TRAIN)
    (tmp_path / "conda.yml").write_text(CONDA)
    (tmp_path / "job.yml").write_text(JOB.format(model=model))
    tidemill = [str(ROOT / ".venv" / "bin" / "tidemill"), "--home", str(server.home)]

    def run(*words: str) -> str:
        done = subprocess.run([*tidemill, *words], capture_output=True, text=True, timeout=570, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    log = run("job", "create", "-f", "job.yml", "-n", f"train-{model}", "--stream")
    assert "SAME True" in log
    shown = json.loads(run("model", "show", "-n", model, "-v", "1", "-o", "json"))
    assert (shown["type"], shown["job_name"]) == ("mlflow_model", f"train-{model}")
    assert "sklearn" in shown["flavors"]
    job = json.loads(run("job", "show", "-n", f"train-{model}", "-o", "json"))
    assert job["metrics"]["accuracy"] > 0.9
