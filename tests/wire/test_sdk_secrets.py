"""Unmodified Azure clients: azure-keyvault-secrets on a workspace's secrets, azure-mgmt-monitor on the
activity log, azure-ai-ml with a job that names a secret."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os
from azure.ai.ml import MLClient, command
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient
from azure.mgmt.monitor import MonitorManagementClient

credential = DefaultAzureCredential()
sub, group, name = (os.environ[v] for v in
                    ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME"))
base = os.environ["TM_HTTPS"]
workspace = (f"/subscriptions/{sub}/resourceGroups/{group}/providers/"
             f"Microsoft.MachineLearningServices/workspaces/{name}")
vault = SecretClient(f"{base}/keyvault{workspace}", credential, verify_challenge_resource=False)
out = {}

made = vault.set_secret("api-key", "value-one", content_type="text/plain", tags={"team": "a"})
kept = made.properties
out["made"] = [made.name, made.value, kept.content_type, kept.tags, kept.enabled]
second = vault.set_secret("api-key", "value-two")
out["newest"] = vault.get_secret("api-key").value
out["first"] = vault.get_secret("api-key", made.properties.version).value
out["names"] = [s.name for s in vault.list_properties_of_secrets()]
out["versions"] = [s.version for s in vault.list_properties_of_secret_versions("api-key")]
out["made_versions"] = [second.properties.version, made.properties.version]
off = vault.update_secret_properties("api-key", made.properties.version, enabled=False)
out["off"] = off.enabled
try:
    vault.get_secret("api-key", made.properties.version)
except HttpResponseError as error:
    out["disabled"] = error.status_code
try:
    vault.get_secret("nothing")
except ResourceNotFoundError as error:
    out["missing"] = str(error.message)

ml = MLClient(credential, sub, group, name)
job = ml.jobs.create_or_update(command(
    command="echo got-${#KEY}", environment=os.environ["TM_ENVIRONMENT"],
    environment_variables={"KEY": "${{secrets.api-key}}"}))
ml.jobs.stream(job.name)
out["variables"] = ml.jobs.get(job.name).environment_variables
ml.jobs.download(job.name, download_path=os.environ["TM_SCRATCH"])
out["log"] = "".join(
    open(os.path.join(folder, f)).read()
    for folder, _, names in os.walk(os.environ["TM_SCRATCH"]) for f in names if f == "std_log.txt")

out["deleted"] = vault.begin_delete_secret("api-key").result().name
out["left"] = [s.name for s in vault.list_properties_of_secrets()]

monitor = MonitorManagementClient(credential, sub, base_url=base, credential_scopes=[base + "/.default"])
when = "eventTimestamp ge '2020-01-01T00:00:00Z'"
events = list(monitor.activity_logs.list(filter=f"{when} and resourceUri eq '{workspace}/secrets/api-key'"))
out["events"] = [[e.operation_name.value, e.status.value, e.caller, e.http_request.method] for e in events]
out["times"] = all(e.event_timestamp is not None for e in events)
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def flows(server, sdk_python, tmp_path_factory) -> dict:
    import urllib.request

    token_url = f"{server.env['IDENTITY_ENDPOINT']}?resource=https://management.azure.com/"
    ask = urllib.request.Request(token_url, headers={"X-IDENTITY-HEADER": server.env["IDENTITY_HEADER"]})
    token = json.loads(urllib.request.urlopen(ask, timeout=60).read())["access_token"]
    environment = f"{server.workspace_id}/environments/plain/versions/1"
    url = f"{server.state['addresses']['http']}{environment}?api-version=2024-10-01"
    body = json.dumps({"properties": {"image": "python:3.11"}}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT"), timeout=60).close()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    extra = {
        "TM_HTTPS": server.state["addresses"]["https"],
        "TM_ENVIRONMENT": "azureml:plain:1",
        "TM_SCRATCH": str(tmp_path_factory.mktemp("downloaded")),
    }
    done = subprocess.run(
        [sdk_python, "-c", FLOWS],
        env={**clean, **server.env, **extra},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def test_the_vaults_client(flows):
    assert flows["made"] == ["api-key", "value-one", "text/plain", {"team": "a"}, True]
    assert (flows["newest"], flows["first"]) == ("value-two", "value-one")
    assert flows["names"] == ["api-key"]
    assert flows["versions"] == flows["made_versions"]
    assert (flows["off"], flows["disabled"]) == (False, 403)
    assert "Secret 'nothing' was not found" in flows["missing"]
    assert (flows["deleted"], flows["left"]) == ("api-key", [])


def test_the_sdks_job_gets_the_value_and_shows_the_name(flows):
    assert flows["variables"]["KEY"] == "${{secrets.api-key}}"
    assert "got-9" in flows["log"]


def test_the_monitors_client_reads_the_activity_log(flows):
    action = "Microsoft.MachineLearningServices/workspaces/secrets/"
    seen = [event[0].removeprefix(action) for event in flows["events"]]
    assert seen[-1] == "write"
    assert {"write", "getSecret/action", "delete"} <= set(seen)
    assert flows["times"]
    assert {event[1] for event in flows["events"]} >= {"Succeeded"}
    # What the client asks without a token to learn where to get one is no refusal.
    assert "Failed" not in {event[1] for event in flows["events"] if event[0].endswith("delete")}
