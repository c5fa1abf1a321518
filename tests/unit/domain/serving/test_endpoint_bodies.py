"""Endpoints and deployments read from ARM bodies: what the SDK sends, and what is refused with its place."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest, NotOffered, TidemillError
from tidemill.domain.serving.model import (
    AAD_TOKEN,
    AML_TOKEN,
    KEY,
    Change,
    DeploymentSpec,
    Probe,
    RequestSettings,
    ScaleSettings,
    change_between,
    read_deployment,
    read_endpoint,
)
from tidemill.domain.serving.traffic import Traffic, check_traffic, without

MODEL = "azureml:m:1"
# As azure-ai-ml 1.35.2 sends it.
BODY = {
    "codeConfiguration": {"codeId": "c", "scoringScript": "score.py"},
    "environmentId": "e",
    "model": MODEL,
    "properties": {},
    "environmentVariables": {},
    "appInsightsEnabled": False,
    "instanceType": "Standard_DS3_v2",
    "endpointComputeType": "Managed",
}


def read(sku=None, **properties):
    return read_deployment("ep1", "blue", {**BODY, **properties}, sku or {"capacity": 1})


def test_what_the_sdk_sends_is_read():
    assert read() == DeploymentSpec(
        "ep1", "blue", MODEL, "c", "score.py", "e", instance_type="Standard_DS3_v2"
    )
    endpoint = read_endpoint("ep1", {"authMode": "Key", "properties": {}, "traffic": {}, "mirrorTraffic": {}})
    assert (endpoint.auth_mode, endpoint.traffic, endpoint.public) == (KEY, (), True)


@pytest.mark.parametrize(
    ("said", "mode"),
    [("aml_token", AML_TOKEN), ("AMLToken", AML_TOKEN), ("aad_token", AAD_TOKEN), (None, KEY)],
)
def test_auth_modes_in_every_spelling(said, mode):
    assert read_endpoint("ep1", {"authMode": said}).auth_mode == mode


def test_settings_and_probes():
    spec = read(
        {"capacity": 3},
        requestSettings={
            "requestTimeout": "PT1M30S",
            "maxConcurrentRequestsPerInstance": 8,
            "maxQueueWait": "PT0.25S",
        },
        livenessProbe={"initialDelay": "PT20S", "period": "PT5S", "timeout": "PT1S", "failureThreshold": 3},
        scaleSettings={"scaleType": "target_utilization", "minInstances": 0, "maxInstances": 4},
        environmentVariables={"A": 1},
    )
    assert spec.request == RequestSettings(90, 8, 0.25)
    assert spec.liveness == Probe(20, 5, 1, 1, 3)
    assert spec.readiness == Probe()
    assert spec.scale == ScaleSettings("TargetUtilization", 0, 4)
    assert not read(scaleSettings={"scaleType": "Default", "parkInstance": False}).scale.parks
    assert (spec.instances, spec.environment_variables) == (3, (("A", "1"),))


@pytest.mark.parametrize(
    ("properties", "target", "said"),
    [
        ({"codeConfiguration": {"codeId": "c"}}, "codeConfiguration.scoringScript", "no scoringScript"),
        ({"codeConfiguration": {"scoringScript": "s"}}, "codeConfiguration.codeId", "no codeId"),
        ({"codeConfiguration": None, "model": None, "environmentId": None}, "model", "nothing to serve"),
        (
            {"codeConfiguration": {"codeId": "c", "scoringScript": "../s.py"}},
            "codeConfiguration.scoringScript",
            "below the code folder",
        ),
        ({"requestSettings": {"requestTimeout": "5s"}}, "requestSettings.requestTimeout", "ISO 8601"),
        ({"requestSettings": {"requestTimeout": "PT0S"}}, "requestSettings.requestTimeout", "must lie"),
        (
            {"requestSettings": {"maxConcurrentRequestsPerInstance": 0}},
            "requestSettings.maxConcurrentRequestsPerInstance",
            "between 1 and",
        ),
        ({"livenessProbe": {"period": "PT0S"}}, "livenessProbe.period", "must lie"),
        ({"scaleSettings": {"scaleType": "Magic"}}, "scaleSettings.scaleType", "TargetUtilization"),
        (
            {"scaleSettings": {"scaleType": "TargetUtilization", "minInstances": 3, "maxInstances": 2}},
            "scaleSettings.minInstances",
            "more than the greatest, 2",
        ),
        ({"scaleSettings": {"parkInstance": "later"}}, "scaleSettings.parkInstance", "Use true, false"),
        ({"modelMountPath": "var/models"}, "modelMountPath", "absolute path"),
        ({"environmentVariables": {"A=B": "1"}}, "environmentVariables", "not valid"),
        ({"egressPublicNetworkAccess": "maybe"}, "egressPublicNetworkAccess", "Enabled, Disabled"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(properties, target, said):
    with pytest.raises(InvalidRequest, match=said) as error:
        read(**properties)
    assert error.value.target == f"properties.{target}"


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"endpointComputeType": "Kubernetes"}, "only managed online deployments"),
        ({"dataCollector": {"collections": {"x": {"dataCollectionMode": "Enabled"}}}}, "data collection"),
    ],
)
def test_what_azure_has_and_we_have_not_is_said(properties, said):
    with pytest.raises(NotOffered, match=said):
        read(**properties)
    with pytest.raises(NotOffered, match="Kubernetes"):
        read_endpoint("ep1", {"compute": "azureml:aks"})


@pytest.mark.parametrize("name", ["", "ab", "1ab", "a_b", "abc-", "a" * 33, "a b c"])
def test_names(name):
    with pytest.raises(InvalidRequest, match="3 to 32 letters"):
        read_endpoint(name, {})
    with pytest.raises(InvalidRequest, match="3 to 32 letters"):
        read_deployment("ep1", name, BODY, {})


def test_only_what_instances_were_started_with_replaces_them():
    old = read()
    assert change_between(old, old) is Change.NONE
    assert change_between(old, replace(old, request=RequestSettings(9))) is Change.ROUTE
    assert change_between(old, replace(old, instances=2)) is Change.SCALE
    assert change_between(old, replace(old, model="other", instances=2)) is Change.REPLACE
    assert change_between(old, replace(old, instance_type="standard_ds3_V2")) is Change.NONE


def test_traffic_goes_by_the_rows_names():
    found = check_traffic((("BLUE", 90), ("green", 10)), (), ["blue", "Green"])
    assert found == Traffic((("blue", 90), ("Green", 10)))


@pytest.mark.parametrize(
    ("shares", "mirror", "said"),
    [
        ({"blue": 90}, {}, "sums to 90"),
        ({"blue": 90, "green": 20}, {}, "sums to 110"),
        ({"red": 100}, {}, "'red', which the endpoint does not have. There are: blue and green"),
        ({"blue": 100}, {"green": 60}, "at most 50 %"),
        ({"blue": 100}, {"blue": 10}, "one or the other"),
        ({}, {"blue": 10, "green": 10}, "only one deployment"),
    ],
)
def test_traffic_that_cannot_be(shares, mirror, said):
    with pytest.raises(InvalidRequest, match=said):
        check_traffic(tuple(shares.items()), tuple(mirror.items()), ["blue", "green"])


def test_traffic_of_no_deployment_is_no_traffic():
    endpoint = read_endpoint("ep1", {"traffic": {"blue": 0}})
    assert check_traffic(endpoint.traffic, endpoint.mirror, ()) == Traffic()
    assert without({"Blue": 90, "green": 10}, "blue") == {"green": 10}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*BODY, "requestSettings", "livenessProbe", "scaleSettings", "dataCollector", "modelMountPath"]


@given(st.dictionaries(st.sampled_from(FIELDS), json, max_size=4), json)
def test_any_body_is_read_or_refused(changes, capacity):
    with contextlib.suppress(TidemillError):
        read_deployment("ep1", "blue", {**BODY, **changes}, {"capacity": capacity})
    with contextlib.suppress(TidemillError):
        read_endpoint("ep1", {"traffic": changes.get("model"), "authMode": capacity})
