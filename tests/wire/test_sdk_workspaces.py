"""The unmodified Azure SDK against workspaces, credentials and the cloud's metadata."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, sys
import socket
seen = set()
sys.addaudithook(lambda event, args: seen.add(args[0]) if event == "socket.getaddrinfo" else None)

from azure.ai.ml import MLClient
from azure.ai.ml.entities import Workspace
from azure.core.exceptions import ResourceNotFoundError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
out = {}

def look(workspace):
    return {"name": workspace.name, "location": workspace.location, "tags": workspace.tags,
            "description": workspace.description, "display_name": workspace.display_name,
            "storage": workspace.storage_account, "discovery": workspace.discovery_url,
            "mlflow": workspace.mlflow_tracking_uri}

def error_of(call):
    try:
        call()
    except ResourceNotFoundError as error:
        return str(error)

out["main"] = look(ml.workspaces.get(os.environ["AZUREML_WORKSPACE_NAME"]))
out["listed"] = [w.name for w in ml.workspaces.list()]
made = Workspace(name="second", location="westeurope", display_name="Two", description="d", tags={"a": "b"})
out["made"] = look(ml.workspaces.begin_create(made).result())
out["everywhere"] = sorted(w.name for w in ml.workspaces.list(scope="subscription"))
out["no_location"] = look(ml.workspaces.begin_create(Workspace(name="third")).result())
out["again"] = look(ml.workspaces.begin_create(Workspace(name="second", tags={"c": "d"})).result())
out["updated"] = look(ml.workspaces.begin_update(Workspace(name="second", description="new")).result())
out["keys"] = [ml.workspaces.get_keys(name).user_storage_key for name in ("main", "second")]
ml.workspaces.begin_sync_keys("second").result()
diagnosed = ml.workspaces.begin_diagnose("second").result()
out["diagnosed"] = [one.code for one in diagnosed.storage_account_results or []]
out["tried"] = {one.code: one.message for one in diagnosed.other_results}
ml.workspaces.begin_delete("second", delete_dependent_resources=False).result()
ml.workspaces.begin_delete("third", delete_dependent_resources=True).result()
out["left"] = [w.name for w in ml.workspaces.list()]
out["gone"] = error_of(lambda: ml.workspaces.get("second"))
out["misspelt"] = error_of(lambda: ml.workspaces.get("mian"))
out["no_group"] = error_of(lambda: ml.workspaces.begin_create(
    Workspace(name="w4", resource_group="nope", location="eastus")).result())
out["resolved"] = sorted(str(host) for host in seen)
print("RESULT" + json.dumps(out))
"""


def run(python: str, script: str, env: dict[str, str]) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [python, "-c", script], env={**clean, **env}, capture_output=True, text=True, timeout=570
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


@pytest.fixture(scope="module")
def flows(server, sdk_python) -> dict:
    return run(sdk_python, FLOWS, server.env)


def test_get_and_list(flows, server):
    assert flows["main"]["name"] == "main"
    assert flows["main"]["discovery"].startswith(server.state["addresses"]["https"])
    assert flows["main"]["mlflow"].startswith("azureml://localhost:")
    assert flows["listed"] == ["main"]


def test_create_through_the_deployment_template(flows):
    made = flows["made"]
    assert (made["location"], made["display_name"], made["description"]) == ("westeurope", "Two", "d")
    assert made["tags"]["a"] == "b"
    assert made["storage"] != flows["main"]["storage"]
    assert flows["everywhere"] == ["main", "second"]
    assert flows["no_location"]["location"] == flows["main"]["location"]


def test_create_of_an_existing_one_and_update(flows):
    assert flows["again"]["tags"].items() >= {"a": "b", "c": "d"}.items()
    assert flows["updated"]["description"] == "new"
    assert flows["updated"]["display_name"] == "Two"


def test_each_workspace_has_a_key_of_its_own(flows):
    assert len(set(flows["keys"])) == 2
    assert set(flows["diagnosed"]) <= {"DiskNearlyFull"}
    tried = flows["tried"]
    assert {"StorageWorks", "StorageReachable", "SecretsWork", "Isolation", "Versions"} <= set(tried)
    assert "isolation level" in tried["Isolation"]


def test_delete(flows):
    assert flows["left"] == ["main"]
    assert "ResourceNotFound" in flows["gone"]


def test_errors_name_what_exists(flows):
    assert "Did you mean 'main'?" in flows["misspelt"]
    assert "There is: tidemill." in flows["no_group"]


def test_nothing_but_this_machine_was_looked_up(flows):
    assert set(flows["resolved"]) <= {"localhost", "127.0.0.1"}


SECRET = """
import json, os
from azure.ai.ml import MLClient
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential

def client(secret):
    authority = os.environ["AZUREML_DEV_URL_MFE"]
    credential = ClientSecretCredential("adfs", os.environ["ID"], secret, authority=authority)
    group = os.environ["AZURE_RESOURCE_GROUP"]
    return MLClient(credential, os.environ["AZURE_SUBSCRIPTION_ID"], group, "main")

name = client(os.environ["SECRET"]).workspaces.get("main").name
try:
    client("wrong").workspaces.get("main")
    refused = ""
except ClientAuthenticationError as error:
    refused = str(error)
print("RESULT" + json.dumps({"name": name, "refused": refused}))
"""


def test_client_secret_credential(server, sdk_python):
    config = json.loads((server.home / "config.json").read_bytes())
    secret = Path(server.home / "secrets" / "client.secret").read_text().strip()
    found = run(sdk_python, SECRET, {**server.env, "ID": config["client_id"], "SECRET": secret})
    assert found["name"] == "main"
    assert "client secret is wrong" in found["refused"]
