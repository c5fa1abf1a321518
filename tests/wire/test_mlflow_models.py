"""Models by the unmodified clients of MLflow 2, MLflow 3 and azureml-mlflow: scikit-learn's are logged,
registered, found and loaded; ARM and the command line see the same."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

import pytest
from mlflow_clients import ROOT, call, run_client, surroundings, token_of

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

CLIENTS = ("mlflow2", "mlflow3", "azureml-mlflow")

FLOW = """
import json, os, tempfile
import mlflow, numpy
from mlflow.exceptions import MlflowException
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

NAME = os.environ["MODEL_NAME"]
X, y = load_iris(return_X_y=True)
three = mlflow.__version__.startswith("3")
where = {"name": "model"} if three else {"artifact_path": "model"}
more = {"serialization_format": "cloudpickle"} if three else {}
client = mlflow.MlflowClient()
out = {}

def error_of(call):
    try:
        call()
    except MlflowException as error:
        return [error.error_code, str(error)]

mlflow.set_experiment("models-" + NAME)
mlflow.autolog(log_models=False, silent=True)
with mlflow.start_run(run_name="auto") as auto:
    LogisticRegression(max_iter=500, C=0.5).fit(X, y)
seen = client.get_run(auto.info.run_id).data
out["autolog"] = [seen.params["C"], "training_accuracy_score" in seen.metrics]
mlflow.autolog(disable=True)

fitted = LogisticRegression(max_iter=500).fit(X, y)
with mlflow.start_run(run_name="trained") as run:
    info = mlflow.sklearn.log_model(fitted, registered_model_name=NAME, input_example=X[:2], **where, **more)
    mlflow.log_dict({"a": 1}, "notes/a.json")
rid = run.info.run_id
out["artifacts"] = sorted(f.path for f in client.list_artifacts(rid))
out["of_model"] = "model/MLmodel" in [f.path for f in client.list_artifacts(rid, "model")]
out["notes"] = mlflow.artifacts.load_dict(f"runs:/{rid}/notes/a.json")
second = mlflow.register_model(info.model_uri, NAME, tags={"kind": "iris"})
out["second"] = [second.version, second.name]
mlflow.register_model(f"runs:/{rid}/model", NAME)

def agrees(uri):
    return bool((mlflow.sklearn.load_model(uri).predict(X) == fitted.predict(X)).all())

out["by_run"] = agrees(f"runs:/{rid}/model")
out["by_version"] = agrees(f"models:/{NAME}/1")
out["by_latest"] = agrees(f"models:/{NAME}/latest")
out["pyfunc"] = mlflow.pyfunc.load_model(f"models:/{NAME}/2").predict(X).shape[0]
client.set_registered_model_alias(NAME, "champion", "2")
client.set_registered_model_alias(NAME, "gone", "1")
client.delete_registered_model_alias(NAME, "gone")
champion = client.get_model_version_by_alias(NAME, "champion")
out["alias"] = [champion.version, agrees(f"models:/{NAME}@champion")]
client.transition_model_version_stage(NAME, "1", "Production")
client.transition_model_version_stage(NAME, "2", "production", archive_existing_versions=True)
out["stages"] = {v.version: v.current_stage for v in client.search_model_versions(f"name='{NAME}'")}
out["by_stage"] = agrees(f"models:/{NAME}/Production")
out["latest"] = sorted(v.version for v in client.get_latest_versions(NAME, ["None", "Archived"]))
client.update_registered_model(NAME, "iris, by petals")
client.update_model_version(NAME, "2", "better")
client.set_registered_model_tag(NAME, "team", "a")
client.set_model_version_tag(NAME, "2", "checked", "yes")
client.set_model_version_tag(NAME, "2", "gone", "yes")
client.delete_model_version_tag(NAME, "2", "gone")
held, version = client.get_registered_model(NAME), client.get_model_version(NAME, "2")
out["model"] = [held.description, held.tags, dict(held.aliases)]
out["version"] = [version.description, version.tags, version.run_id in (rid, "", None), version.status]
wanted = f"name LIKE '{NAME[:4]}%' and tags.team = 'a'"
out["searched"] = NAME in [m.name for m in client.search_registered_models(wanted)]
out["of_run"] = sorted(v.version for v in client.search_model_versions(f"run_id='{rid}'"))
order = ["version_number ASC"]
page = client.search_model_versions(f"name='{NAME}'", order_by=order, max_results=2)
out["ordered"] = [v.version for v in page]
out["taken"] = error_of(lambda: client.create_registered_model(NAME))
out["missing"] = error_of(lambda: client.get_model_version(NAME, "77"))
out["rename"] = error_of(lambda: client.rename_registered_model(NAME, NAME + "x"))
out["stage"] = error_of(lambda: client.transition_model_version_stage(NAME, "2", "Prod"))
client.delete_model_version(NAME, "3")
out["left"] = sorted(v.version for v in client.search_model_versions(f"name='{NAME}'"))
if three:
    model = mlflow.get_logged_model(info.model_id)
    out["logged"] = [str(model.status), model.source_run_id == rid, model.name]
    client.log_metric(rid, "accuracy", 0.9, model_id=info.model_id, dataset_name="iris", dataset_digest="1")
    client.set_logged_model_tags(info.model_id, {"x": "y"})
    wanted = "metrics.accuracy > 0.5 AND tags.x = 'y'"
    found = mlflow.search_logged_models(filter_string=wanted, output_format="list")
    out["found"] = [m.model_id == info.model_id for m in found]
    out["outputs"] = [m.model_id == info.model_id for m in client.get_run(rid).outputs.model_outputs]
    second = mlflow.initialize_logged_model(name="b", params={"p": "1"})
    client.finalize_logged_model(second.model_id, "FAILED")
    out["failed"] = str(mlflow.get_logged_model(second.model_id).status)
    client.delete_logged_model(second.model_id)
    out["deleted"] = error_of(lambda: mlflow.get_logged_model(second.model_id))
if os.environ.get("OTHER_MODEL"):
    out["other"] = agrees(f"models:/{os.environ['OTHER_MODEL']}/1")
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module", params=CLIENTS)
def client(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def flow(server, client) -> dict[str, Any]:
    return run_client(client, FLOW, {**surroundings(server, client), "MODEL_NAME": f"iris-{client}"})


@pytest.fixture(scope="module")
def token(server) -> str:
    return token_of(server)


def test_what_scikit_learn_logs(flow, client):
    assert flow["autolog"] == ["0.5", True]
    assert flow["artifacts"] == ["model", "notes"]
    assert flow["of_model"]
    assert flow["notes"] == {"a": 1}
    if client != "mlflow2":
        assert flow["logged"] == ["READY", True, "model"]
        assert flow["found"] == flow["outputs"] == [True]
        assert flow["failed"] == "FAILED"
        assert flow["deleted"][0] == "RESOURCE_DOES_NOT_EXIST"


def test_a_model_is_registered_and_loaded(flow, client):
    assert flow["second"] == ["2", f"iris-{client}"]
    assert all(flow[way] for way in ("by_run", "by_version", "by_latest", "by_stage"))
    assert flow["pyfunc"] == 150
    assert flow["alias"] == ["2", True]


def test_the_registry_keeps_what_it_is_told(flow, client):
    assert flow["stages"] == {"1": "Archived", "2": "Production", "3": "None"}
    assert flow["latest"] == ["1", "3"]
    assert flow["model"] == ["iris, by petals", {"team": "a"}, {"champion": "2"}]
    assert flow["version"] == ["better", {"kind": "iris", "checked": "yes"}, True, "READY"]
    assert flow["searched"]
    assert "1" in flow["of_run"] or "3" in flow["of_run"]
    assert flow["ordered"] == ["1", "2"]
    assert flow["left"] == ["1", "2"]


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("taken", "RESOURCE_ALREADY_EXISTS", "exists already"),
        ("missing", "RESOURCE_DOES_NOT_EXIST", "There are: 1, 2, 3"),
        ("rename", "INVALID_PARAMETER_VALUE", "cannot be renamed"),
        ("stage", "INVALID_PARAMETER_VALUE", "It is one of None, Staging, Production, Archived"),
    ],
)
def test_refused_with_the_reason(flow, what, code, words):
    assert flow[what][0] == code
    assert words in flow[what][1]


def test_arm_sees_the_same_model(server, flow, client, token):
    base = f"{server.state['addresses']['http']}{server.workspace_id}/models/iris-{client}"
    _, held = call(f"{base}?api-version=2023-08-01-preview", token)
    assert held["properties"]["aliases"] == {"champion": "2"}
    assert held["properties"]["description"] == "iris, by petals"
    _, version = call(f"{base}/versions/2?api-version=2023-08-01-preview", token)
    properties = version["properties"]
    assert (properties["modelType"], properties["stage"]) == ("mlflow_model", "Production")
    assert set(properties["flavors"]) == {"python_function", "sklearn"}
    assert properties["flavors"]["sklearn"]["data"]["serialization_format"] == "cloudpickle"
    assert properties["tags"] == {"kind": "iris", "checked": "yes"}


def test_a_model_of_arm_is_loaded_by_every_client(server, flow, client, token, tmp_path_factory):
    """What the command line uploaded and registered, MLflow reads; and the reverse."""
    folder = tmp_path_factory.mktemp("down")
    tidemill = [str(ROOT / ".venv" / "bin" / "tidemill"), "--home", str(server.home)]

    def run(*words: str) -> str:
        done = subprocess.run([*tidemill, *words], capture_output=True, text=True, timeout=570, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    name = f"arm-{client}"
    shown = json.loads(run("model", "show", "-n", f"iris-{client}", "-v", "1", "-o", "json"))
    run("model", "create", "--name", name, "--path", shown["path"], "--type", "mlflow_model")
    code = (
        "import json, mlflow\n"
        f"held = mlflow.MlflowClient().get_model_version({name!r}, '1')\n"
        f"model = mlflow.sklearn.load_model('models:/{name}/1')\n"
        "print('RESULT' + json.dumps([held.current_stage, type(model).__name__]))\n"
    )
    assert run_client(client, code, surroundings(server, client)) == ["None", "LogisticRegression"]


def test_two_that_register_at_once_get_two_versions(server, token):
    base = f"{server.state['addresses']['http']}/mlflow/v2.0{server.workspace_id}/api/2.0/mlflow"
    assert call(f"{base}/registered-models/create", token, {"name": "raced"})[0] == 200
    body = {"name": "raced", "source": "mlflow-artifacts:/ExperimentRun/dcid.none/model"}
    made: list[str] = []

    def register() -> None:
        status, answer = call(f"{base}/model-versions/create", token, body)
        made.append(answer["model_version"]["version"] if status == 200 else str(answer))

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [str(number) for number in range(1, 9)]
