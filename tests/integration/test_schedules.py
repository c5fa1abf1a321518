"""Schedules of a real server: from a file, on time, after a kill, and never twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from jobserver import JobServer, until

pytestmark = pytest.mark.timeout(120)

SCHEDULE = """\
name: {name}
trigger:
  type: recurrence
  frequency: hour
  interval: 1
  start_time: "{start}"
create_job:
  command: echo it is ${{{{inputs.word}}}}
  environment:
    image: python:3.11
  compute: local
  inputs:
    word: time
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("schedules"))
    made.start()
    yield made
    made.end()


def create(server: JobServer, folder: Path, name: str, seconds: float) -> str:
    """By the command: a schedule whose first time is so many seconds from now -> the name of its job; ""
    where the command took longer than that."""
    start = soon(seconds)
    path = folder / f"{name}.yml"
    path.write_text(SCHEDULE.format(name=name, start=f"{start:%Y-%m-%dT%H:%M:%S}"))
    done = server.cli("schedule", "create", "-f", str(path), "-o", "json")
    assert done.returncode == 0, done.stderr
    next_at = json.loads(done.stdout)["next_at"]
    if next_at == f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000000Z":
        return ""
    assert next_at == f"{start:%Y-%m-%dT%H:%M:%S}.000000Z"
    return f"{name}-{start:%Y%m%dT%H%M%SZ}"


def put(server: JobServer, name: str, seconds: float) -> tuple[str, datetime]:
    """By the API, which takes less than a second -> (the name of its job, when)."""
    start = soon(seconds)
    trigger = {"triggerType": "Recurrence", "frequency": "Hour", "startTime": f"{start:%Y-%m-%d %H:%M:%S}"}
    action = {
        "actionType": "CreateJob",
        "jobDefinition": {"jobType": "Command", "command": "echo it is time"},
    }
    body = {"properties": {"trigger": {**trigger, "interval": 1}, "action": action}}
    status, answer = server.arm("PUT", f"schedules/{name}", body)
    assert status == 201, answer
    return f"{name}-{start:%Y%m%dT%H%M%SZ}", start


def soon(seconds: float) -> datetime:
    """At least so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds + 1)).replace(microsecond=0)


def jobs_of(server: JobServer, name: str) -> list[str]:
    names = [job["name"] for job in server.native("jobs")["value"]]
    return sorted(one for one in names if one.startswith(f"{name}-"))


def test_a_schedule_of_a_file_runs_on_time(server: JobServer, tmp_path: Path):
    tries = ((f"timely{seconds}", seconds) for seconds in (4, 10, 40))
    name, job = next(
        (name, job) for name, seconds in tries if (job := create(server, tmp_path, name, seconds))
    )
    until(lambda: jobs_of(server, name) == [job], what="its job")
    found = server.wait(job)
    assert found["status"] == "Completed"
    assert "it is time" in server.log(job)
    assert "Scheduled" in [entry["code"] for entry in found["timeline"]]
    shown = server.native(f"schedules/{name}")
    assert (shown["last_job"], shown["last_error"]) == (job, None)
    assert [entry["code"] for entry in shown["timeline"]] == ["Created", "JobSubmitted"]
    who = server.call("GET", f"/api/v1{server.workspace}/activity?what=jobs/write")[1]["value"]
    assert any(f"Schedule {name} submitted it in the name of" in (entry["reason"] or "") for entry in who)


def test_a_killed_server_runs_what_it_missed_once(server: JobServer):
    job, due = put(server, "missed", 2)
    server.kill()
    until(lambda: datetime.now(UTC) > due, what="its time")
    server.start()
    until(lambda: jobs_of(server, "missed") == [job], what="its job")
    server.kill()
    server.start()
    assert server.wait(job)["status"] == "Completed"
    assert jobs_of(server, "missed") == [job]
    codes = [entry["code"] for entry in server.native("schedules/missed")["timeline"]]
    assert codes == ["Created", "JobSubmitted"]


def test_kills_around_the_time_make_one_job(server: JobServer):
    names: list[str] = []
    for number in range(5):
        job, due = put(server, f"kill{number}", 1)
        names.append(job)
        moment = due + timedelta(milliseconds=3 * number)  # the commit comes within these
        until(lambda at=moment: datetime.now(UTC) > at, what="its time")
        server.kill()
        server.start()
    for number, job in enumerate(names):
        until(lambda n=number, j=job: jobs_of(server, f"kill{n}") == [j], what=f"the job of kill{number}")
        found = server.wait(job)
        assert found["status"] == "Completed", found["timeline"]
        codes = [entry["code"] for entry in server.native(f"schedules/kill{number}")["timeline"]]
        assert codes == ["Created", "JobSubmitted"]


def test_the_commands_on_a_real_server(server: JobServer, tmp_path: Path):
    create(server, tmp_path, "talk", 3600)
    done = server.cli("schedule", "disable", "--name", "talk")
    assert "Disabled" in done.stdout, done.stderr
    assert "talk" not in server.cli("schedule", "list").stdout
    assert "talk" in server.cli("schedule", "list", "--include-disabled").stdout
    assert "every hour, UTC" in server.cli("schedule", "show", "-n", "talk").stdout
    done = server.cli("schedule", "trigger", "--name", "talk", "--stream")
    assert done.returncode == 0, done.stderr
    assert "it is time" in done.stdout
    done = server.cli("schedule", "update", "-n", "talk", "--set", "trigger.start_time=tomorrow")
    assert "'tomorrow' is no time" in done.stderr
    assert server.cli("schedule", "delete", "-n", "talk", "--yes").returncode == 0
    done = server.cli("schedule", "show", "-n", "talk")
    assert done.returncode == 3
    assert "Schedule 'talk' was not found" in done.stderr


def test_a_pipeline_of_a_file(server: JobServer, tmp_path: Path):
    path = tmp_path / "pipe.yml"
    path.write_text("""\
name: piped
trigger:
  type: cron
  expression: "0 2 * * *"
create_job:
  type: pipeline
  settings:
    default_compute: azureml:local
  inputs:
    word: one
  jobs:
    say:
      type: command
      command: echo step ${{inputs.word}}
      environment:
        image: python:3.11
      inputs:
        word: ${{parent.inputs.word}}
""")
    done = server.cli("schedule", "create", "-f", str(path))
    assert done.returncode == 0, done.stderr
    done = server.cli("schedule", "trigger", "-n", "piped", "-o", "json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job_name"]
    assert server.wait(job)["status"] == "Completed"
    done = server.cli("job", "clone", "-n", job, "--set", "inputs.word=two", "--new-name", "cloned")
    assert done.returncode == 0, done.stderr
    found = server.wait("cloned")
    assert found["status"] == "Completed"
    (step,) = found["children"]
    assert "step two" in server.log(step["name"])
