"""Files of XGBoost, LightGBM and ONNX without a script, by the real packages."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scoringserver import Scoring, scoring

PYTHON = Path(__file__).resolve().parents[2] / ".venv-azmlserver" / "bin" / "python"
ROW = [5.1, 3.5, 1.4, 0.2]
OTHER = [6.3, 2.8, 5.1, 1.5]

MAKE = """
import sys, json, numpy
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
x, y = load_iris(return_X_y=True)
rows = numpy.asarray(json.loads(sys.argv[1]))
def xgboost():
    import xgboost
    model = xgboost.train({"objective": "reg:squarederror", "nthread": 1}, xgboost.DMatrix(x, y), 5)
    model.save_model("model.ubj")
    return model.predict(xgboost.DMatrix(rows)).tolist()
def lightgbm():
    import lightgbm
    data = lightgbm.Dataset(x, y, feature_name=["a", "b", "c", "d"])
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 5)
    model.save_model("model.txt")
    return model.predict(rows).tolist()
def onnx():
    from skl2onnx import to_onnx
    model = LinearRegression().fit(x, y)
    open("model.onnx", "wb").write(to_onnx(model, x[:1].astype("float32")).SerializeToString())
    return model.predict(rows).tolist()
def onnx_classes():
    from skl2onnx import to_onnx
    model = LogisticRegression(max_iter=500).fit(x, y)
    options = {id(model): {"zipmap": False}}
    made = to_onnx(model, x[:1].astype("float32"), options=options)
    open("model.onnx", "wb").write(made.SerializeToString())
    return model.predict(rows).tolist()
print(json.dumps(globals()[sys.argv[2]]()))
"""


def make(folder: Path, kind: str) -> list[float]:
    """-> what the model itself says of ROW and OTHER."""
    if not PYTHON.exists():
        message = f"XGBoost, LightGBM and ONNX are not installed at {PYTHON}; run `make azmlserver`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    argv = [str(PYTHON), "-W", "ignore", "-c", MAKE, json.dumps([ROW, OTHER]), kind]
    made = folder / "made"
    made.mkdir()
    done = subprocess.run(argv, cwd=made, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


def served(folder: Path) -> Any:
    variables = {"AZUREML_MODEL_DIR": str(folder / "made"), "OMP_NUM_THREADS": "1"}
    return scoring(folder / "run", python=str(PYTHON), **variables)


def check(server: Scoring, expected: list[float]) -> None:
    reply = server.score({"input_data": [ROW, OTHER]})
    assert reply.status == 200, reply.body
    found = [value[0] if isinstance(value, list) else value for value in reply.json]
    assert found == pytest.approx(expected, rel=1e-4)
    assert (
        server.score({"input_data": [ROW[:3]]}).json["message"]
        == "The rows have 3 columns; the model takes 4."
    )
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": ROW + OTHER}
    infer = server.ask("POST", "/v2/models/model/infer", {"inputs": [tensor]}).json
    assert infer["outputs"][0]["data"] == pytest.approx(expected, rel=1e-4)
    assert "requests that wait are joined" in server.log


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "onnx"])
def test_a_model_file_is_served(tmp_path: Path, kind: str) -> None:
    expected = make(tmp_path, kind)
    with served(tmp_path) as server:
        check(server, expected)


def test_columns_of_a_booster_are_found_by_name(tmp_path: Path) -> None:
    expected = make(tmp_path, "lightgbm")
    with served(tmp_path) as server:
        turned = {"columns": ["d", "c", "b", "a"], "data": [ROW[::-1], OTHER[::-1]]}
        assert server.score({"dataframe_split": turned}).json == pytest.approx(expected)


def test_several_outputs_of_onnx_are_named(tmp_path: Path) -> None:
    expected = make(tmp_path, "onnx_classes")
    with served(tmp_path) as server:
        found = server.score({"input_data": [ROW, OTHER]}).json
        assert found["label"] == expected
        assert [len(row) for row in found["probabilities"]] == [3, 3]
