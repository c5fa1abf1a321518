"""Computes, assets, datastores and workspaces on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_fake_server import (
    COMPUTE,
    NATIVE,
    Answer,
    Fake,
    W,
    run,
)


def test_compute_create_follows_the_operation(home: Path, fake: Fake, capsys: Any) -> None:
    states = iter(["InProgress", "Succeeded"])
    operation = f"{fake.address}/operations/1?api-version=1"
    headers = {"Azure-AsyncOperation": operation, "x-ms-retry-after-ms": "1"}
    fake.on("GET", W, {"location": "local"})
    fake.on("PUT", f"{W}/computes/cpu", Answer(201, {"name": "cpu"}, headers))
    fake.on(
        "GET",
        "/operations/1",
        lambda asked: Answer(200, {"status": next(states)}, {"x-ms-retry-after-ms": "1"}),
    )
    fake.on("GET", f"{NATIVE}/computes/cpu", {**COMPUTE, "nodes": []})
    assert (
        run(
            "compute",
            "create",
            "-n",
            "cpu",
            "--type",
            "AmlCompute",
            "--max-instances",
            "2",
            "--tags",
            "a=1 b=2",
        )
        == 0
    )
    body = fake.of("PUT", f"{W}/computes/cpu")[0].json
    assert body["properties"]["properties"]["scaleSettings"] == {"maxNodeCount": 2, "minNodeCount": 0}
    assert body["tags"] == {"a": "1", "b": "2"}
    assert len(fake.of("GET", "/operations/1")) == 2
    assert "closes a node in 12 s" in capsys.readouterr().out


def test_a_failed_operation_is_exit_1(home: Path, fake: Fake, capsys: Any) -> None:
    failed = {"status": "Failed", "error": {"code": "Quota", "message": "Too large."}}
    fake.on("GET", W, {"location": "local"})
    headers = {"Azure-AsyncOperation": f"{fake.address}/operations/1"}
    fake.on("PUT", f"{W}/computes/cpu", Answer(201, {}, headers))
    fake.on("GET", "/operations/1", failed)
    assert run("compute", "create", "--name", "cpu") == 1
    assert capsys.readouterr().err == "Error: Too large.\n"


def test_compute_list_update_delete(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{NATIVE}/computes", {"value": [COMPUTE]})
    assert run("compute", "list") == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert "1 of 0..2" in row
    assert "closes a node in 12 s" in row
    arm = {
        "properties": {"properties": {"vmSize": "x", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2}}}
    }
    fake.on("GET", f"{W}/computes/cpu", arm)
    fake.on("GET", f"{NATIVE}/computes/cpu", COMPUTE)
    fake.on("PUT", f"{W}/computes/cpu", {})
    assert (
        run(
            "compute",
            "update",
            "--name",
            "cpu",
            "--max-instances",
            "4",
            "--idle-time-before-scale-down",
            "90",
        )
        == 0
    )
    scale = fake.of("PUT", f"{W}/computes/cpu")[0].json["properties"]["properties"]["scaleSettings"]
    assert scale == {"minNodeCount": 0, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1M30S"}
    assert run("compute", "update", "--name", "cpu") == 2
    fake.on("DELETE", f"{W}/computes/cpu", Answer(202, b""))
    assert run("compute", "delete", "--name", "cpu") == 2  # no terminal to ask
    assert fake.of("DELETE", f"{W}/computes/cpu") == []
    assert run("compute", "delete", "--name", "cpu", "--yes") == 0
    assert fake.of("DELETE", f"{W}/computes/cpu")[0].query["underlyingResourceAction"] == "Delete"
    assert run("compute", "delete", "--name", "nope", "--yes") == 3


def test_a_delete_of_a_cluster_says_what_it_ends(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{W}/computes/cpu", {"name": "cpu"})
    fake.on("DELETE", f"{W}/computes/cpu", Answer(202, b""))
    fake.on("GET", f"{NATIVE}/computes/cpu", {**COMPUTE, "queued_jobs": 0, "queue": [], "deployments": []})
    assert run("compute", "delete", "--name", "cpu", "--yes") == 0
    assert capsys.readouterr().err == "cpu is deleted.\n"
    queue = [{"name": f"j{number}", "state": "Running", "why": ""} for number in range(12)]
    queue.append({"name": "late", "state": "Queued", "why": ""})
    busy = {**COMPUTE, "running_jobs": 12, "queue": queue, "deployments": ["ep/one", "ep/two"]}
    fake.on("GET", f"{NATIVE}/computes/cpu", busy)
    assert run("compute", "delete", "--name", "cpu", "--yes") == 0
    assert capsys.readouterr().err.splitlines() == [
        "Ends 12 running jobs: j0, j1, j2, j3, j4, j5, j6, j7, j8, j9 and 2 more.",
        "Ends 1 waiting job: late.",
        "2 batch deployments name cpu, and cannot run until another compute is given: ep/one, ep/two.",
        "cpu is deleted.",
    ]
    assert run("compute", "delete", "--name", "cpu") == 2  # no terminal to ask: what it would end is said
    assert "Ends 1 waiting job: late." in capsys.readouterr().err


def test_datastore_types_are_spelled_as_in_yaml(home: Path, fake: Fake, capsys: Any) -> None:
    body = {"id": "x", "name": "lake", "properties": {"datastoreType": "AzureDataLakeGen2"}}
    fake.on("GET", f"{W}/datastores/lake", body)
    assert run("datastore", "show", "-n", "lake", "--query", "type", "-o", "tsv") == 0
    assert capsys.readouterr().out == "azure_data_lake_gen2\n"


def test_assets(home: Path, fake: Fake, capsys: Any) -> None:
    path = f"{W}/models/digits/versions/4"
    body = {
        "id": path,
        "name": "4",
        "properties": {
            "modelUri": "azureml://jobs/j/outputs/m",
            "modelType": "mlflow_model",
            "tags": {"aB": "1"},
        },
    }
    fake.on("GET", f"{W}/models/digits", {"properties": {"nextVersion": "4"}})
    fake.on("PUT", path, body)
    fake.on("GET", path, body)
    fake.on("GET", f"{W}/models/digits/versions", {"value": [body]})
    uri = "azureml://jobs/j/outputs/m"
    assert run("model", "create", "-n", "digits", "--path", uri, "--type", "mlflow_model", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "digits",
        "version": "4",
        "path": uri,
        "type": "mlflow_model",
        "tags": {"aB": "1"},
        "id": path,
    }
    assert run("model", "show", "-n", "digits") == 0
    assert run("model", "list", "-n", "digits") == 0
    assert run("model", "show", "-n", "nope") == 3
    assert run("model", "archive", "-n", "digits", "-v", "4") == 0
    assert fake.of("PUT", path)[-1].json["properties"]["isArchived"] is True
    assert run("model", "create", "-n", "digits", "--path", "./none") == 2
    assert "--path: there is no none in" in capsys.readouterr().err


def test_workspaces(home: Path, fake: Fake, capsys: Any) -> None:
    other = W.removesuffix("ws") + "vision"
    found = {"id": other, "name": "vision", "location": "eastus", "properties": {"friendlyName": "V"}}
    fake.on("GET", W, {"id": W, "name": "ws", "location": "eastus", "properties": {}})
    fake.on("PUT", other, Answer(201, found))
    fake.on("GET", other, found)
    fake.on(
        "GET", "/subscriptions/s/providers/Microsoft.MachineLearningServices/workspaces", {"value": [found]}
    )
    assert run("workspace", "create", "--name", "vision", "--display-name", "V", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["display_name"] == "V"
    assert fake.of("PUT", other)[0].json == {
        "location": "eastus",
        "identity": {"type": "SystemAssigned"},
        "tags": {},
        "properties": {"friendlyName": "V"},
    }
    assert run("workspace", "list") == 0
    assert "vision" in capsys.readouterr().out
    # A workspace named on the command line, before or after the command.
    fake.on("GET", "/api/v1" + other + "/jobs", {"value": [], "next": None})
    assert run("-w", "vision", "job", "list") == 0
    assert run("job", "list", "--workspace-name", "vision") == 0


def test_a_connection_has_one_type(home: Path, fake: Fake, capsys: Any) -> None:
    properties = {"category": "ContainerRegistry", "target": "r.example.org", "authType": "None"}
    fake.on("GET", f"{W}/connections/reg", {"name": "reg", "properties": properties})
    assert run("connection", "show", "-n", "reg", "-o", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["type"] == "container_registry"
    assert "category" not in shown


def test_a_tag_without_a_name_is_refused(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{W}/models/m/versions/1", {"name": "1", "properties": {}})
    assert run("model", "update", "-n", "m", "-v", "1", "--set", "tags.=x") == 2
    assert "--set tags.=x: what changes of a model asset is" in capsys.readouterr().err
    assert all(asked.method == "GET" for asked in fake.asked)
