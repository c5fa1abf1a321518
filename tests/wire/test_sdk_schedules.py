"""The unmodified azure-ai-ml client against schedules: both triggers, enable, disable, trigger, delete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]
# Schedules of the tests fire twelve hours from now: none but those that are asked for.
FAR = (datetime.now(UTC) + timedelta(hours=12)).hour

FLOWS = """
import json, os
from datetime import datetime
from azure.ai.ml import MLClient, command
from azure.ai.ml.constants import TimeZone
from azure.ai.ml.entities import CronTrigger, JobSchedule, RecurrencePattern, RecurrenceTrigger
from azure.ai.ml._restclient.arm_ml_service.models import ScheduleListViewType
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
FAR = os.environ["TM_FAR"]

def job(text="echo hi", **more):
    return command(command=text + " ${{inputs.x}}", inputs={"x": 3}, environment_variables={"A": "b"},
                   environment="AzureML-sklearn-1.5@latest", compute="local", **more)

def look(schedule):
    trigger = schedule.trigger
    found = {"enabled": schedule.is_enabled, "state": schedule.provisioning_state, "type": trigger.type,
             "zone": trigger.time_zone, "start": trigger.start_time, "end": trigger.end_time,
             "command": schedule.create_job.command, "tags": schedule.tags,
             "display": schedule.display_name, "compute": schedule.create_job.compute}
    if trigger.type == "Cron":
        return {**found, "expression": trigger.expression}
    pattern = trigger.schedule
    return {**found, "frequency": trigger.frequency, "interval": trigger.interval, "hours": pattern.hours,
            "minutes": pattern.minutes, "week_days": pattern.week_days, "month_days": pattern.month_days}

out = {"made": {}}
S = ml.schedules
triggers = {
    "cron": CronTrigger(expression=f"15 {FAR} * * 1-5", time_zone=TimeZone.W_EUROPE_STANDARD_TIME,
                        start_time=datetime(2026, 1, 1, 8, 0, 0), end_time="2099-12-31T23:00:00"),
    "iana": CronTrigger(expression="0 0 * * *", time_zone="Asia/Tokyo"),
    "weekly": RecurrenceTrigger(frequency="week", interval=4, time_zone=TimeZone.UTC,
                                schedule=RecurrencePattern(hours=10, minutes=[0, 30],
                                                           week_days=["monday", "tuesday"])),
    "monthly": RecurrenceTrigger(frequency="month", interval=1,
                                 schedule=RecurrencePattern(hours=[1], minutes=0, month_days=[1, 15])),
    "plain": RecurrenceTrigger(frequency="hour", interval=6),
}
for name, trigger in triggers.items():
    schedule = JobSchedule(name=name, trigger=trigger, create_job=job(), display_name="D " + name,
                           tags={"a": "b"})
    out["made"][name] = look(S.begin_create_or_update(schedule).result())
out["disabled"] = look(S.begin_disable("cron").result())
out["listed"] = sorted(s.name for s in S.list())
out["listed disabled"] = [s.name for s in S.list(list_view_type=ScheduleListViewType.DISABLED_ONLY)]
out["listed all"] = sorted(s.name for s in S.list(list_view_type=ScheduleListViewType.ALL))
result = S.trigger("cron")
out["triggered"] = [result.job_name, result.schedule_action_type]
ml.jobs.stream(result.job_name)
run = ml.jobs.get(result.job_name)
out["job"] = {"status": run.status, "display": run.display_name, "properties": run.properties}
out["enabled"] = look(S.begin_enable("cron").result())
S.begin_create_or_update(JobSchedule(name="again", trigger=triggers["plain"],
                                     create_job="azureml:" + run.id)).result()
out["again"] = look(S.get("again"))
out["errors"] = []
for bad in (
    JobSchedule(name="bad", trigger=CronTrigger(expression="0 25 * * *"), create_job=job()),
    JobSchedule(name="bad", trigger=CronTrigger(expression="0 2 * * *", time_zone="Europe/Berln"),
                create_job=job()),
    JobSchedule(name="bad", trigger=triggers["cron"],
                create_job=command(command="x", environment="AzureML-sklearn-1.5@latest", compute="nowhere")),
):
    try:
        S.begin_create_or_update(bad).result()
    except HttpResponseError as error:
        out["errors"].append([error.status_code, str(error.error.code), error.error.message])
S.begin_delete("iana").result()
try:
    S.get("iana")
except ResourceNotFoundError as error:
    out["gone"] = error.error.message
print("\\n" + json.dumps(out, default=str))
"""


PIPELINE = """
import json, os
from azure.ai.ml import MLClient, command, dsl
from azure.ai.ml.entities import CronTrigger, Environment, JobSchedule
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
              os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
FAR = os.environ["TM_FAR"]
ml.environments.create_or_update(Environment(name="plain", version="1", image="python:3.11"))
step = command(name="step", command="echo step of ${{inputs.x}}", inputs={"x": 1},
               environment="plain:1", compute="local")

@dsl.pipeline(default_compute="local")
def pipe(x: int = 7):
    step(x=x)

job = pipe()
job.display_name = "pipe"
schedule = JobSchedule(name="piped", trigger=CronTrigger(expression=f"0 {FAR} * * *"), create_job=job)
ml.schedules.begin_create_or_update(schedule).result()
ml.schedules.begin_disable("piped").result()
got = ml.schedules.begin_enable("piped").result()
name = ml.schedules.trigger("piped").job_name
ml.jobs.stream(name)
children = [child.display_name for child in ml.jobs.list(parent_job_name=name)]
print("\\n" + json.dumps({"enabled": got.is_enabled, "jobs": sorted(got.create_job.jobs),
                          "status": ml.jobs.get(name).status, "children": children}))
"""


@pytest.fixture(scope="module")
def flows(server: Any, sdk_python: str) -> dict[str, Any]:
    # Schedules of command jobs are behind this switch in the client; those of pipelines are not.
    env = {**os.environ, **server.env, "AZURE_ML_CLI_PRIVATE_FEATURES_ENABLED": "True", "TM_FAR": str(FAR)}
    done = subprocess.run(
        [sdk_python, "-c", FLOWS], env=env, capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_both_triggers_come_back_as_they_were_given(flows: dict[str, Any]):
    made = flows["made"]
    assert made["cron"] == {
        "enabled": True,
        "state": "Succeeded",
        "type": "Cron",
        "zone": "W. Europe Standard Time",
        "start": "2026-01-01 08:00:00",
        "end": "2099-12-31T23:00:00",
        "command": "echo hi ${{inputs.x}}",
        "tags": {"a": "b"},
        "display": "D cron",
        "compute": made["cron"]["compute"],
        "expression": f"15 {FAR} * * 1-5",
    }
    assert made["iana"]["zone"] == "Asia/Tokyo"
    weekly = made["weekly"]
    assert (weekly["frequency"], weekly["interval"]) == ("week", 4)
    assert (weekly["hours"], weekly["minutes"]) == ([10], [0, 30])
    assert [day.lower() for day in weekly["week_days"]] == ["monday", "tuesday"]
    assert made["monthly"]["month_days"] == [1, 15]
    assert made["plain"]["frequency"] == "hour"


def test_enable_disable_and_lists(flows: dict[str, Any]):
    assert flows["disabled"] == {**flows["made"]["cron"], "enabled": False}
    assert flows["enabled"] == flows["made"]["cron"]
    assert flows["listed"] == ["iana", "monthly", "plain", "weekly"]
    assert flows["listed disabled"] == ["cron"]
    assert flows["listed all"] == ["cron", "iana", "monthly", "plain", "weekly"]


def test_a_trigger_runs_its_job(flows: dict[str, Any]):
    name, action = flows["triggered"]
    assert (name.startswith("cron-20"), action) == (True, "CreateJob")
    job = flows["job"]
    assert (job["status"], job["display"]) == ("Completed", name)
    assert job["properties"]["tidemill.schedule"] == "cron"
    assert flows["again"]["command"] == "echo hi ${{inputs.x}}"


def test_what_is_refused_says_why(flows: dict[str, Any]):
    (cron, zone, compute) = flows["errors"]
    assert cron[0] == zone[0] == 400
    assert "'25' is no hour of a cron expression" in cron[2]
    assert "Did you mean 'Europe/Berlin'?" in zone[2]
    assert compute[0] == 404
    assert "Compute 'nowhere' was not found" in compute[2]
    assert "Schedule 'iana' was not found" in flows["gone"]


def test_the_owner_stays_and_the_time_line_tells_it(flows: dict[str, Any], server: Any):

    env = {**os.environ, **server.env}
    done = subprocess.run(
        [
            os.path.join(os.path.dirname(os.sys.executable), "tidemill"),
            "schedule",
            "show",
            "--name",
            "cron",
            "-o",
            "json",
        ],
        env={**env, "TIDEMILL_HOME": str(server.home)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [entry["code"] for entry in shown["timeline"]] == ["Created", "Disabled", "Triggered", "Enabled"]
    # What was fetched and sent back is the same job: nobody else's.
    assert not [entry for entry in shown["timeline"] if "in the name of" in entry["message"]]
    assert len(shown["coming"]) == 5
    assert all(one["local"].endswith(f" {FAR:02}:15:00") for one in shown["coming"])


def test_a_pipeline_by_the_client_as_it_comes(server: Any, sdk_python: str):
    env = {**os.environ, **server.env, "TM_FAR": str(FAR)}
    env.pop("AZURE_ML_CLI_PRIVATE_FEATURES_ENABLED", None)
    done = subprocess.run(
        [sdk_python, "-c", PIPELINE], env=env, capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"enabled": True, "jobs": ["step"], "status": "Completed", "children": ["step"]}
    shown = subprocess.run(
        [sys.executable, "-m", "tidemill.cli.main", "schedule", "show", "--name", "piped", "-o", "json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    said = [entry["message"] for entry in json.loads(shown.stdout)["timeline"]]
    assert len(said) == 4
    assert not [message for message in said if "in the name of" in message]
