"""`tidemill tracking`: what it shows, and that MLflow's own store opens what it exports."""

from __future__ import annotations

import json
import math
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow_clients import ROOT, call, run_client, token_of

pytestmark = pytest.mark.timeout(600)

READ_BACK = """
import json, math, os
import mlflow
client = mlflow.MlflowClient()
held = {e.name: e for e in client.search_experiments()}
losses = held["losses"]
runs = client.search_runs([losses.experiment_id], order_by=["attributes.start_time ASC"])
first = client.get_run(runs[0].info.run_id)
points = client.get_metric_history(first.info.run_id, "loss/train")
out = {
    "experiments": sorted(held),
    "tags": losses.tags,
    "runs": [[r.info.run_name, r.info.status] for r in runs],
    "params": first.data.params,
    "marks": first.data.tags["team"],
    "metrics": {k: str(v) for k, v in first.data.metrics.items()},
    "history": [[m.timestamp, m.value, m.step] for m in points],
    "found": len(client.search_runs([losses.experiment_id], "metrics.`loss/train` < 0.3")),
    "artifacts": [f.path for f in client.list_artifacts(first.info.run_id)],
    "text": mlflow.artifacts.load_text(f"runs:/{first.info.run_id}/texts/a.txt"),
}
model, version = client.get_registered_model("net"), client.get_model_version_by_alias("net", "champion")
out["model"] = [model.description, model.tags, str(version.version), version.current_stage]
folder = mlflow.artifacts.download_artifacts("models:/net@champion")
out["file"] = open(os.path.join(folder, "weights.txt")).read()
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def token(server) -> str:
    return token_of(server)


@pytest.fixture(scope="module")
def logged(server, token) -> str:
    """-> the id of a run with all there is to export."""
    base = f"{server.state['addresses']['http']}/mlflow/v2.0{server.workspace_id}/api/2.0"

    def post(path: str, body: Any) -> dict[str, Any]:
        status, answer = call(f"{base}/mlflow/{path}", token, body)
        assert status == 200, answer
        return answer

    experiment = post("experiments/create", {"name": "losses", "tags": [{"key": "team", "value": "a"}]})
    made = post(
        "runs/create",
        {"experiment_id": experiment["experiment_id"], "run_name": "first", "start_time": 1_000},
    )
    run = made["run"]["info"]["run_id"]
    points = [
        {"key": "loss/train", "value": 1 / (i + 1), "timestamp": 1_000 + i, "step": i} for i in range(900)
    ]
    bad = [{"key": key, "value": 1.0, "timestamp": 1, "step": 0} for key in ("../out", "loss/train/deep")]
    odd = [{"key": "odd", "value": "NaN", "timestamp": 1, "step": 0}]
    params, tags = [{"key": "rate", "value": "0.1\nx"}], [{"key": "team", "value": "vision"}]
    post("runs/log-batch", {"run_id": run, "metrics": [*points, *bad, *odd], "params": params, "tags": tags})
    post("runs/update", {"run_id": run, "status": "FINISHED", "end_time": 2_000})
    post("runs/create", {"experiment_id": experiment["experiment_id"], "run_name": "second"})
    for path, text in (("texts/a.txt", b"hello"), ("net/weights.txt", b"1 2 3")):
        where = f"{base}/mlflow-artifacts/artifacts/ExperimentRun/dcid.{run}/{path}"
        asked = urllib.request.Request(where, text, {"Authorization": f"Bearer {token}"}, method="PUT")
        urllib.request.urlopen(asked, timeout=60).close()
    post("registered-models/create", {"name": "net", "description": "d", "tags": tags})
    for _ in range(2):
        post("model-versions/create", {"name": "net", "source": f"runs:/{run}/net", "run_id": run})
    post("registered-models/alias", {"name": "net", "alias": "champion", "version": "2"})
    post("model-versions/transition-stage", {"name": "net", "version": "2", "stage": "Staging"})
    return run


def tidemill(server, *words: str, fails: bool = False) -> str:
    words = (str(ROOT / ".venv" / "bin" / "tidemill"), "--home", str(server.home), *words)
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_runs_and_metrics_are_shown(server, logged):
    told = tidemill(server, "tracking", "runs", "--experiment", "losses", "--filter", "status = 'FINISHED'")
    assert "first" in told
    assert "second" not in told
    shown = json.loads(tidemill(server, "tracking", "runs", "-e", "losses", "--limit", "1", "-o", "json"))
    assert [run["name"] for run in shown] == ["second"]
    last = json.loads(tidemill(server, "tracking", "metrics", logged, "-o", "json"))
    assert {m["key"]: m["step"] for m in last if m["key"] == "loss/train"} == {"loss/train": 899}
    curve = json.loads(
        tidemill(server, "tracking", "metrics", logged, "-n", "loss/train", "--points", "20", "-o", "json")
    )
    assert 10 <= len(curve) <= 20
    assert (curve[0]["value"], curve[-1]["value"]) == (1.0, 1 / 900)
    assert "Did you mean" in tidemill(server, "tracking", "metrics", logged, "-n", "loss/tran", fails=True)
    assert "'lossen'" in tidemill(server, "tracking", "runs", "-e", "lossen", fails=True)
    wrong = tidemill(server, "tracking", "runs", "--filter", "metrics.loss ~ 3", fails=True)
    assert "column 14" in wrong


def test_models_show_their_stages_and_aliases(server, logged):
    told = tidemill(server, "model", "list", "--name", "net")
    assert "champion" in told
    assert "Staging" in told
    shown = json.loads(tidemill(server, "model", "show", "--name", "net", "--version", "2", "-o", "json"))
    assert (shown["stage"], shown["aliases"]) == ("Staging", ["champion"])


@pytest.fixture(scope="module")
def exported(server, logged, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "mlruns"
    told = tidemill(server, "tracking", "export", "--to", str(folder))
    assert "'../out' is no name for a file" in told
    assert "Left out" in told
    assert "2 model versions" in told
    assert "no empty folder" in tidemill(server, "tracking", "export", "--to", str(folder), fails=True)
    assert not (folder.parent / "out").exists()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("client", ["mlflow2", "mlflow3"])
def test_mlflows_own_store_opens_the_export(exported, client, logged):
    variables = {"MLFLOW_TRACKING_URI": exported.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    held = run_client(client, READ_BACK, variables)
    assert held["experiments"] == ["Default", "losses"]
    assert held["tags"]["team"] == "a"
    assert held["runs"] == [["first", "FINISHED"], ["second", "RUNNING"]]
    assert held["params"] == {"rate": "0.1\nx"}
    assert held["marks"] == "vision"
    assert held["metrics"]["loss/train"] == str(1 / 900)
    assert math.isnan(float(held["metrics"]["odd"]))
    assert held["history"] == [[1_000 + i, 1 / (i + 1), i] for i in range(900)]
    assert held["found"] == 1
    assert held["artifacts"] == ["net", "texts"]
    assert held["text"] == "hello"
    assert held["model"] == ["d", {"team": "vision"}, "2", "Staging"]
    assert held["file"] == "1 2 3"
