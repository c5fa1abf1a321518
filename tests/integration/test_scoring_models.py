"""Models without a script: real scikit-learn, and models that MLflow logged, in MLflow's environments."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from scoringserver import Scoring, scoring

ROOT = Path(__file__).resolve().parents[2]
ROW = [5.1, 3.5, 1.4, 0.2]
COLUMNS = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
NAMED = dict(zip(COLUMNS, ROW, strict=True))

MAKE = """
import sys, joblib, mlflow, pandas
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

out = sys.argv[1]
x, y = load_iris(return_X_y=True, as_frame=True)
joblib.dump(LogisticRegression(max_iter=500).fit(x.to_numpy(), y), out + "/plain.joblib")
model = LogisticRegression(max_iter=500).fit(x, y)
joblib.dump(model, out + "/named.pkl")
signature = mlflow.models.infer_signature(x, model.predict(x))
options = {"serialization_format": "cloudpickle"}  # a newer default needs a package more
mlflow.sklearn.save_model(model, out + "/flow", signature=signature, **options)

class Own(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if model_input["x"][0] < 0:
            raise ValueError("the user's own words")
        return [float(x) * (params or {}).get("k", 1.0) for x in model_input["x"]]

frame = pandas.DataFrame({"x": [1.0]})
signature = mlflow.models.infer_signature(frame, [1.0], params={"k": 2.0})
mlflow.pyfunc.save_model(out + "/own", python_model=Own(), signature=signature)
"""


def python_of(client: str) -> str:
    found = ROOT / f".venv-{client}" / "bin" / "python"
    if not found.exists():
        message = f"{client} is not installed at {found}; run `make mlflow`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return str(found)


@pytest.fixture(scope="module")
def python() -> str:
    return python_of("mlflow3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """-> what makes the models with a client, once."""

    @cache
    def make(client: str) -> Path:
        folder = tmp_path_factory.mktemp("models")
        done = subprocess.run(
            [python_of(client), "-W", "ignore", "-c", MAKE, str(folder)],
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
            capture_output=True,
            timeout=100,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr.decode()
        return folder

    return make


@pytest.fixture(scope="module")
def models(made: Callable[[str], Path]) -> Path:
    return made("mlflow3")


@pytest.fixture(
    scope="module",
    params=[("mlflow3", "plain.joblib"), ("mlflow3", "named.pkl"), ("mlflow3", "flow"), ("mlflow2", "flow")],
    ids="-".join,
)
def server(
    request: pytest.FixtureRequest,
    made: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scoring]:
    client, model = request.param
    path = str(made(client) / model)
    folder = tmp_path_factory.mktemp("serving")
    with scoring(folder, python=python_of(client), TIDEMILL_SERVING_MODEL=path) as running:
        yield running


@pytest.mark.parametrize(
    "body",
    [
        {"input_data": [ROW]},
        {"input_data": {"columns": COLUMNS, "index": [0], "data": [ROW]}},
        {"dataframe_split": {"columns": COLUMNS, "data": [ROW]}},
        {"dataframe_records": [NAMED]},
        {"inputs": {name: [value] for name, value in NAMED.items()}},
        {"data": [ROW]},
        [ROW],
    ],
)
def test_every_form_of_a_body_is_the_same_row(server: Scoring, body: Any) -> None:
    reply = server.score(body)
    assert (reply.status, reply.json) == (200, [0]), reply.body


def test_columns_are_put_in_the_model_s_order(server: Scoring) -> None:
    if "plain" in server.log:
        pytest.skip("this model was trained without names")
    reply = server.score({"dataframe_split": {"columns": COLUMNS[::-1], "data": [ROW[::-1]]}})
    assert reply.json == [0]


@pytest.mark.parametrize(
    "body",
    [
        {"data": [ROW[:3]]},
        {"data": [ROW, ROW[:2]]},
        {"data": ROW},
        {"data": []},
        b'{"data": [[NaN, 1, 2, 3]]}',
        b'{"data": [[1, 2,',
        b"\xff\xfe",
        {"x": 1},
        {"data": [ROW], "inputs": [ROW]},
        {"input_data": [["a", "b", "c", "d"]]},
        {"inputs": "/etc/hostname"},
        3,
    ],
)
def test_a_bad_body_is_answered_with_what_is_wrong(server: Scoring, body: Any) -> None:
    reply = server.score(body)
    assert reply.status == 400, reply.body
    assert len(reply.json["message"]) > 20
    assert server.score([ROW]).json == [0]


def test_a_body_that_is_not_called_json_is_refused(server: Scoring) -> None:
    assert server.score([ROW], headers={"Content-Type": "text/csv"}).status == 415


def infer(server: Scoring, inputs: list[dict[str, Any]], **more: Any) -> Any:
    name = server.ask("GET", "/v2/models/x").json["error"].rsplit("'", 2)[1]
    return server.ask("POST", f"/v2/models/{name}/infer", {"inputs": inputs, **more})


def test_the_open_inference_protocol(server: Scoring) -> None:
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP64", "data": ROW * 2}
    reply = infer(server, [tensor], id="7")
    assert reply.status == 200, reply.body
    assert reply.json["id"] == "7"
    assert reply.json["outputs"] == [{"name": "predict", "shape": [2], "datatype": "INT64", "data": [0, 0]}]
    columns = [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in NAMED.items()]
    assert infer(server, columns).json["outputs"][0]["data"] == [0]
    name = reply.json["model_name"]
    assert server.ask("GET", f"/v2/models/{name}").json["versions"] == ["1"]
    assert server.ask("GET", f"/v2/models/{name}/versions/1/ready").json["ready"] is True
    assert server.ask("GET", "/v2").json["name"] == "tidemill"
    assert server.ask("GET", f"/v2/models/{name}/versions/2").status == 404


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "input", "shape": [2, 4], "datatype": "FP64", "data": ROW},
        {"name": "input", "shape": [1, 4], "datatype": "FP65", "data": ROW},
        {"name": "input", "shape": "1x4", "datatype": "FP64", "data": ROW},
        {"name": "input", "shape": [1, 3], "datatype": "FP64", "data": ROW[:3]},
        {"shape": [1, 4], "datatype": "FP64", "data": ROW},
    ],
)
def test_a_bad_tensor_is_an_error_of_that_protocol(server: Scoring, tensor: dict[str, Any]) -> None:
    reply = infer(server, [tensor])
    assert reply.status == 400
    assert len(reply.json["error"]) > 20


def test_many_callers_get_their_own_answers_and_a_bad_row_fails_alone(server: Scoring) -> None:
    """Rows of three classes and bad ones at once: whatever is joined, each caller gets what is his."""
    other = [[6.3, 2.8, 5.1, 1.5], [5.9, 3.0, 5.1, 1.8], [4.9, 3.1, 1.5, 0.1], [7.0, 3.2, 4.7, 1.4]]
    expected = {json.dumps([row]): server.score([row]).json for row in other}
    bad = b"[[NaN, 1, 2, 3]]"
    wrong: list[Any] = []

    def caller(number: int) -> None:
        connection = server.connect()
        for turn in range(30):
            sent = bad if (number + turn) % 7 == 0 else json.dumps([other[(number * 3 + turn) % 4]]).encode()
            connection.request("POST", "/score", sent, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            said = json.loads(reply.read())
            good = reply.status == 400 if sent is bad else said == expected[sent.decode()]
            if not good:
                wrong.append((sent, reply.status, said))
        connection.close()

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(12)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not wrong
    assert "a batch of" in server.log, "no requests were joined"


def test_a_model_of_the_users_own_takes_params_and_is_not_joined(
    python: str, models: Path, tmp_path: Path
) -> None:
    with scoring(tmp_path, python=python, AZUREML_MODEL_DIR=str(models / "own")) as server:
        assert "requests are not joined" in server.log
        assert server.score({"input_data": {"columns": ["x"], "data": [[1.5]]}}).json == [3.0]
        reply = server.score({"input_data": {"columns": ["x"], "data": [[1.5]]}, "params": {"k": 4.0}})
        assert reply.json == [6.0]
        failed = server.score({"input_data": {"columns": ["x"], "data": [[-1.0]]}})
        assert (failed.status, failed.headers["x-ms-run-function-failed"]) == (500, "True")
        assert "ValueError: the user's own words" in server.log


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "does not exist"),
        ("", "holds several models: named.pkl, plain.joblib"),
        ("named.csv", "is none of"),
        ("broken.pkl", "model"),
        ("lacks.onnx", "the environment lacks the package 'onnxruntime'"),
    ],
)
def test_a_model_that_cannot_be_served_is_told(
    python: str, models: Path, tmp_path: Path, name: str, said: str
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for file in ("named.pkl", "plain.joblib"):
        (folder / file).write_bytes((models / file).read_bytes())
    if name:
        folder = folder / "one"
        folder.mkdir()
    if name not in ("", "none"):
        (folder / name).write_bytes(b"no model at all")
    with scoring(
        tmp_path / "run", python=python, ready=False, TIDEMILL_SERVING_MODEL=str(folder / name)
    ) as server:
        assert server.process.wait(60) == 3
        error = server.state["error"]
        assert said in error["message"] or said in error["stage"]
