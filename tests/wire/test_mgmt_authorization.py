"""The unmodified azure-mgmt-authorization client, and azure-ai-ml as somebody with few rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
from accessclient import token_for

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

HEAD = """
import json, os, sys, time, uuid
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

out = {}
SUB = os.environ["AZURE_SUBSCRIPTION_ID"]
RG = os.environ["AZURE_RESOURCE_GROUP"]
WS = os.environ["AZUREML_WORKSPACE_NAME"]
BASE = os.environ["AZUREML_DEV_URL_MFE"]

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code if error.error else "", error.message]
"""

ROLES = (
    HEAD
    + """
from azure.mgmt.authorization import AuthorizationManagementClient

client = AuthorizationManagementClient(
    DefaultAzureCredential(), SUB, base_url=BASE, credential_scopes=["https://management.azure.com/.default"])
scope = f"/subscriptions/{SUB}"
group = f"{scope}/resourceGroups/{RG}"
ws = f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{WS}"
who = os.environ["TEST_PRINCIPAL"]

builtin = list(client.role_definitions.list(scope))
out["builtin"] = sorted(r.role_name for r in builtin if r.role_type == "BuiltInRole")
(reader,) = client.role_definitions.list(scope, filter="roleName eq 'Reader'")
out["reader"] = [reader.name, list(reader.permissions[0].actions)]
out["by_id"] = client.role_definitions.get_by_id(reader.id).role_name
name = str(uuid.uuid4())
made = client.role_assignments.create(
    ws, name, {"role_definition_id": reader.id, "principal_id": who, "principal_type": "User"})
out["made"] = [made.name == name, made.scope == ws, made.principal_type, made.principal_id == who]
out["again"] = client.role_assignments.create(
    ws, name, {"role_definition_id": reader.id, "principal_id": who}).name == name
out["twice"] = error_of(lambda: client.role_assignments.create(
    ws, str(uuid.uuid4()), {"role_definition_id": reader.id, "principal_id": who}))
out["nobody"] = error_of(lambda: client.role_assignments.create(
    ws, str(uuid.uuid4()), {"role_definition_id": reader.id, "principal_id": str(uuid.uuid4())}))
out["wrong_type"] = error_of(lambda: client.role_assignments.create(
    ws, str(uuid.uuid4()),
    {"role_definition_id": reader.id, "principal_id": who, "principal_type": "Group"}))
out["no_guid"] = error_of(lambda: client.role_assignments.create(
    ws, "mine", {"role_definition_id": reader.id, "principal_id": who}))
out["got"] = client.role_assignments.get(ws, name).id == made.id
out["got_by_id"] = client.role_assignments.get_by_id(made.id).name == name
out["elsewhere"] = error_of(lambda: client.role_assignments.get(group, name))[0]
mine = f"principalId eq '{who}'"
out["at_ws"] = [a.name == name for a in client.role_assignments.list_for_scope(ws, filter=mine)]
out["assigned_to"] = len(list(client.role_assignments.list_for_scope(ws, filter=f"assignedTo('{who}')")))
out["in_sub"] = len(list(client.role_assignments.list_for_subscription(filter=mine)))
out["in_group"] = len(list(client.role_assignments.list_for_resource_group(RG, filter=mine)))
out["of_resource"] = len(list(client.role_assignments.list_for_resource(
    RG, "Microsoft.MachineLearningServices", "workspaces", WS, filter=mine)))
out["only_above"] = len(list(client.role_assignments.list_for_scope(scope, filter=f"atScope() and {mine}")))
out["owner"] = [a.principal_type for a in client.role_assignments.list_for_scope(ws, filter="atScope()")
                if a.scope == scope]
out["permissions"] = [list(p.actions) for p in client.permissions.list_for_resource_group(RG)]

role = str(uuid.uuid4())
wanted = {"role_name": "Submitter", "description": "May submit.", "assignable_scopes": [ws],
          "permissions": [{"actions": ["Microsoft.MachineLearningServices/workspaces/jobs/*"],
                           "not_actions": ["Microsoft.MachineLearningServices/workspaces/jobs/delete"]}]}
custom = client.role_definitions.create_or_update(ws, role, wanted)
out["custom"] = [custom.role_type, custom.name == role, list(custom.assignable_scopes) == [ws]]
out["named_like_reader"] = error_of(lambda: client.role_definitions.create_or_update(
    ws, str(uuid.uuid4()), {**wanted, "role_name": "reader"}))
out["outside"] = error_of(lambda: client.role_assignments.create(
    group, str(uuid.uuid4()), {"role_definition_id": custom.id, "principal_id": who}))
used = client.role_assignments.create(
    ws, str(uuid.uuid4()), {"role_definition_id": custom.id, "principal_id": who})
out["in_use"] = error_of(lambda: client.role_definitions.delete(ws, role))
client.role_assignments.delete_by_id(used.id)
out["undefined"] = client.role_definitions.delete(ws, role).role_name
out["customs"] = len(list(client.role_definitions.list(ws, filter="type eq 'CustomRole'")))
out["deleted"] = client.role_assignments.delete(ws, name).name == name
out["deleted_again"] = client.role_assignments.delete(ws, name)
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, IdentityConfiguration
ml = MLClient(DefaultAzureCredential(), SUB, RG, WS)
mi = ml.compute.begin_create_or_update(AmlCompute(
    name="mi", size="STANDARD_DS3_V2", max_instances=1,
    identity=IdentityConfiguration(type="system_assigned"))).result().identity
out["identity"] = [mi.type, mi.principal_id == ml.compute.get("mi").identity.principal_id]
of_mi = client.role_assignments.create(ws, str(uuid.uuid4()), {
    "role_definition_id": reader.id, "principal_id": mi.principal_id, "principal_type": "ServicePrincipal"})
out["of_identity"] = of_mi.principal_type
ml.compute.begin_delete("mi").wait()
left = client.role_assignments.list_for_scope(ws, filter=f"principalId eq '{mi.principal_id}'")
out["left_of_identity"] = len(list(left))
(first,) = [a for a in client.role_assignments.list_for_scope(scope, filter="atScope()")]
out["last_owner"] = error_of(lambda: client.role_assignments.delete_by_id(first.id))
print("RESULT" + json.dumps(out))
"""
)

RESTRICTED = (
    HEAD
    + """
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import AmlCompute, Data, Environment
from azure.ai.ml.constants import AssetTypes

class Mine:
    def get_token(self, *scopes, **more):
        return AccessToken(os.environ["TEST_TOKEN"], int(time.time()) + 3600)

ml = MLClient(Mine(), SUB, RG, WS)
out["workspace"] = ml.workspaces.get(WS).name
out["compute"] = error_of(lambda: ml.compute.begin_create_or_update(
    AmlCompute(name="mine", size="STANDARD_DS3_V2", max_instances=1)).result())
ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
os.makedirs("code", exist_ok=True)
open("code/a.py", "w").write("print('hello from ann')\\n")
job = ml.jobs.create_or_update(command(
    name="anns-job", command="python3 a.py", code="code", environment="plain:1", compute="cpu"))
ml.jobs.stream(job.name)
out["job"] = ml.jobs.get("anns-job").status
open("d.csv", "w").write("a,b\\n1,2\\n")
out["data"] = ml.data.create_or_update(Data(name="d", path="d.csv", type=AssetTypes.URI_FILE)).version
out["deleted"] = error_of(lambda: ml.workspaces.begin_delete(WS, delete_dependent_resources=False).result())
print("RESULT" + json.dumps(out))
"""
)


def run(python: str, script: str, env: dict[str, str], cwd: Path) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [python, "-c", script], env={**clean, **env}, capture_output=True, text=True, timeout=570, cwd=cwd
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return {**json.loads(line.removeprefix("RESULT")), "printed": done.stdout}


def cli(server: Any, *words: str) -> Any:
    tidemill = str(Path(sys.executable).with_name("tidemill"))
    done = subprocess.run(
        [tidemill, "--home", str(server.home), *words, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture(scope="module")
def ann(server) -> dict[str, Any]:
    return cli(server, "access", "create-user", "ann")


@pytest.fixture(scope="module")
def flows(server, sdk_python, ann, tmp_path_factory) -> dict[str, Any]:
    env = {**server.env, "TEST_PRINCIPAL": ann["oid"]}
    return run(sdk_python, ROLES, env, tmp_path_factory.mktemp("roles"))


def test_definitions(flows):
    assert {"Owner", "Contributor", "Reader", "AzureML Data Scientist"} <= set(flows["builtin"])
    assert flows["reader"] == ["acdd72a7-3385-48ef-bd42-f606fba81ae7", ["*/read"]]
    assert flows["by_id"] == "Reader"
    assert flows["custom"] == ["CustomRole", True, True]
    assert (flows["undefined"], flows["customs"]) == ("Submitter", 0)


def test_assignments(flows):
    assert flows["made"] == [True, True, "User", True]
    assert flows["again"] is True
    assert (flows["got"], flows["got_by_id"], flows["deleted"], flows["deleted_again"]) == (
        True,
        True,
        True,
        None,
    )
    assert flows["at_ws"] == [True]
    assert [flows[name] for name in ("assigned_to", "in_sub", "in_group", "of_resource")] == [1, 1, 1, 1]
    assert flows["only_above"] == 0
    assert flows["owner"] == ["User"]
    assert flows["permissions"] == [["*"]]


@pytest.mark.parametrize(
    ("flow", "status", "code", "words"),
    [
        ("twice", 409, "RoleAssignmentExists", "already exists"),
        ("nobody", 400, "PrincipalNotFound", "does not exist here"),
        ("wrong_type", 400, "UnmatchedPrincipalType", "is a User, not a Group"),
        ("no_guid", 400, "InvalidId", "must be a GUID"),
        ("named_like_reader", 409, "RoleDefinitionWithSameNameExists", "already"),
        ("outside", 400, "RoleAssignmentScopeNotAssignableToRoleDefinition", "cannot be assigned at"),
        ("in_use", 400, "RoleDefinitionHasAssignments", "is assigned 1 times"),
        ("last_owner", 409, "LastOwner", "without an owner"),
    ],
)
def test_refusals(flows, flow, status, code, words):
    got = flows[flow]
    assert got[:2] == [status, code]
    assert words in got[2]


def test_a_clusters_identity_has_roles_and_goes_with_it(flows):
    assert flows["identity"] == ["system_assigned", True]
    assert (flows["of_identity"], flows["left_of_identity"]) == ("ServicePrincipal", 0)


def test_an_assignment_is_found_only_where_it_was_made(flows):
    assert flows["elsewhere"] == 404


def test_a_data_scientist_submits_and_makes_no_clusters(server, sdk_python, ann, flows, tmp_path):
    cli(server, "compute", "create", "--name", "cpu", "--size", "Standard_DS1_v2")
    cli(server, "access", "grant", "ann", "AzureML Data Scientist")
    token = token_for(server.home, server.state, ann, "https://ml.azure.localhost")
    out = run(sdk_python, RESTRICTED, {**server.env, "TEST_TOKEN": token}, tmp_path)
    assert out["workspace"] == server.state["workspace"]["name"]
    assert out["job"] == "Completed"
    assert "hello from ann" in out["printed"]
    assert out["data"] == "1"
    for flow, action in (("compute", "workspaces/computes/write"), ("deleted", "workspaces/delete")):
        status, code, message = out[flow]
        assert (status, code) == (403, "AuthorizationFailed")
        assert action in message
