"""`tidemill endpoint` and `tidemill deployment` against a real server, and the pages about them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import accessclient
import pytest
from signedpages import Pages

STORAGE = "storage-initializer"
DEPLOYMENT = """\
name: blue
endpoint_name: digits
model: {path: model.pkl}
code_configuration: {code: src, scoring_script: score.py}
environment: {conda_file: {dependencies: [python]}}
instance_type: Standard_DS1_v2
"""


SCORE = """
def init():
    print("up and well")

def run(data):
    if "fails" in data:
        raise KeyError("fails")
    return data
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "src").mkdir()
    (folder / "src/score.py").write_text(SCORE)
    (folder / "model.pkl").write_text("x")
    (folder / "blue.yml").write_text(DEPLOYMENT)
    return folder


@pytest.fixture(scope="module")
def run(server: Any, files: Path):
    def call(*words: str, code: int = 0) -> str:
        tidemill = str(Path(sys.executable).with_name("tidemill"))
        argv = [tidemill, "--home", str(server.home), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=files)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return call


@pytest.fixture(scope="module")
def endpoint(run: Any) -> str:
    return run("endpoint", "create", "--name", "digits")


def test_an_endpoint_is_shown_with_all_that_matters(run: Any, endpoint: str):
    assert [line.split()[0] for line in endpoint.splitlines()][:5] == [
        "endpoint",
        "state",
        "address",
        "auth",
        "traffic",
    ]
    assert "Created by" in endpoint
    found = json.loads(run("endpoint", "show", "--name", "digits", "-o", "json"))
    assert (found["state"], found["auth_mode"], found["traffic"]) == ("Succeeded", "Key", {})
    assert "digits" in run("endpoint", "list")
    assert "has no deployment: nothing can answer" in run("endpoint", "why", "--name", "digits")
    assert "Did you mean 'digits'" in run("endpoint", "show", "--name", "digit", code=3)


def test_keys_are_shown_and_regenerated(run: Any, endpoint: str):
    before = json.loads(run("endpoint", "keys", "--name", "digits", "-o", "json"))
    after = json.loads(run("endpoint", "keys", "--name", "digits", "--regenerate", "primary", "-o", "json"))
    assert before["primary_key"] != after["primary_key"]
    assert before["secondary_key"] == after["secondary_key"]


def test_a_deployment_is_refused_with_its_line(run: Any, endpoint: str):
    said = run("deployment", "create", "-f", "blue.yml", "--set", "instance_type=Standard_DS3_v3", code=4)
    assert "--set instance_type: " in said
    assert "Did you mean" in said


def test_validate_says_what_a_deployment_would_hold(run: Any, endpoint: str, files: Path):
    said = run("validate", "-f", "blue.yml", "--set", "instance_count=2")
    assert "blue.yml is valid: online deployment blue" in said
    assert "2 nodes of Standard_DS1_v2 on digits.blue, $0.146 an hour" in said
    wrong = run("validate", "-f", "blue.yml", "--set", "environment=azureml:nothing:1", code=3)
    assert "--set environment: Environment 'nothing' was not found" in wrong
    (files / "endpoint.yml").write_text("name: fresh\nauth_mode: key\n")
    assert "valid: online endpoint fresh" in run("validate", "-f", "endpoint.yml")
    assert run("deployment", "list", "-e", "digits", "-o", "json").strip() == "[]"
    run("endpoint", "show", "-n", "fresh", code=3)


def test_blue_comes_up_and_a_failing_update_leaves_it(run: Any, endpoint: str, files: Path):
    shown = run("deployment", "create", "-f", "blue.yml", "--all-traffic")
    assert "1 of 1 ready" in shown
    assert "100 %" in shown
    assert "up and well" in run("deployment", "logs", "-e", "digits", "-n", "blue")
    assert "An instance of" in run("deployment", "logs", "-e", "digits", "-n", "blue", "-c", STORAGE)
    assert "Nothing is wrong with digits: 1 instance ready" in run("endpoint", "why", "-n", "digits")
    assert "1 of 1" in run("endpoint", "watch", "-n", "digits", "--once")
    assert "has 100 % of" in run("deployment", "delete", "-e", "digits", "-n", "blue", "-y", code=4)
    asked = ("endpoint", "invoke", "-n", "digits", "--data", '{"a": 1}')
    assert json.loads(run(*asked)) == '{"a": 1}'
    run(*asked, "--repeat", "5")
    for mode in ("aml_token", "aad_token", "key"):
        run("endpoint", "create", "-n", "digits", "--auth-mode", mode)
        assert json.loads(run(*asked)) == '{"a": 1}'
    assert "429" not in run("endpoint", "watch", "-n", "digits", "--once")
    told = run("endpoint", "invoke", "-n", "digits", "--data", '{"fails": 1}', code=1)
    assert "tidemill deployment logs --endpoint-name digits --name blue" in told
    assert "KeyError: 'fails'" in run("deployment", "logs", "-e", "digits", "-n", "blue")
    (files / "src/score.py").write_text(
        "def init(): raise RuntimeError('no such model')\ndef run(data): pass\n"
    )
    said = run("deployment", "create", "-f", "blue.yml", code=1)
    assert "RuntimeError: no such model" in said
    assert "Traceback" in said
    found = json.loads(run("deployment", "show", "-e", "digits", "-n", "blue", "-o", "json"))
    assert (found["state"], found["serves_older"]) == ("Failed", True)
    assert [one["phase"] for one in found["instances"] if one["generation"] == 1] == ["ready"]
    why = run("endpoint", "why", "-n", "digits")
    assert "Deployment blue (its older instances go on to answer)" in why
    assert "no such model" in run("deployment", "logs", "-e", "digits", "-n", "blue")


def test_roles_count_at_endpoints(server: Any, run: Any, endpoint: str):
    """Whoever reads sees no key; a role at one endpoint is one at its deployments, and at no other."""
    run("endpoint", "create", "--name", "others")
    made = json.loads(run("access", "create-user", "eve", "-o", "json"))
    token = accessclient.token_for(server.home, server.state, made)

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        address = f"{server.workspace_id}/onlineEndpoints{path}?api-version=2023-10-01"
        return accessclient.ask(server.state, token, method, address, body)

    assert ask("GET", "/digits")[0] == 403
    run("access", "grant", "eve", "Reader")
    assert ask("GET", "/digits")[0] == 200
    for method, path in (
        ("POST", "/digits/listKeys"),
        ("POST", "/digits/token"),
        ("POST", "/digits/regenerateKeys"),
        ("PUT", "/digits"),
        ("DELETE", "/digits"),
        ("PUT", "/digits/deployments/red"),
        ("POST", "/digits/deployments/blue/getLogs"),
    ):
        assert ask(method, path, {"properties": {}})[0] == 403, path
    run("access", "revoke", "eve", "Reader")
    scope = f"{server.workspace_id}/onlineEndpoints/digits"
    run("access", "grant", "eve", "AzureML Data Scientist", "--scope", scope)
    status, listed = ask("GET", "")
    assert (status, [one["name"] for one in listed["value"]]) == (200, ["digits"])
    assert ask("POST", "/digits/listKeys")[0] == 200
    assert ask("GET", "/digits/deployments")[0] == 200
    assert ask("GET", "/others")[0] == 403
    run("endpoint", "delete", "--name", "others", "--yes")


@pytest.fixture(scope="module")
def pages(server: Any, run: Any) -> Pages:
    return Pages(server.state, run("portal", "--no-browser").strip())


def test_the_console_asks_the_endpoint(run: Any, endpoint: str, pages: Pages):
    """After the update that failed: what answered before still does."""
    here = f"{pages.base}/endpoints/digits/test"
    status, _, page = pages.send("POST", here, {"body": '{"b": "<i>"}', "deployment": ""})
    assert status == 200
    assert ">200<" in page
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert "ms, by blue" in page
    assert "nothing to send" in pages.send("POST", here, {"body": " "})[2]
    status, _, page = pages.send("POST", here, {"body": "{}", "deployment": "nobody"})
    assert status == 200
    assert ">404<" in page


def test_pages_show_an_endpoint_and_share_out_its_traffic(run: Any, endpoint: str, pages: Pages):
    """Deployments that sleep are enough: nothing of it needs an instance."""
    for name in ("one", "two"):
        run("deployment", "create", "-f", "blue.yml", "-n", name, "--set", "instance_count=0")
    _, _, listed = pages.send("GET", f"{pages.base}/endpoints")
    assert ">digits</a>" in listed
    here = f"{pages.base}/endpoints/digits"
    status, headers, page = pages.send("GET", here)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert 'name="traffic.one"' in page
    assert "two" in page
    shares = {"traffic.one": "90", "traffic.two": "10", "traffic.blue": "0"}
    status, headers, _ = pages.send("POST", f"{here}/traffic", shares)
    assert (status, headers["location"]) == (303, f"{here}?done=traffic")
    found = json.loads(run("endpoint", "show", "-n", "digits", "-o", "json"))
    assert found["traffic"] == {"one": 90, "two": 10}
    status, _, page = pages.send("POST", f"{here}/traffic", {"traffic.one": "90"})
    assert status == 400
    assert "Traffic sums to 90" in page
    shares = {"traffic.one": "100", "mirror.two": "20"}
    assert pages.send("POST", f"{here}/traffic", shares)[0] == 303
    assert "20 % copied to two" in pages.send("GET", here)[2]
    status, _, log = pages.send("GET", f"{here}/logs/one")
    assert status == 200
    assert "Created by" in log
    assert pages.send("GET", f"{pages.base}/endpoints/digit")[0] == 404


def test_tags_change_and_deleted_is_gone(run: Any, endpoint: str):
    run("endpoint", "update", "--name", "digits", "--tags", "a=b")
    assert json.loads(run("endpoint", "show", "-n", "digits", "-o", "json"))["tags"] == {"a": "b"}
    run("endpoint", "delete", "--name", "digits", "--yes")
    run("endpoint", "show", "--name", "digits", code=3)
