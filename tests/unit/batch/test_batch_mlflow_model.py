"""The script of deployments without one: what it makes of predictions, and of a model that MLflow saved."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "src/tidemill/serving/batch/scripts/mlflow_model.py"
SCORE = """
import importlib.util, json, sys, mlflow.sklearn, pandas
from sklearn.linear_model import LinearRegression
frame = pandas.DataFrame({"a": [0.0, 1.0, 2.0], "b": [1.0, 0.0, 1.0]})
model = LinearRegression().fit(frame, frame["a"] * 2 + frame["b"])
mlflow.sklearn.save_model(model, sys.argv[3], serialization_format="cloudpickle")
spec = importlib.util.spec_from_file_location("script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
script.init()
print(json.dumps(script.run([sys.argv[2]])))
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlflow_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Array(list[Any]):
    """As numpy's: a list that says what it is in Python's own values."""

    def tolist(self) -> list[Any]:
        return list(self)


def test_a_line_for_each_row(script: ModuleType) -> None:
    lines = script.lines_of([1, "a,b", Array([0.5, 0.25])], "x.csv")
    assert list(csv.reader(lines)) == [
        ["0", "1", "x.csv"],
        ["1", "a,b", "x.csv"],
        ["2", "[0.5, 0.25]", "x.csv"],
    ]


def test_other_files_are_refused_by_name(script: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"notes\.txt: the model is given files of \.csv"):
        script.run(["in/notes.txt"])


def test_the_model_is_looked_for_one_folder_down(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(FileNotFoundError, match="has no file MLmodel"):
        script.folder_of(str(tmp_path))
    (tmp_path / "m/MLmodel").write_text("")
    assert script.folder_of(str(tmp_path)) == str(tmp_path / "m")


def test_a_model_of_mlflow_scores_csv(tmp_path: Path) -> None:
    python = os.environ.get("TIDEMILL_MLFLOW3_PYTHON") or str(ROOT / ".venv-mlflow3" / "bin" / "python")
    if not os.path.exists(python):
        message = f"no MLflow at {python}: run `make mlflow`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    environ = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AZUREML_MODEL_DIR": str(tmp_path / "models"),
    }

    (tmp_path / "x.csv").write_text("a,b\n1,1\n2,0\n")
    words = (str(SCRIPT), str(tmp_path / "x.csv"), str(tmp_path / "models" / "line"))
    done = subprocess.run(
        [python, "-W", "ignore", "-c", SCORE, *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader(json.loads(done.stdout.splitlines()[-1])))
    assert [(row, round(float(value), 6), name) for row, value, name in rows] == [
        ("0", 3.0, "x.csv"),
        ("1", 4.0, "x.csv"),
    ]
