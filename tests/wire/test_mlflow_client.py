"""The unmodified MLflow 3 client: on a laptop with the owner's token, and in a job with the job's own."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]

LAPTOP = """
import json, math, os, tempfile
import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

client = mlflow.MlflowClient()
out = {}

def error_of(call):
    try:
        call()
    except MlflowException as error:
        return [error.error_code, str(error)]

digits = mlflow.set_experiment("digits").experiment_id
out["default"] = mlflow.get_experiment("0").name
client.set_experiment_tag(digits, "team", "a")
other = client.create_experiment("other", tags={"team": "b"})
client.rename_experiment(other, "second")
out["experiments"] = sorted(e.name for e in mlflow.search_experiments())
out["by_tag"] = [e.name for e in mlflow.search_experiments(filter_string="tags.team = 'a'")]
client.delete_experiment(other)
out["deleted"] = [e.name for e in mlflow.search_experiments(view_type=ViewType.DELETED_ONLY)]
client.restore_experiment(other)
out["taken"] = error_of(lambda: client.create_experiment("digits"))

with mlflow.start_run(run_name="first") as first:
    mlflow.log_params({"kind": "svc", "C": 10})
    mlflow.log_metrics({"loss": 0.5, "acc": 0.9}, step=1)
    mlflow.log_metric("loss", 0.25, step=2)
    mlflow.log_metric("odd", float("nan"))
    mlflow.log_metric("odd", math.inf, step=1)
    mlflow.set_tag("a", "b")
    mlflow.set_tag("gone", "x")
    mlflow.delete_tag("gone")
    with mlflow.start_run(nested=True) as child:
        mlflow.log_metric("loss", 0.75)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "notes.txt")
        open(path, "w").write("hello")
        mlflow.log_artifact(path, "texts")
    mlflow.log_text("x" * 100_000, "large.txt")
    out["changed"] = error_of(lambda: mlflow.log_param("kind", "tree"))
rid = first.info.run_id
got = client.get_run(rid)
tags = got.data.tags
out["run"] = [got.info.status, got.info.run_name, got.data.params, tags.get("a"), "gone" in tags]
out["metrics"] = {k: str(v) for k, v in got.data.metrics.items()}
out["ended"] = got.info.start_time <= got.info.end_time
out["parent"] = client.get_run(child.info.run_id).data.tags["mlflow.parentRunId"] == rid
out["history"] = [[m.step, m.value] for m in client.get_metric_history(rid, "loss")]
many = [Metric("many", i / 2, 1000 + i, i) for i in range(1000)]
client.log_batch(rid, many, [Param("p", "1")], [RunTag("t", "2")])
pages = client.get_metric_history(rid, "many")
out["many"] = [len(pages), pages[999].value]
out["artifacts"] = [[f.path, f.is_dir, f.file_size] for f in client.list_artifacts(rid)]
out["below"] = [f.path for f in client.list_artifacts(rid, "texts")]
out["text"] = mlflow.artifacts.load_text(f"runs:/{rid}/texts/notes.txt")

def names(text="", **more):
    runs = client.search_runs([digits], text, **more)
    return [r.info.run_name for r in runs]

second = client.create_run(digits, run_name="second", tags={"x.y": "1"})
client.log_metric(second.info.run_id, "loss", 0.1)
client.set_terminated(second.info.run_id, "FAILED")
client.update_run(child.info.run_id, name="child")
out["searched"] = names("metrics.loss < 0.5 and status != 'RUNNING'", order_by=["metrics.loss ASC"])
out["like"] = names("params.kind LIKE 'sv%'")
out["quoted"] = names("tags.`x.y` = '1'")
out["failed"] = names("attributes.status IN ('FAILED')")
out["ordered"] = names(order_by=["metrics.loss DESC"])
page = client.search_runs([digits], max_results=2)
out["pages"] = [len(page), len(client.search_runs([digits], max_results=2, page_token=page.token))]
out["wrong"] = error_of(lambda: names("metrics.loss ~ 3"))
client.delete_run(second.info.run_id)
out["after_delete"] = sorted(names())
client.restore_run(second.info.run_id)
out["missing"] = error_of(lambda: client.get_run("0" * 32))
dataset = Dataset("d", "123", "http", "https://x/d.csv")
client.log_inputs(rid, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
out["inputs"] = [i.dataset.name for i in client.get_run(rid).inputs.dataset_inputs]
os.environ["MLFLOW_TRACKING_TOKEN"] = "nonsense"
out["bad_token"] = error_of(lambda: client.get_run(rid))
print("RESULT" + json.dumps(out))
"""

IN_JOB = """
import os, sys, mlflow
mlflow.log_metric("early", 1.0)
mlflow.log_params({"lr": 0.1})
with mlflow.start_run(nested=True, run_name="child") as child:
    mlflow.log_metric("inner", 2.0)
mlflow.end_run()
with mlflow.start_run(run_id=os.environ["AZUREML_RUN_ID"]) as run:
    for step in range(5):
        mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
    mlflow.log_text("from the job", "note.txt")
    mlflow.set_tag("mark", "yes")
with mlflow.start_run(run_name="later") as later:
    mlflow.log_metric("inner", 3.0)
print("experiment", mlflow.get_experiment(later.info.experiment_id).name)
try:
    mlflow.MlflowClient().log_metric(os.environ["FOREIGN_RUN"], "x", 1.0)
except mlflow.exceptions.MlflowException as error:
    print("REFUSED", error)
os.makedirs("outputs", exist_ok=True)
open("outputs/token", "w").write(os.environ["MLFLOW_TRACKING_TOKEN"])
"""


@pytest.fixture(scope="module")
def mlflow_python() -> str:
    python = os.environ.get("TIDEMILL_MLFLOW_PYTHON") or str(ROOT / ".venv-mlflow3" / "bin" / "python")
    if not os.path.exists(python):
        message = f"mlflow is not installed for {python}; set TIDEMILL_MLFLOW_PYTHON or run `make mlflow`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return python


@pytest.fixture(scope="module")
def token(server) -> str:
    url = f"{server.env['IDENTITY_ENDPOINT']}?resource=https://ml.azure.localhost&api-version=2019-08-01"
    asked = urllib.request.Request(url, headers={"X-IDENTITY-HEADER": server.env["IDENTITY_HEADER"]})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read())["access_token"]


@pytest.fixture(scope="module")
def tracking(server) -> str:
    return f"{server.state['addresses']['http']}/mlflow/v2.0{server.workspace_id}"


@pytest.fixture(scope="module")
def flows(tracking, token, mlflow_python) -> dict[str, Any]:
    done = run_client(mlflow_python, LAPTOP, tracking, token)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def run_client(python: str, code: str, uri: str, token: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "AZURE", "PYTHON"))}
    own = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_TOKEN": token, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    return subprocess.run(
        [python, "-c", code], env={**clean, **own}, capture_output=True, text=True, timeout=570, cwd="/"
    )


def call(url: str, token: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_experiments(flows):
    assert flows["default"] == "Default"
    assert flows["experiments"] == ["Default", "digits", "second"]
    assert flows["by_tag"] == ["digits"]
    assert flows["deleted"] == ["second"]
    code, message = flows["taken"]
    assert code == "RESOURCE_ALREADY_EXISTS"
    assert "'digits'" in message


def test_a_run_keeps_what_was_logged(flows):
    assert flows["run"] == ["FINISHED", "first", {"kind": "svc", "C": "10"}, "b", False]
    assert flows["metrics"] == {"loss": "0.25", "acc": "0.9", "odd": "inf"}
    assert flows["ended"]
    assert flows["parent"]
    assert flows["history"] == [[1, 0.5], [2, 0.25]]
    assert flows["many"] == [1000, 499.5]
    assert flows["inputs"] == ["d"]


def test_artifacts(flows):
    assert flows["artifacts"] == [["large.txt", False, 100_000], ["texts", True, None]]
    assert flows["below"] == ["texts/notes.txt"]
    assert flows["text"] == "hello"


def test_searches(flows):
    assert flows["searched"] == ["second", "first"]
    assert flows["like"] == ["first"]
    assert flows["quoted"] == flows["failed"] == ["second"]
    assert flows["ordered"] == ["child", "first", "second"]
    assert flows["pages"] == [2, 1]
    assert flows["after_delete"] == ["child", "first"]


@pytest.mark.parametrize(
    ("flow", "code", "words"),
    [
        ("changed", "INVALID_PARAMETER_VALUE", "'svc'"),
        ("missing", "RESOURCE_DOES_NOT_EXIST", "neither a run nor a job"),
        ("wrong", "INVALID_PARAMETER_VALUE", "column 14"),
        ("bad_token", "UNAUTHENTICATED", "not a signed JWT"),
    ],
)
def test_refused_in_mlflows_shape(flows, flow, code, words):
    assert flows[flow][0] == code
    assert words in flows[flow][1]


def test_what_is_not_offered_says_so(tracking, token):
    status, body = call(f"{tracking}/api/3.0/mlflow/traces", token, {"trace": {}})
    assert status == 404
    assert body["error_code"] == "ENDPOINT_NOT_FOUND"
    assert "'mlflow/traces'" in body["message"]
    assert "not traces" in body["message"]


def test_an_artifact_is_no_page_of_ours(tracking, token):
    _, made = call(f"{tracking}/api/2.0/mlflow/runs/create", token, {"experiment_id": "0"})
    where = made["run"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    url = f"{tracking}/api/2.0/mlflow-artifacts/artifacts/{where}/a.html"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/html"}
    put = urllib.request.Request(url, b"<script>1</script>", headers, method="PUT")
    urllib.request.urlopen(put, timeout=60).close()
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        assert answer.read() == b"<script>1</script>"
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_address_that_the_client_prints_leads_to_the_portal(tracking, server):
    where = server.state["workspace"]
    portal = f"/ui/{where['subscription']}/{where['group']}/{where['name']}"
    with urllib.request.urlopen(f"{tracking}/", timeout=60) as forward:  # reads what is behind the '#'
        assert forward.url == f"{server.state['addresses']['http']}{portal}/mlflow"
        assert f"{portal}/jobs" in forward.read().decode()
    for page in ("jobs", "runs/anything", "experiments/0"):  # where it goes on to: nobody is signed in
        with pytest.raises(urllib.error.HTTPError) as shown:
            urllib.request.urlopen(f"{server.state['addresses']['http']}{portal}/{page}", timeout=60)
        assert shown.value.code == 401


def test_v1_prefix_and_text_int64(tracking, token):
    base = tracking.replace("/v2.0/", "/v1.0/") + "/api/2.0/mlflow"
    _, made = call(f"{base}/runs/create", token, {"experiment_id": "0", "start_time": "1700000000123"})
    info = made["run"]["info"]
    assert info["start_time"] == 1700000000123
    body = {
        "run_id": info["run_id"],
        "key": "m",
        "value": "-Infinity",
        "timestamp": "1700000000999",
        "step": "7",
    }
    assert call(f"{base}/runs/log-metric", token, body) == (200, {})
    _, held = call(f"{base}/metrics/get-history?run_id={info['run_id']}&metric_key=m", token)
    assert held["metrics"] == [{"key": "m", "value": "-Infinity", "timestamp": 1700000000999, "step": 7}]
    status, body = call(f"{base}/runs/log-metric", token, {**body, "timestamp": "soon"})
    assert (status, body["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "'soon'" in body["message"]
    points = [{"key": "long", "value": i, "timestamp": i, "step": i} for i in range(5)]
    call(f"{base}/runs/log-batch", token, {"run_id": info["run_id"], "metrics": points})
    steps: list[int] = []
    page = ""
    while True:
        query = f"run_id={info['run_id']}&metric_key=long&max_results=2&page_token={page}"
        _, held = call(f"{base}/metrics/get-history?{query}", token)
        steps += [point["step"] for point in held["metrics"]]
        page = held.get("next_page_token", "")
        if not page:
            break
    assert steps == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def job(server, tracking, token, tmp_path_factory) -> dict[str, Any]:
    """A real job whose environment has the real client."""
    _, foreign = call(f"{tracking}/api/2.0/mlflow/runs/create", token, {"experiment_id": "0"})
    folder = tmp_path_factory.mktemp("job")
    (folder / "src").mkdir()
    (folder / "src" / "train.py").write_text(IN_JOB)
    (folder / "conda.yml").write_text(
        "name: m\ndependencies: [python=3.11, pip, {pip: ['mlflow-skinny>=3.5,<4']}]\n"
    )
    (folder / "compute.yml").write_text(
        "name: cpu\ntype: amlcompute\nsize: STANDARD_DS3_V2\nmin_instances: 0\nmax_instances: 1\n"
    )
    (folder / "job.yml").write_text(
        "type: command\ndisplay_name: tracked\nexperiment_name: in-jobs\ncode: src\n"
        "command: python train.py\ncompute: azureml:cpu\n"
        "environment: {image: 'mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04', conda_file: conda.yml}\n"
        f"environment_variables: {{FOREIGN_RUN: {foreign['run']['info']['run_id']}}}\ntags: {{team: a}}\n"
    )
    tidemill = [str(ROOT / ".venv" / "bin" / "tidemill"), "--home", str(server.home)]

    def run(*words: str) -> str:
        done = subprocess.run([*tidemill, *words], capture_output=True, text=True, timeout=570, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("compute", "create", "-f", "compute.yml")
    log = run("job", "create", "-f", "job.yml", "-n", "tracked-job", "--stream")
    shown = json.loads(run("job", "show", "-n", "tracked-job", "-o", "json"))
    run("job", "download", "-n", "tracked-job", "-p", "down")
    theirs = next(folder.glob("down/**/token")).read_text()
    return {"log": log, "shown": shown, "token": theirs}


@pytest.mark.slow
def test_the_client_inside_a_job(job, tracking, token):
    shown, log = job["shown"], job["log"]
    assert shown["metrics"] == {"early": 1.0, "loss": 0.2}
    assert "experiment in-jobs" in log
    assert "REFUSED PERMISSION_DENIED" in log
    assert "not one of job 'tracked-job'" in log
    status, body = call(f"{tracking}/api/2.0/mlflow/runs/get?run_id=tracked-job", token)
    info = body["run"]["info"]
    assert (status, info["status"], info["run_name"]) == (200, "FINISHED", "tracked")
    assert info["start_time"] < info["end_time"]
    tags = {tag["key"]: tag["value"] for tag in body["run"]["data"]["tags"]}
    assert tags["mlflow.source.type"] == "JOB"
    assert (tags["team"], tags["mark"]) == ("a", "yes")
    assert {p["key"]: p["value"] for p in body["run"]["data"]["params"]} == {"lr": "0.1"}


@pytest.mark.slow
def test_runs_that_a_job_started_are_its_children(job, tracking, token):
    base = f"{tracking}/api/2.0/mlflow"
    _, found = call(f"{base}/experiments/get-by-name?experiment_name=in-jobs", token)
    body = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": "tags.mlflow.parentRunId = 'tracked-job'",
        "order_by": ["run_name"],
    }
    _, held = call(f"{base}/runs/search", token, body)
    children = [(run["info"]["run_name"], run["info"]["status"]) for run in held["runs"]]
    assert children == [("child", "FINISHED"), ("later", "FINISHED")]


@pytest.mark.slow
def test_what_the_job_logged_lies_beside_its_logs(job, tracking, token):
    _, held = call(f"{tracking}/api/2.0/mlflow/artifacts/list?run_id=tracked-job", token)
    assert {"note.txt", "user_logs"} <= {file["path"] for file in held["files"]}


@pytest.mark.slow
def test_the_token_of_an_ended_job_is_dead(job, tracking, token):
    theirs = job["token"]
    base = f"{tracking}/api/2.0/mlflow"
    point = {"run_id": "tracked-job", "key": "late", "value": 1.0, "timestamp": 1}
    for path, body in (("runs/get?run_id=tracked-job", None), ("runs/log-metric", point)):
        status, answer = call(f"{base}/{path}", theirs, *([body] if body else []))
        assert (status, answer["error_code"]) == (401, "UNAUTHENTICATED")
        assert "has ended" in answer["message"]
    assert call(f"{base}/runs/log-metric", token, point) == (200, {})
