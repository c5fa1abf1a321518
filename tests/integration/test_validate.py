"""`tidemill validate`: what a submit would say, and nothing of it left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from accessclient import ask, token_for
from jobserver import JobServer, until

JOB = """\
type: command
command: python train.py --data ${{inputs.data}}
code: ./src
environment:
  image: python:3.11
compute: azureml:cpu
resources:
  instance_count: 2
inputs:
  data:
    type: uri_folder
    path: ./data
"""
PIPELINE = """\
type: pipeline
settings:
  default_compute: azureml:cpu
jobs:
  prepare:
    type: command
    command: echo 1 > ${{outputs.made}}/x
    code: ./src
    environment: {image: python:3.11}
    outputs:
      made: {type: uri_folder}
  train:
    type: command
    component: ./component.yml
    inputs:
      made: ${{parent.jobs.prepare.outputs.made}}
"""
COMPONENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
name: train
version: "3"
type: command
command: ls ${{inputs.made}}
environment: {image: python:3.11}
inputs:
  made: {type: uri_folder}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("validate"))
    made.start()
    made.cluster("cpu", "Standard_DS3_v2", idle="PT1S")
    yield made
    made.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("src/train.py", "data/a.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1\n")
    (tmp_path / "component.yml").write_text(COMPONENT)
    return tmp_path


def state(server: JobServer) -> tuple[object, ...]:
    """Everything that a submit would add to."""
    rows = server.sql("SELECT type_key, name, revision FROM resources ORDER BY 1, 2")
    events = server.sql("SELECT count(*) FROM events")
    return rows, events, sorted(server.stored("LocalUpload/"))


def check(server: JobServer, folder: Path, name: str, text: str, *words: str) -> tuple[int, str, str]:
    (folder / name).write_text(text)
    before = state(server)
    done = server.cli("validate", "-f", name, *words, cwd=folder)
    assert state(server) == before
    return done.returncode, done.stdout, done.stderr


def test_a_job(server: JobServer, folder: Path):
    code, out, err = check(server, folder, "job.yml", JOB)
    assert code == 0, err
    assert out.startswith("job.yml is valid: command job without a name.\n")
    assert "2 nodes of Standard_DS3_v2 on cpu, $0.586 an hour (" in out
    assert "first make or find: 1 of environments, 1 of codes" in err
    code, out, err = check(server, folder, "job.yml", JOB, "-o", "json")
    found = json.loads(out)
    assert found["valid"] is True
    assert found["runs"][0]["usd_hour"] == pytest.approx(0.586)
    # and it is accepted as it was said
    done = server.cli("job", "create", "-f", "job.yml", "-n", "real", cwd=folder)
    assert done.returncode == 0, done.stderr
    server.cancel("real")
    server.wait("real")
    until(lambda: not server.native("computes/cpu")["nodes_list"], what="the end of its nodes")
    code, out, err = check(server, folder, "job.yml", JOB + "name: real\n")
    assert code == 0, err
    assert "is there already as it is written" in out


@pytest.mark.parametrize(
    ("change", "place", "word"),
    [
        (("azureml:cpu", "azureml:gpu"), "job.yml:6:10", "cpu"),
        (("path: ./data", "path: azureml:nothing:1"), "job.yml:12:11", "nothing"),
        (("./src", "./none"), "job.yml:3:7", "none"),
        (("inputs.data}}", "inputs.dta}}"), "job.yml:2:", "data"),
        (("instance_count: 2", "instance_count: two"), "job.yml:8:19", "two"),
        (("image: python:3.11", "conda_file: {dependencies: [pip, {pip: ['-e .']}]}"), "job.yml", "-e"),
    ],
)
def test_what_a_submit_would_refuse(
    server: JobServer, folder: Path, change: tuple[str, str], place: str, word: str
):
    code, out, err = check(server, folder, "job.yml", JOB.replace(*change))
    assert code in (2, 3, 4), out
    assert place in err
    assert word in err


def test_a_pipeline(server: JobServer, folder: Path):
    code, out, err = check(server, folder, "pipeline.yml", PIPELINE)
    assert code == 0, err
    assert "prepare: 1 node of Standard_DS3_v2 on cpu, $0.293 an hour" in out
    assert "train: 1 node of Standard_DS3_v2 on cpu" in out
    bad = PIPELINE.replace(
        "made: {type: uri_folder}",
        "made: {type: uri_folder}\n    inputs:\n      x: ${{parent.jobs.train.outputs.none}}",
        1,
    )
    code, out, err = check(server, folder, "pipeline.yml", bad)
    assert code != 0
    assert "pipeline.yml:" in err
    cycle = (
        PIPELINE.replace(
            "    outputs:\n", "    inputs:\n      x: ${{parent.jobs.train.outputs.o}}\n    outputs:\n", 1
        )
        + "    outputs:\n      o: {type: uri_folder}\n"
    )
    (folder / "component.yml").write_text(COMPONENT + "outputs:\n  o: {type: uri_folder}\n")
    code, out, err = check(server, folder, "pipeline.yml", cycle)
    assert code != 0
    assert "prepare" in err
    assert "train" in err


def test_every_other_kind(server: JobServer, folder: Path):
    schedule = "name: nightly\ntrigger: {type: cron, expression: '0 2 * * *'}\ncreate_job: ./job.yml\n"
    (folder / "job.yml").write_text(JOB)
    for text, said in (
        (schedule, "schedule nightly"),
        (COMPONENT, "component train"),
        ("name: env\nversion: 2\nimage: python:3.11\n", "environment env"),
        ("name: digits\nversion: 1\ntype: uri_folder\npath: ./data\n", "data digits"),
        ("name: net\ntype: custom_model\npath: ./data\n", "model net"),
        ("name: big\ntype: amlcompute\nsize: Standard_DS3_v2\nmax_instances: 3\n", "compute big"),
    ):
        code, out, err = check(server, folder, "it.yml", text)
        assert code == 0, err
        assert f"it.yml is valid: {said}" in out
    code, out, err = check(server, folder, "it.yml", schedule.replace("0 2", "0 26"))
    assert code == 2
    assert "it.yml:2:" in err
    code, out, err = check(server, folder, "it.yml", "name: big\ntype: amlcompute\nsize: Standard_Nothing\n")
    assert code == 4
    assert "Standard_Nothing" in err
    code, out, err = check(server, folder, "it.yml", "name: what\n")
    assert code == 2
    assert "--kind" in err


def test_a_local_table(server: JobServer, folder: Path):
    """Its file is read as it would be once it is uploaded."""
    table = JOB.replace("uri_folder", "mltable")
    (folder / "data" / "MLTable").write_text("paths:\n  - file: ./a.csv\n")
    code, _, err = check(server, folder, "job.yml", table)
    assert code == 0, err
    (folder / "data" / "MLTable").write_text("paths:\n  - file: ./b.csv\n")
    code, _, err = check(server, folder, "job.yml", table)
    assert code == 3, err
    assert "MLTable:2:" in err
    (folder / "data" / "MLTable").unlink()
    code, _, err = check(server, folder, "job.yml", table)
    assert code == 3, err
    assert "there is no file MLTable" in err


def test_each_request_needs_its_right(server: JobServer):
    made = server.cli("access", "create-user", "reads", "-o", "json")
    assert made.returncode == 0, made.stderr
    given = server.cli("access", "grant", "reads", "Reader")
    assert given.returncode == 0, given.stderr
    token = token_for(server.home, server.state, json.loads(made.stdout))
    path = f"/api/v1{server.workspace}/validate"
    job = {"path": "jobs/mine", "body": {"properties": {"jobType": "Command", "command": "true"}}}
    status, body = ask(server.state, token, "POST", path, {"requests": [job]})
    assert (status, body["error"]["code"]) == (403, "AuthorizationFailed")
    assert server.call("POST", path, {"requests": [job]})[0] == 200


def test_what_is_no_request(server: JobServer):
    status, body = server.call("POST", f"/api/v1{server.workspace}/validate", {"requests": [{"path": "x/y"}]})
    assert (status, body["error"]["target"]) == (400, "requests")
    asked = {"requests": [{"path": "experiments/x", "body": {}}]}
    status, body = server.call("POST", f"/api/v1{server.workspace}/validate", asked)
    assert status == 400
    assert "cannot be validated" in body["error"]["message"]
