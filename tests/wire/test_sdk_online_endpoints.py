"""The unmodified azure-ai-ml client against online endpoints: made, deployed, changed, refused, deleted."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os, requests
from datetime import timedelta
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (CodeConfiguration, IdentityConfiguration, ManagedOnlineDeployment,
                                  Environment, ManagedIdentityConfiguration,
                                  ManagedOnlineEndpoint, Model, OnlineRequestSettings, ProbeSettings)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.mgmt.monitor import MonitorManagementClient
from azure.mgmt.monitor.models import (AutoscaleProfile, AutoscaleSettingResource, MetricTrigger, ScaleAction,
                                       ScaleCapacity, ScaleRule)

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
E, D, out = ml.online_endpoints, ml.online_deployments, {"errors": {}}

def look(e):
    return {"auth": e.auth_mode, "state": e.provisioning_state, "tags": e.tags, "traffic": e.traffic,
            "mirror": e.mirror_traffic, "identity": e.identity.type, "location": e.location,
            "description": e.description, "properties": e.properties, "scoring": e.scoring_uri,
            "access": e.public_network_access}

def refused(name, call):
    try:
        call()
    except HttpResponseError as error:
        out["errors"][name] = [error.status_code, error.error.code, error.error.message]

made = ManagedOnlineEndpoint(name="sdk-ep", description="d", tags={"a": "b"}, properties={"p": "q"})
out["made"] = look(E.begin_create_or_update(made).result())
fetched = E.get("sdk-ep")
fetched.tags = {"c": "d"}
out["updated"] = look(E.begin_create_or_update(fetched).result())
keys = E.get_keys("sdk-ep")
E.begin_regenerate_keys("sdk-ep", key_type="secondary").result()
after = E.get_keys("sdk-ep")
out["keys"] = [keys.primary_key == after.primary_key, keys.secondary_key == after.secondary_key,
               len(after.secondary_key)]
E.begin_create_or_update(ManagedOnlineEndpoint(name="tokens", auth_mode="aml_token")).result()
token = E.get_keys("tokens")
out["token"] = [token.access_token.count("."), token.expiry_time_utc, token.refresh_after_time_utc,
                token.token_type]
E.begin_create_or_update(ManagedOnlineEndpoint(name="entra", auth_mode="aad_token")).result()
out["entra"] = E.get_keys("entra").access_token.count(".")
out["listed"] = sorted(e.name for e in E.list())

os.makedirs("code", exist_ok=True)
open("code/score.py", "w").write("def init(): print('up and well')\\ndef run(data): return data\\n")
open("model.pkl", "w").write("x")
deployment = ManagedOnlineDeployment(
    name="blue", endpoint_name="sdk-ep", model=Model(path="model.pkl"), instance_type="Standard_DS1_v2",
    code_configuration=CodeConfiguration(code="code", scoring_script="score.py"),
    environment=Environment(conda_file={"dependencies": ["python"]}, image="python:3.11"),
    instance_count=2, tags={"t": "u"},
    request_settings=OnlineRequestSettings(request_timeout_ms=9000, max_concurrent_requests_per_instance=4),
    liveness_probe=ProbeSettings(initial_delay=20), environment_variables={"A": "b"})
made = D.begin_create_or_update(deployment).result()
out["deployed"] = made.provisioning_state
blue = D.get("blue", "sdk-ep")
out["deployment"] = {"count": blue.instance_count, "size": blue.instance_type, "tags": blue.tags,
                     "timeout": blue.request_settings.request_timeout_ms,
                     "concurrent": blue.request_settings.max_concurrent_requests_per_instance,
                     "delay": blue.liveness_probe.initial_delay, "env": blue.environment_variables,
                     "script": blue.code_configuration.scoring_script, "scale": blue.scale_settings.type}
out["zeroes"] = E.get("sdk-ep").traffic
out["deployments"] = [d.name for d in D.list("sdk-ep")]
out["written"] = D.get_logs("blue", "sdk-ep", lines=10)
out["logs"] = D.get_logs("blue", "sdk-ep", lines=10, container_type="storage-initializer")

open("request.json", "w").write('{"x": [1, 2]}')
try:
    E.invoke("sdk-ep", request_file="request.json")
except Exception as error:
    out["no traffic"] = str(error)
# From now on the client names this deployment each time: it keeps its headers from one call to the next.
out["by name"] = E.invoke("sdk-ep", request_file="request.json", deployment_name="blue")
e = E.get("sdk-ep")
e.traffic = {"blue": 100}
E.begin_create_or_update(e).result()
out["invoked"] = E.invoke("sdk-ep", request_file="request.json")
old = E.get_keys("sdk-ep").primary_key
E.begin_regenerate_keys("sdk-ep").result()
uri = E.get("sdk-ep").scoring_uri
ask = lambda key: requests.post(uri, data='{"x": 1}', headers={"Authorization": f"Bearer {key}"}).status_code
out["old and new key"] = [ask(old), ask(E.get_keys("sdk-ep").primary_key)]
out["auth modes"] = []
for mode in ("aml_token", "aad_token", "key"):
    e = E.get("sdk-ep")
    e.auth_mode = mode
    E.begin_create_or_update(e).result()
    out["auth modes"].append(E.invoke("sdk-ep", request_file="request.json"))
blue.instance_count = 1
out["scaled"] = D.begin_create_or_update(blue).result().instance_count
open("code/score.py", "w").write("def init(): raise RuntimeError('no such model')\\ndef run(data): pass\\n")
deployment.code_configuration = CodeConfiguration(code="code", scoring_script="score.py")
refused("init", lambda: D.begin_create_or_update(deployment).result())
out["failed"] = D.get("blue", "sdk-ep").provisioning_state
out["traffic"] = E.get("sdk-ep").traffic
out["after"] = E.invoke("sdk-ep", request_file="request.json")
refused("busy", lambda: D.begin_delete("blue", "sdk-ep").result())
e = E.get("sdk-ep")
e.traffic = {"blue": 0}
E.begin_create_or_update(e).result()
e.traffic = {"blue": 90}
refused("sum", lambda: E.begin_create_or_update(e).result())
e.traffic = {"bleu": 100}
refused("name", lambda: E.begin_create_or_update(e).result())
refused("identity", lambda: E.begin_create_or_update(ManagedOnlineEndpoint(
    name="other", identity=IdentityConfiguration(type="user_assigned", user_assigned_identities=[
        ManagedIdentityConfiguration(resource_id="/subscriptions/x/resourceGroups/y/providers/"
                                     "Microsoft.ManagedIdentity/userAssignedIdentities/nobody")]))).result())
refused("missing", lambda: D.begin_create_or_update(ManagedOnlineDeployment(
    name="green", endpoint_name="sdk-ep", model="azureml:nothing:1", instance_type="Standard_DS3_v2",
    environment="AzureML-sklearn-1.5@latest")).result())
refused("endpoint", lambda: D.begin_create_or_update(ManagedOnlineDeployment(
    name="green", endpoint_name="nowhere", model="azureml:nothing:1")).result())
refused("logs", lambda: D.get_logs("red", "sdk-ep", lines=1))
A = MonitorManagementClient(
    DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], base_url=os.environ["TM_HTTPS"],
    credential_scopes=["https://management.azure.com/.default"]).autoscale_settings
group = os.environ["AZURE_RESOURCE_GROUP"]

def setting(target, metric="CpuUtilizationPercentage"):
    rule = ScaleRule(
        metric_trigger=MetricTrigger(
            metric_name=metric, metric_resource_uri=target, time_grain=timedelta(minutes=1),
            statistic="Average", operator="GreaterThan", time_aggregation="Average", threshold=70,
            time_window=timedelta(minutes=5)),
        scale_action=ScaleAction(direction="Increase", type="ChangeCount", value="2",
                                 cooldown=timedelta(hours=1)))
    profile = AutoscaleProfile(name="p", capacity=ScaleCapacity(minimum="1", maximum="5", default="1"),
                               rules=[rule])
    return {"location": "local", "enabled": True, "target_resource_uri": target, "profiles": [profile]}

made = A.create_or_update(group, "auto", AutoscaleSettingResource(**setting(blue.id)))
got = A.get(group, "auto")
out["autoscale"] = [made.id == got.id, got.type, got.profiles[0].capacity.maximum,
                    str(got.profiles[0].rules[0].metric_trigger.time_window),
                    [s.name for s in A.list_by_resource_group(group)],
                    [s.name for s in A.list_by_subscription()]]
refused("second", lambda: A.create_or_update(group, "b", AutoscaleSettingResource(**setting(blue.id))))
refused("metric", lambda: A.create_or_update(group, "auto", AutoscaleSettingResource(
    **setting(blue.id, "Moon"))))
refused("target", lambda: A.create_or_update(group, "b", AutoscaleSettingResource(
    **setting(blue.id + "x"))))
A.delete(group, "auto")
A.create_or_update(group, "again", AutoscaleSettingResource(**setting(blue.id)))
D.begin_delete("blue", "sdk-ep").result()
out["settings left"] = [s.name for s in A.list_by_resource_group(group)]
out["left"] = [d.name for d in D.list("sdk-ep")]
E.begin_delete("sdk-ep").result()
try:
    E.get("sdk-ep")
except ResourceNotFoundError as error:
    out["gone"] = error.error.message
print("\\n" + json.dumps(out, default=str))
"""


@pytest.fixture(scope="module")
def flows(server: Any, sdk_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sdk_python, "-c", FLOWS],
        env={**os.environ, **server.env, "TM_HTTPS": server.state["addresses"]["https"]},
        cwd=tmp_path_factory.mktemp("flows"),
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_endpoint_comes_back_as_it_was_given(flows: dict[str, Any]):
    made, updated = flows["made"], flows["updated"]
    assert (made["auth"], made["state"], made["tags"], made["description"]) == (
        "key",
        "Succeeded",
        {"a": "b"},
        "d",
    )
    assert (made["traffic"], made["mirror"], made["identity"]) == ({}, {}, "system_assigned")
    assert made["properties"]["p"] == "q"
    assert updated["tags"] == {"c": "d"}
    assert updated["properties"]["lastModifiedAt"] > made["properties"]["lastModifiedAt"]


def test_keys_and_tokens(flows: dict[str, Any]):
    assert flows["keys"] == [True, False, 43]
    dots, expires, refresh, kind = flows["token"]
    assert (dots, expires - refresh, kind) == (2, 1800, "Bearer")
    assert flows["entra"] == 2
    assert flows["listed"] == ["entra", "sdk-ep", "tokens"]


def test_a_deployment_comes_back_as_it_was_given(flows: dict[str, Any]):
    assert flows["deployment"] == {
        "count": 2,
        "size": "Standard_DS1_v2",
        "tags": {"t": "u"},
        "timeout": 9000,
        "concurrent": 4,
        "delay": 20,
        "env": {"A": "b"},
        "script": "score.py",
        "scale": "default",
    }
    assert flows["zeroes"] == {"blue": 0}
    assert flows["deployments"] == ["blue"]
    assert flows["deployed"] == "Succeeded"
    assert flows["written"].count("up and well") == 2
    assert flows["logs"].count("An instance of deployment 'sdk-ep/blue'") == 2


def test_requests_go_by_traffic_keys_and_tokens(flows: dict[str, Any]):
    """What an operation that is done has changed holds for the very next request."""
    assert json.loads(json.loads(flows["by name"])) == {"x": [1, 2]}
    assert flows["invoked"] == flows["by name"]
    assert "traffic" in flows["no traffic"]
    assert flows["old and new key"] == [401, 200]
    assert flows["auth modes"] == [flows["by name"]] * 3


def test_changes_of_a_deployment_that_serves(flows: dict[str, Any]):
    """What fails leaves the old instances with their traffic."""
    assert flows["scaled"] == 1
    assert flows["failed"] == "Failed"
    assert flows["traffic"] == {"blue": 100}
    assert flows["after"] == flows["invoked"]
    assert "RuntimeError: no such model" in flows["errors"]["init"][2]
    assert "Traceback" in flows["errors"]["init"][2]


def test_refusals_name_value_place_and_fix(flows: dict[str, Any]):
    said = {name: (status, code) for name, (status, code, _) in flows["errors"].items()}
    code = said.pop("init")[1]
    assert code == "UserScriptFailed"
    assert said == {
        "second": (409, "TargetHasSetting"),
        "metric": (400, "BadRequest"),
        "target": (404, "ResourceNotFound"),
        "busy": (409, "DeploymentHasTraffic"),
        "sum": (400, "InvalidTraffic"),
        "name": (400, "DeploymentNotFound"),
        "identity": (400, "IdentityNotFound"),
        "missing": (404, "ResourceNotFound"),
        "endpoint": (404, "ResourceNotFound"),
        "logs": (404, "ResourceNotFound"),
    }
    assert "sums to 90" in flows["errors"]["sum"][2]
    assert "There are: blue" in flows["errors"]["name"][2]


def test_autoscale_settings_of_a_deployment(flows: dict[str, Any]):
    same, kind, maximum, window, in_group, in_subscription = flows["autoscale"]
    assert same
    assert kind == "Microsoft.Insights/autoscaleSettings"
    assert (maximum, window) == ("5", "0:05:00")
    assert in_group == in_subscription == ["auto"]
    assert flows["settings left"] == []


def test_deleted_is_gone(flows: dict[str, Any]):
    assert flows["left"] == []
    assert "Online endpoint 'sdk-ep' was not found" in flows["gone"]
