"""The unmodified azure-ai-ml client against connections; secrets are shown only when asked for."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os
from azure.ai.ml import MLClient
from azure.ai.ml import entities as e
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
C = e.WorkspaceConnection
made = [
    C(name="git", type="git", target="https://github.com/a/b",
      credentials=e.PatTokenConfiguration(pat="pat-secret")),
    C(name="feed", type="python_feed", target="https://feed.example/simple",
      credentials=e.UsernamePasswordConfiguration(username="ann", password="feed-secret"),
      metadata={"a": "b"}),
    C(name="reg", type="container_registry", target="localhost:5000",
      credentials=e.UsernamePasswordConfiguration(username="bob", password="reg-secret")),
    C(name="regmi", type="container_registry", target="r.example",
      credentials=e.ManagedIdentityConfiguration(client_id="c", resource_id="r")),
    C(name="s3", type="s3", target="bucket",
      credentials=e.AccessKeyConfiguration(access_key_id="AK", secret_access_key="s3-secret")),
    C(name="custom", type="custom", target="anything",
      credentials=e.ApiKeyConfiguration(key="custom-secret")),
    e.AzureBlobStoreConnection(name="blob", url="https://x.blob.core.windows.net/c", container_name="c",
      account_name="x", credentials=e.SasTokenConfiguration(sas_token="sas-secret")),
    e.APIKeyConnection(name="api", api_base="https://api.example", api_key="api-secret"),
    C(name="none", type="git", target="https://github.com/c/d", credentials=e.NoneCredentialConfiguration()),
]
def look(c):
    return {"type": c.type, "target": c.target, "credentials": type(c.credentials).__name__,
            "metadata": c.metadata, "shared": c.is_shared, "dump": str(c._to_dict())}

out = {"made": {}, "got": {}}
for c in made:
    out["made"][c.name] = look(ml.connections.create_or_update(c))
    out["got"][c.name] = look(ml.connections.get(c.name))
out["listed"] = sorted(c.name for c in ml.connections.list())
out["gits"] = sorted(c.name for c in ml.connections.list(connection_type="git"))
out["key"] = ml.connections.get("api", populate_secrets=True).credentials.key
again = ml.connections.get("feed")
again.metadata = {"a": "c"}
again.credentials.password = "new-secret"
out["again"] = look(ml.connections.create_or_update(again))
ml.connections.delete("git")
try:
    ml.connections.get("git")
except ResourceNotFoundError as error:
    out["gone"] = str(error)
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def flows(server, sdk_python) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [sdk_python, "-c", FLOWS], env={**clean, **server.env}, capture_output=True, text=True, timeout=570
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def test_every_type_is_made_and_read_back(flows):
    kinds = {name: (c["type"], c["credentials"]) for name, c in flows["got"].items()}
    assert kinds == {
        "git": ("git", "PatTokenConfiguration"),
        "feed": ("python_feed", "UsernamePasswordConfiguration"),
        "reg": ("container_registry", "UsernamePasswordConfiguration"),
        "regmi": ("container_registry", "ManagedIdentityConfiguration"),
        "s3": ("s3", "AccessKeyConfiguration"),
        "custom": ("custom", "ApiKeyConfiguration"),
        "blob": ("azure_blob", "SasTokenConfiguration"),
        "api": ("api_key", "ApiKeyConfiguration"),
        "none": ("git", "NoneCredentialConfiguration"),
    }
    assert flows["made"] == flows["got"]
    assert flows["got"]["feed"]["metadata"] == {"a": "b"}


def test_no_secret_comes_back_unasked(flows):
    assert "-secret" not in json.dumps([flows["made"], flows["got"], flows["again"]])
    assert flows["key"] == "api-secret"


def test_list_update_and_delete(flows):
    assert flows["listed"] == sorted(flows["got"])
    assert flows["gits"] == ["git", "none"]
    assert flows["again"]["metadata"] == {"a": "c"}
    assert "was not found" in flows["gone"]


def test_no_secret_lies_in_the_home_in_clear(flows, server):
    for path in (*server.home.glob("db/*"), *server.home.glob("logs/*")):
        raw = path.read_bytes()
        assert not [word for word in (b"pat-secret", b"reg-secret", b"new-secret") if word in raw], path
