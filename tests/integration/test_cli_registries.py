"""Registries, connections, changes of assets and diagnose from the command line, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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


def tidemill(server: JobServer, *words: str, cwd: Path | None = None) -> tuple[int, str, str]:
    done = server.cli(*words, cwd=cwd)
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


SAY = """\
type: command
name: say
version: "1"
inputs: {word: {type: uri_file}}
outputs: {said: {type: uri_file}}
code: src
command: sh say.sh ${{inputs.word}} > ${{outputs.said}}
environment: {image: "python:3.11"}
"""
FLOW = """\
type: pipeline
name: flow
version: "1"
jobs:
  first:
    component: ./say.yml
    inputs: {word: {type: uri_file, path: "azureml:word:1"}}
  second:
    component: azureml:say:1
    inputs: {word: "${{parent.jobs.first.outputs.said}}"}
"""
USE = """\
type: pipeline
jobs:
  whole: {type: pipeline, component: "azureml://registries/parts/components/flow/versions/2"}
settings: {default_compute: local}
"""


def test_a_component_is_shared_with_all_that_it_names(server, tmp_path):
    def run(*words: str) -> str:
        code, shown, said = tidemill(server, *words, cwd=tmp_path)
        assert code == 0, said
        return shown

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "say.sh").write_text("echo said $(cat $1) | tee /dev/stderr\n")
    for name, text in (("say.yml", SAY), ("flow.yml", FLOW), ("use.yml", USE), ("word.txt", "moon")):
        (tmp_path / name).write_text(text)
    run("workspace", "create", "--name", "lab")
    run("registry", "create", "--name", "parts")
    lab = ("-w", "lab")
    run("data", "create", "-n", "word", "-v", "1", "--path", "word.txt", "--type", "uri_file", *lab)
    run("component", "create", "-f", "say.yml", *lab)
    run("component", "create", "-f", "flow.yml", *lab)
    share = ("component", "share", "-n", "flow", "-v", "1", "--registry-name", "parts", *lab, "-o", "json")
    made = json.loads(run(*share, "--share-with-version", "2"))
    assert made["id"] == "azureml://registries/parts/components/flow/versions/2"
    assert json.loads(run(*share, "--share-with-version", "2"))["id"] == made["id"]  # the same again
    spec = json.dumps(made["component_spec"])
    assert "/subscriptions/" not in spec
    for there in (
        "components/say/versions/1",
        "data/word/versions/1",
        "components/azureml_anonymous/versions/",
    ):
        assert f"azureml://registries/parts/{there}" in spec
    shown = run("component", "show", "-n", "say", "-v", "1", "--registry-name", "parts", "-o", "json")
    say = json.loads(shown)["component_spec"]
    assert say["environment"].startswith(
        "azureml://registries/parts/environments/CliV2AnonymousEnvironment/versions/"
    )
    assert say["code"].startswith("azureml://registries/parts/codes/")
    run("workspace", "delete", "--name", "lab", "--yes")

    run("job", "create", "-f", "use.yml", "-n", "used")
    ended = server.wait("used", 60)
    assert ended["status"] == "Completed", ended["error"]
    steps = server.job(ended["children"][0]["name"])["children"]
    assert sorted(server.log(step["name"]).strip() for step in steps) == ["said moon", "said said moon"]


def test_what_a_component_names_must_be_where_it_goes(server):
    for name in ("here", "there"):
        assert tidemill(server, "registry", "create", "--name", name)[0] == 0
    for version, environment, said in (
        ("1", "azureml://registries/here/environments/e/versions/1", "must be in its own registry ('there')"),
        ("2", "azureml:nothing:1", "Component 'far:2' names azureml:nothing:1: Environment 'nothing'"),
    ):
        spec = {"type": "command", "command": "true", "environment": environment}
        path = f"components/far/versions/{version}"
        assert server.arm("PUT", path, {"properties": {"componentSpec": spec}})[0] == 201
        share = ("component", "share", "-n", "far", "-v", version, "--registry-name", "there")
        code, _, told = tidemill(server, *share)
        assert code != 0
        assert said in told


CONNECTION = """\
name: images
type: container_registry
target: registry.example
credentials: {type: username_password, username: bob, password: hidden1}
"""


def test_a_connection_keeps_its_secrets(server, tmp_path):
    (tmp_path / "images.yml").write_text(CONNECTION)
    code, made, said = tidemill(
        server, "connection", "create", "-f", "images.yml", "-o", "json", cwd=tmp_path
    )
    assert code == 0, said
    shown = json.loads(made)
    assert (shown["type"], shown["target"], shown["auth_type"]) == (
        "container_registry",
        "registry.example",
        "UsernamePassword",
    )
    for words in (("list",), ("show", "-n", "images")):
        assert "hidden1" not in tidemill(server, "connection", *words, "-o", "json")[1]
    asked = tidemill(server, "connection", "show", "-n", "images", "--populate-secrets", "-o", "json")[1]
    assert json.loads(asked)["credentials"] == {"username": "bob", "password": "hidden1"}
    (tmp_path / "wrong.yml").write_text(CONNECTION.replace("password: h", "pasword: h"))
    code, _, said = tidemill(server, "connection", "create", "-f", "wrong.yml", cwd=tmp_path)
    assert code == 2
    assert "unknown key 'pasword' in credentials. Did you mean 'password'?" in said
    assert tidemill(server, "connection", "delete", "-n", "images", "--yes")[0] == 0
    assert tidemill(server, "connection", "show", "-n", "images")[0] == 3


def test_stage_and_tags_of_a_version_change_and_nothing_else(server):
    change = ("model", "update", "-n", "digits", "-v", "3", "-o", "json", "--set", "stage=Production")
    code, changed, said = tidemill(server, *change, "--set", "tags.team=vision")
    assert code == 0, said
    found = json.loads(changed)
    assert (found["stage"], found["tags"]) == ("Production", {"team": "vision"})
    again = json.loads(tidemill(server, *change[:-1], "tags.b=c")[1])
    assert again["tags"] == {"team": "vision", "b": "c"}
    code, _, said = tidemill(server, *change[:-1], "path=x")
    assert code == 2
    assert "what changes of a model asset is description, stage, tags.NAME" in said


SPARK = """\
type: spark
name: spark_it
version: "1"
code: src
entry: {file: main.py}
inputs: {lr: {type: number}}
args: --lr ${{inputs.lr}}
conf: {spark.driver.cores: 1}
"""


def test_a_spark_component_is_kept(server, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print()\n")
    (tmp_path / "spark.yml").write_text(SPARK)
    code, _, said = tidemill(server, "component", "create", "-f", "spark.yml", cwd=tmp_path)
    assert code == 0, said
    status, kept = server.arm("GET", "components/spark_it/versions/1")
    assert status == 200
    assert kept["properties"]["componentSpec"]["conf"] == {"spark.driver.cores": 1}


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
