"""The unmodified Azure SDK against AmlCompute clusters."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

FLOWS = """
import json, os
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, ComputeInstance
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
out = {}

def look(c):
    return {"name": c.name, "type": c.type, "size": c.size, "min": c.min_instances, "max": c.max_instances,
            "idle": c.idle_time_before_scale_down, "tier": c.tier, "state": str(c.provisioning_state),
            "tags": c.tags, "location": c.location, "created": str(c.created_on)}

def error_of(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code, error.error.message]

def make(**change):
    wanted = dict(name="cpu", size="STANDARD_DS3_V2", min_instances=0, max_instances=2,
                  idle_time_before_scale_down=90, tags={"a": "b"})
    return AmlCompute(**{**wanted, **change})

def put(compute):
    return ml.compute.begin_create_or_update(compute).result()

out["created"] = look(put(make()))
out["got"] = look(ml.compute.get("cpu"))
cluster = ml.compute.get("cpu")
cluster.max_instances = 3
out["updated"] = look(ml.compute.begin_update(cluster).result())
out["again"] = look(put(make(max_instances=4, min_instances=0)))
out["low"] = look(put(make(name="cheap", tier="low_priority")))
out["listed"] = sorted(c.name for c in ml.compute.list())
out["nodes"] = list(ml.compute.list_nodes("cpu"))
out["sizes"] = {s.name: [s.vCPUs, s.memoryGB, s.gpus] for s in ml.compute.list_sizes()}
out["usages"] = [[u.name["value"], u.currentValue, u.limit] for u in ml.compute.list_usage()]
out["missing"] = error_of(lambda: ml.compute.get("cpuu"))
out["size"] = error_of(lambda: put(make(name="other", size="STANDARD_DS3_V22")))
out["resized"] = error_of(lambda: put(make(size="Standard_D2s_v3")))
out["swapped"] = error_of(lambda: put(make(name="other", min_instances=3, max_instances=2)))
out["instance"] = error_of(lambda: put(ComputeInstance(name="ci1", size="STANDARD_DS3_V2")))
ml.compute.begin_delete("cheap").wait()
ml.compute.begin_delete("cpu").wait()
out["left"] = [c.name for c in ml.compute.list()]
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


def test_created_as_asked(flows):
    created = flows["created"]
    assert created == flows["got"]
    assert created["size"].lower() == "standard_ds3_v2"
    assert (created["min"], created["max"], created["idle"]) == (0, 2, 90.0)
    assert (created["type"], created["tier"], created["tags"]) == ("amlcompute", "dedicated", {"a": "b"})
    assert created["state"].rsplit(".", 1)[-1].upper() == "SUCCEEDED"
    assert created["created"] not in ("None", "")


def test_updated_in_place(flows):
    assert flows["updated"]["max"] == 3
    assert flows["again"]["max"] == 4
    assert flows["again"]["created"] == flows["created"]["created"]
    assert flows["low"]["tier"] == "low_priority"


def test_listed_and_gone(flows):
    assert flows["listed"] == ["cheap", "cpu"]
    assert flows["nodes"] == []
    assert flows["left"] == []


def test_sizes_and_usages(flows):
    assert flows["sizes"]["Standard_DS3_v2"] == [4, 14.0, 0]
    cores = flows["sizes"]["host"][0]
    assert 1 <= cores <= os.cpu_count()
    assert ["Total Dedicated vCPUs", 0, cores] in flows["usages"]


@pytest.mark.parametrize(
    ("flow", "status", "code", "words"),
    [
        ("missing", 404, "ResourceNotFound", "Did you mean 'cpu'"),
        ("size", 400, "InvalidVmSize", "Did you mean Standard_DS3_v2"),
        ("resized", 409, "ComputePropertyImmutable", "it cannot become Standard_D2s_v3"),
        ("swapped", 400, "BadRequest", "minNodeCount 3 is more than maxNodeCount 2"),
        ("instance", 400, "NotOffered", "ComputeInstance"),
    ],
)
def test_refused_with_the_fix(flows, flow, status, code, words):
    assert flows[flow][:2] == [status, code]
    assert words in flows[flow][2]
