"""Jobs without a compute by the unmodified Azure SDK: commands, YAML, sweeps, pipelines, queue settings."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

SCRIPT = """
import json, os, pathlib, sys
from azure.ai.ml import MLClient, command, dsl, load_job
from azure.ai.ml.entities import Environment, JobResourceConfiguration, QueueSettings
from azure.ai.ml.sweep import Choice
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
tmp = pathlib.Path(sys.argv[1])
ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
out = {}

def run(text="true", **more):
    return ml.jobs.create_or_update(command(command=text, environment="plain:1", **more))

def refused(call):
    try:
        call()
    except HttpResponseError as error:
        return [error.status_code, error.error.code, error.error.message]

def shown(job):
    ml.jobs.stream(job.name)
    job = ml.jobs.get(job.name)
    found = job.resources
    return {"status": job.status, "compute": job.compute, "size": found and found.instance_type,
            "count": found and found.instance_count, "queue": job.queue_settings and {
                "tier": job.queue_settings.job_tier, "priority": job.queue_settings.priority}}

sys.stdout, printed = open(tmp / "streams", "w"), sys.stdout
out["nothing"] = shown(run())
out["local"] = shown(run(compute="local"))
out["size"] = shown(run(instance_type="Standard_DS1_v2", instance_count=2))
listed = command(command="true", environment="plain:1")
listed.resources = JobResourceConfiguration(
    instance_type=["Standard_NC6s_v3", "Standard_DS2_v2"], instance_count=1)
out["list"] = shown(ml.jobs.create_or_update(listed))
tier = command(command="true", environment="plain:1", queue_settings=QueueSettings(job_tier="spot"))
out["tier"] = shown(ml.jobs.create_or_update(tier))
(tmp / "job.yml").write_text('''
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
command: echo from yaml
environment: azureml:plain:1
compute: serverless
queue_settings: {job_tier: standard, priority: low}
''')
out["yaml"] = shown(ml.jobs.create_or_update(load_job(str(tmp / "job.yml"))))
out["bad"] = refused(lambda: run(instance_type="Standard_NC6s_v3"))

kept = run("exit 3", properties={"tidemill.keep_on_failure": "20m"})
try:
    ml.jobs.stream(kept.name)
except Exception:  # it fails
    pass
out["kept"] = [kept.name, ml.jobs.get(kept.name).properties.get("tidemill.keep_on_failure")]

step = command(command="echo ${{inputs.x}}", environment="plain:1", inputs={"x": 1})
sweep = step(x=Choice([1, 2])).sweep(sampling_algorithm="grid", primary_metric="m", goal="maximize")
sweep.resources = JobResourceConfiguration(instance_type="Standard_DS1_v2", instance_count=1)
sweep.set_limits(max_total_trials=2, max_concurrent_trials=2)
made = ml.jobs.create_or_update(sweep)
try:
    ml.jobs.stream(made.name)
except Exception:  # it logs no metric
    pass
out["trials"] = [child.compute for child in ml.jobs.list(parent_job_name=made.name)]
out["sweep"] = made.name

@dsl.pipeline(default_compute="serverless")
def pipeline():
    one = command(name="one", display_name="one", command="echo 1 > ${{outputs.o}}/x", environment="plain:1",
                  outputs={"o": {"type": "uri_folder"}})()
    two = command(name="two", display_name="two", command="cat ${{inputs.i}}/x", environment="plain:1",
                  inputs={"i": {"type": "uri_folder"}})(i=one.outputs.o)
    two.resources = JobResourceConfiguration(instance_type="Standard_DS1_v2", instance_count=1)

job = ml.jobs.create_or_update(pipeline())
ml.jobs.stream(job.name)
job = ml.jobs.get(job.name)
out["pipeline"] = [job.status, job.settings.default_compute]
out["steps"] = {child.display_name: child.name for child in ml.jobs.list(parent_job_name=job.name)}
out["computes"] = [compute.name for compute in ml.compute.list()]
sys.stdout = printed
print("RESULT" + json.dumps(out, default=str))
"""


@pytest.fixture(scope="module")
def found(server, sdk_python, tmp_path_factory) -> dict:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "PYTHON"))}
    done = subprocess.run(
        [sdk_python, "-c", SCRIPT, str(tmp_path_factory.mktemp("serverless"))],
        env={**clean, **server.env},
        capture_output=True,
        text=True,
        timeout=570,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def test_it_is_given_back_with_the_size_that_it_has(found):
    nothing = {"compute": None, "size": "Standard_DS3_v2", "count": 1, "queue": None, "status": "Completed"}
    assert found["nothing"] == nothing
    assert found["size"] == {**nothing, "size": "Standard_DS1_v2", "count": 2}
    assert found["list"] == {**nothing, "size": "Standard_DS2_v2"}  # the other needs a GPU
    assert found["local"] == {**nothing, "compute": "local", "size": None, "count": None}
    assert found["tier"] == {**nothing, "queue": {"tier": "spot", "priority": None}}
    queue = {"tier": "standard", "priority": "low"}
    assert found["yaml"] == {**nothing, "compute": "serverless", "queue": queue}


def test_a_size_that_cannot_be_had_is_refused(found):
    assert found["bad"][:2] == [400, "GpusMissing"]


def test_a_property_keeps_the_nodes_of_a_failed_job(found, server):
    name, given = found["kept"]
    assert given == "20m"
    with sqlite3.connect(f"file:{server.home}/db/tidemill.db?mode=ro", uri=True) as db:
        row = "SELECT state, next_at - modified_at FROM resources WHERE type = 'jobs' AND name = ?"
        state, left = db.execute(row, (name,)).fetchone()
        kept = "SELECT count(*) FROM intervals WHERE ended_at IS NULL AND id LIKE '%:kept'"
        assert db.execute(kept).fetchone() == (1,)
    assert state == "Failed"
    assert 20 * 60e6 <= left < 21 * 60e6  # from when it was heard of


def test_trials_and_steps_have_nodes_of_their_own(found, server):
    assert found["trials"] == [None, None]
    assert found["pipeline"] == ["Completed", "serverless"]
    with sqlite3.connect(f"file:{server.home}/db/tidemill.db?mode=ro", uri=True) as db:
        sizes = dict(
            db.execute(
                "SELECT r.name, i.size FROM resources r JOIN intervals i ON i.job_uid = r.uid "
                "WHERE i.kind = 'allocation' AND r.parent_uid <> ''"
            )
        )
    assert sizes.pop(found["steps"]["one"]) == "Standard_DS3_v2"
    assert sizes.pop(found["steps"]["two"]) == "Standard_DS1_v2"
    assert list(sizes.values()) == ["Standard_DS1_v2"] * 2  # the trials


def test_nothing_of_it_is_in_the_list_of_computes(found):
    assert found["computes"] == []
