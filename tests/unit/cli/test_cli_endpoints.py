"""Files of endpoints and deployments: what is sent, what is wrong and where; percentages and latencies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.cli.commands.endpoint import latency, percentages
from tidemill.cli.errors import CliError
from tidemill.cli.yaml.document import YamlError
from tidemill.cli.yaml.endpoint_load import (
    DeploymentReferences,
    deployment_body,
    endpoint_body,
    load_deployment,
    load_endpoint,
)
from tidemill.domain.serving.model import RequestSettings, read_deployment

EXAMPLES = Path(__file__).parents[4] / "shared/data/azureml_examples/endpoints/online"
ENDPOINT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: digits
auth_mode: aml_token
traffic: {blue: 90, green: 10}
mirror_traffic: {}
public_network_access: disabled
identity:
  type: user_assigned
  user_assigned_identities:
    - resource_id: /subscriptions/s/…/userAssignedIdentities/who
tags: {a: 1}
provisioning_state: Succeeded
"""
DEPLOYMENT = """\
name: blue
endpoint_name: digits
type: managed
model:
  path: model
  type: mlflow_model
code_configuration:
  code: src
  scoring_script: score.py
environment:
  image: python:3.11
  conda_file: conda.yml
environment_variables: {A: 1, B: null}
instance_type: Standard_DS3_v2
instance_count: 2
request_settings:
  request_timeout_ms: 1500
  max_concurrent_requests_per_instance: 4
  max_queue_wait_ms: 250
liveness_probe: {initial_delay: 90, period: 5, failure_threshold: 3}
scale_settings: {type: target_utilization, min_instances: 0, max_instances: 3, polling_interval: 10}
egress_public_network_access: disabled
data_collector: {collections: {model_inputs: {enabled: 'True'}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model/MLmodel", "src/score.py", "conda.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x: 1\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yml"
    path.write_text(text, "utf-8")
    return path


def problems(folder: Path, text: str, *settings: str) -> list[str]:
    with pytest.raises(YamlError) as caught:
        load_deployment(write(folder, text), settings, "spec.yml")
    return [str(problem) for problem in caught.value.problems]


def test_an_endpoint_is_sent_as_the_sdk_sends_it(folder: Path):
    spec = load_endpoint(write(folder, ENDPOINT), ("name=other",))
    assert endpoint_body(spec.data, "here") == {
        "location": "here",
        "tags": {"a": "1"},
        "properties": {
            "authMode": "AMLToken",
            "properties": {},
            "traffic": {"blue": 90, "green": 10},
            "mirrorTraffic": {},
            "publicNetworkAccess": "Disabled",
        },
        "identity": {
            "type": "UserAssigned",
            "userAssignedIdentities": {"/subscriptions/s/…/userAssignedIdentities/who": {}},
        },
    }


def test_a_deployment_is_sent_as_the_server_reads_it(folder: Path):
    spec = load_deployment(write(folder, DEPLOYMENT))
    body = deployment_body(spec.data, DeploymentReferences("m", "c", "e"), "here")
    properties = body["properties"]
    assert body["sku"] == {"name": "Default", "capacity": 2}
    assert properties["dataCollector"]["collections"] == {"model_inputs": {"dataCollectionMode": "Enabled"}}
    del properties["dataCollector"]
    read = read_deployment("digits", "blue", properties, body["sku"])
    assert (read.model, read.code_id, read.environment_id, read.instances) == ("m", "c", "e", 2)
    assert read.environment_variables == (("A", "1"),)
    assert read.request == RequestSettings(1.5, 4, 0.25)
    assert (read.liveness.initial_delay_s, read.liveness.period_s, read.liveness.failure) == (90, 5, 3)
    assert (read.scale.minimum, read.scale.maximum, read.scale.polling_s) == (0, 3, 10)
    assert not read.egress


def test_scaling_by_requests_and_to_zero(folder: Path):
    more = (
        "scale_settings.target_requests_per_instance=8",
        "scale_settings.idle_time_before_scale_to_zero=90",
        "scale_settings.park_instance=false",
    )
    body = deployment_body(
        load_deployment(write(folder, DEPLOYMENT), more).data, DeploymentReferences("m", "c", "e"), "x"
    )
    del body["properties"]["dataCollector"]
    read = read_deployment("digits", "blue", body["properties"], body["sku"]).scale
    assert (read.target_requests, read.idle_s, read.parks) == (8, 90, False)


def test_no_instances_are_none(folder: Path):
    spec = load_deployment(write(folder, DEPLOYMENT), ("instance_count=0",))
    assert deployment_body(spec.data, DeploymentReferences(), "here")["sku"]["capacity"] == 0


def test_all_that_is_wrong_is_said_with_its_place(folder: Path):
    text = DEPLOYMENT.replace("score.py", "scor.py").replace("path: model", "path: modle")
    text = text.replace("instance_count: 2", "instance_count: two").replace("liveness_probe", "livenes_probe")
    said = problems(folder, text)
    assert [line.split(":")[1] for line in said] == ["5", "9", "15", "20"]
    assert "Did you mean 'model'" in said[0]
    assert "there is no scor.py in" in said[1]
    assert "must be a whole number" in said[2]
    assert "Did you mean 'liveness_probe'" in said[3]


def test_microsofts_examples_load_unchanged():
    if not EXAMPLES.is_dir():
        pytest.skip("Microsoft's examples are not on this machine")
    assert load_endpoint(EXAMPLES / "ncd/create-endpoint.yaml").data["name"] == "my-endpoint"
    with pytest.raises(YamlError) as caught:  # the model's files are not among the examples
        load_deployment(EXAMPLES / "ncd/lightgbm-deployment.yaml")
    assert [problem.place.line for problem in caught.value.problems] == [7]


def test_percentages_and_latencies():
    assert percentages(("blue=90 green=10",)) == percentages(("blue=90", "green=10"))
    for wrong in ("blue", "=5", "blue=x", "blue=-5"):
        with pytest.raises(CliError, match="write DEPLOYMENT=PERCENT"):
            percentages((wrong,))
    assert latency([0.0031], "blue") == "3.1 ms, by deployment blue"
    many = latency([index / 1000 for index in range(1, 101)], "blue")
    assert many == "100 answers: p50 51.0 ms, p95 96.0 ms, p99 100.0 ms, longest 100.0 ms"
