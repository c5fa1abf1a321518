"""Registries, archiving and diagnose from the command line, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from jobserver import JobServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("registries") / "home")
    made.start()
    uri = made.upload("m", {"model.pkl": "weights"})
    properties = {"modelUri": uri, "modelType": "custom_model"}
    assert made.arm("PUT", "models/digits/versions/3", {"properties": properties})[0] == 201
    yield made
    made.end()


def tidemill(server: JobServer, *words: str) -> tuple[int, str, str]:
    done = server.cli(*words)
    return done.returncode, done.stdout, done.stderr


def test_a_model_is_shared_listed_and_shown(server):
    code, _, said = tidemill(server, "registry", "create", "--name", "shared")
    assert code == 0, said
    share = ("model", "share", "-n", "digits", "-v", "3", "--registry-name", "shared", "-o", "json")
    code, shown, said = tidemill(server, *share, "--share-with-version", "1")
    assert code == 0, said
    assert json.loads(shown)["id"] == "azureml://registries/shared/models/digits/versions/1"
    again, same, _ = tidemill(server, *share, "--share-with-version", "1")
    assert (again, json.loads(same)["id"]) == (0, json.loads(shown)["id"])
    _, listed, _ = tidemill(server, "model", "list", "--registry-name", "Shared", "-o", "json")
    assert [item["name"] for item in json.loads(listed)] == ["digits"]
    code, one, said = tidemill(
        server, "model", "show", "-n", "digits", "--registry-name", "shared", "-o", "json"
    )
    assert code == 0, said
    assert json.loads(one)["version"] == "1"
    code, _, said = tidemill(server, "model", "show", "-n", "digit", "--registry-name", "shared")
    assert code == 3
    assert "in registry shared" in said
    _, listed, _ = tidemill(server, "registry", "list", "-o", "json")
    assert [item["name"] for item in json.loads(listed)] == ["shared"]
    code, _, said = tidemill(server, "registry", "delete", "--name", "shared", "--yes")
    assert code == 0, said
    code, _, said = tidemill(server, "registry", "show", "--name", "shared")
    assert code == 3
    assert "'shared'" in said


def test_archiving_says_who_goes_on(server):
    spec = {"type": "command", "command": "true", "environment": "azureml:env:1"}
    assert (
        server.arm("PUT", "environments/env/versions/1", {"properties": {"image": "python:3.11"}})[0] == 201
    )
    assert server.arm("PUT", "components/c/versions/1", {"properties": {"componentSpec": spec}})[0] == 201
    code, _, said = tidemill(server, "environment", "archive", "-n", "env", "-v", "1")
    assert code == 0
    assert "still in use by component 'c:1'" in said
    status, refused = server.arm("DELETE", "environments/env/versions/1")
    assert (status, refused["error"]["code"]) == (409, "AssetInUse")
    assert "component 'c:1'" in refused["error"]["message"]


def test_diagnose_says_what_was_tried(server):
    code, shown, said = tidemill(server, "workspace", "diagnose", "-o", "json")
    assert code == 0, said
    assert {"StorageWorks", "SecretsWork", "Versions"} <= {row["code"] for row in json.loads(shown)}
