"""Kill -9 of the server, ten times during a pipeline of twelve steps with a sweep inside: each step and trial
runs once, and once only, to success; what was reused before stays reused."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jobserver import FINAL, JobServer, until

pytestmark = [pytest.mark.kill, pytest.mark.timeout(400)]

SEED = int(os.environ.get("TIDEMILL_KILL_SEED", "1"))
CHAIN = 11  # and the sweep
TRIALS = 3
KILLS = 10
# Each step writes down that it ran, where nothing but another run could write it again. The last one waits
# until there were as many kills as there should be.
RUN = """
import pathlib, sys, time
number, given, made = sys.argv[1], [a for a in sys.argv[2:-1] if a], pathlib.Path(sys.argv[-1])
time.sleep(1)
while number == LAST and not pathlib.Path("go").exists():
    time.sleep(0.05)
sums = [int((pathlib.Path(folder) / "sum").read_text()) for folder in given]
(made / "sum").write_text(str(sum(sums) + int(number)))
print("step", number, "ran once")
""".replace("LAST", repr(str(CHAIN - 1)))
MEASURE = """
import json, os, pathlib, sys, time
from urllib.request import Request, urlopen
value = int(sys.argv[1]) + int((pathlib.Path(sys.argv[2]) / "sum").read_text())
time.sleep(0.3)
(pathlib.Path(sys.argv[3]) / "sum").write_text(str(value))
body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "score", "value": value,
        "timestamp": int(time.time() * 1000)}
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"],
           "Content-Type": "application/json"}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
for again in range(100):
    try:
        urlopen(Request(url, json.dumps(body).encode(), headers), timeout=20).read()
        break
    except OSError:
        time.sleep(0.1)
print("trial ran once")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("pipes") / "home")
    made.start()
    made.cluster("cpu", high=2)
    yield made
    made.end()


def body(server: JobServer) -> dict[str, Any]:
    """Two chains that meet: a step needs the one two before it, the last both."""
    code = server.code("steps", {"run.py": RUN, "measure.py": MEASURE})
    spec = {
        "type": "command",
        "name": "add",
        "version": "1",
        "code": f"azureml:{code}",
        "command": "python3 run.py ${{inputs.n}} $[[${{inputs.a}}]] $[[${{inputs.b}}]] ${{outputs.made}}",
        "inputs": {
            "n": {"type": "integer"},
            "a": {"type": "uri_folder", "optional": True},
            "b": {"type": "uri_folder", "optional": True},
        },
        "outputs": {"made": {"type": "uri_folder"}},
    }
    status, answer = server.arm("PUT", "components/add/versions/1", {"properties": {"componentSpec": spec}})
    assert status in (200, 201), answer

    def bound(step: int) -> dict[str, str]:
        return {"job_input_type": "literal", "value": f"${{{{parent.jobs.s{step}.outputs.made}}}}"}

    jobs: dict[str, Any] = {}
    for number in range(CHAIN):
        inputs: dict[str, Any] = {"n": {"job_input_type": "literal", "value": str(number)}}
        if number > 1:
            inputs["a"] = bound(number - 2)
        if number == CHAIN - 1:
            inputs["b"] = bound(number - 1)
        jobs[f"s{number}"] = {"type": "command", "componentId": answer["id"], "inputs": inputs}
    trial = {
        **spec,
        "name": "measure",
        "command": "python3 measure.py ${{inputs.n}} ${{inputs.a}} ${{outputs.made}}",
        "inputs": {"n": {"type": "integer"}, "a": {"type": "uri_folder"}},
    }
    status, made = server.arm(
        "PUT", "components/measure/versions/1", {"properties": {"componentSpec": trial}}
    )
    assert status in (200, 201), made
    jobs["tune"] = {
        "type": "sweep",
        "trial": {"componentId": made["id"]},
        "inputs": {"a": bound(CHAIN - 1)},
        "search_space": {"n": {"type": "choice", "values": [5, 20, 10]}},
        "objective": {"goal": "maximize", "primary_metric": "score"},
        "sampling_algorithm": "grid",
        "limits": {"max_total_trials": TRIALS, "max_concurrent_trials": 2},
    }
    settings = {"default_compute": f"{server.workspace}/computes/cpu"}
    return {"properties": {"jobType": "Pipeline", "jobs": jobs, "settings": settings}}


def children(server: JobServer, name: str) -> dict[str, dict[str, Any]]:
    return {job["step"]: job for job in server.native(f"jobs?parent={name}&limit=100")["value"]}


def let_go(server: JobServer) -> bool:
    """Once the last step runs, or something has ended the pipeline."""
    last = children(server, "killed").get(f"s{CHAIN - 1}")
    if last is None:
        return server.job("killed")["status"] in FINAL
    [(uid,)] = server.sql("SELECT uid FROM resources WHERE type_key = 'jobs' AND name = ?", last["name"])
    places = list(server.home.glob(f"nodes/*/work/{uid}.*/code"))
    for place in places:
        (place / "go").touch()
    return bool(places)


def test_twelve_steps_and_ten_kills(server: JobServer) -> None:
    chosen = random.Random(SEED)
    asked = body(server)
    status, answer = server.arm("PUT", "jobs/killed", asked)
    assert status == 201, answer
    for _ in range(KILLS):
        time.sleep(chosen.random() * 0.3)
        server.kill()
        server.start()
    until(lambda: let_go(server), 90, "the last step")
    job = server.wait("killed", 90)
    assert job["status"] == "Completed", job["timeline"]
    found = children(server, "killed")
    assert sorted(found) == sorted([*(f"s{n}" for n in range(CHAIN)), "tune"])
    codes = [entry["code"] for entry in job["timeline"]]
    assert codes.count("StepStarted") == codes.count("StepEnded") == CHAIN + 1
    tune = found.pop("tune")
    trials = children(server, tune["name"])
    assert len(trials) == TRIALS
    for step, child in [*found.items(), *trials.items()]:
        detail = server.job(child["name"])
        assert [attempt["outcome"] for attempt in detail["attempts_list"]] == ["Succeeded"], step
        assert server.log(child["name"]).count("ran once") == 1
        server.check_ledger(child["name"])
    last = found[f"s{CHAIN - 1}"]["name"]
    assert server.stored(f"azureml/{last}/made/")["sum"] == b"55"
    assert server.job(tune["name"])["sweep"]["score"] == 75.0


def test_reuse_stays_what_it_was_whenever_the_server_is_killed(server: JobServer) -> None:
    asked = body(server)
    status, answer = server.arm("PUT", "jobs/again", asked)
    assert status == 201, answer
    server.kill()
    server.start()
    job = server.wait("again", 120)
    assert job["status"] == "Completed"
    steps = {step["name"]: step["jobs"][0] for step in job["steps"]}
    before = {step: child["name"] for step, child in children(server, "killed").items()}
    before["tune"] = ""  # a sweep is run again
    assert {name: step["reused_from"] for name, step in steps.items()} == before
    rows = server.sql(
        "SELECT count(*) FROM attempts WHERE job_uid IN (SELECT uid FROM resources WHERE name = ?)", "again"
    )
    assert rows == [(0,)]


def test_submitting_the_same_pipeline_again_is_the_same_job(server: JobServer) -> None:
    status, _ = server.arm("PUT", "jobs/again", body(server))
    assert status == 200
    changed = json.loads(json.dumps(body(server)))
    changed["properties"]["jobs"].pop("tune")
    status, answer = server.arm("PUT", "jobs/again", changed)
    assert status == 409
    assert answer["error"]["code"] == "JobAlreadyExists"
    until(lambda: server.job("again")["status"] == "Completed")
