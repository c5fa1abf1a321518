"""Schedule files: what is sent, what is wrong and where; jobs in the file, beside it, and by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import NATIVE, Answer, Fake, W, make_home

from tidemill.cli import main
from tidemill.cli.yaml.document import YamlError
from tidemill.cli.yaml.schedule import load_schedule

JOB = "command: python train.py --lr ${{inputs.lr}}\nenvironment: azureml:sk@latest\ninputs:\n  lr: 0.1\n"
CRON = """\
$schema: https://azuremlschemas.azureedge.net/latest/schedule.schema.json
name: nightly
display_name: Every night
trigger:
  type: cron
  expression: "0 2 * * *"
  start_time: 2026-03-01T10:00:00
  time_zone: "W. Europe Standard Time"
create_job: %s
"""


def write(folder: Path, text: str, name: str = "schedule.yml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def problems(folder: Path, text: str, *settings: str) -> list[str]:
    with pytest.raises(YamlError) as caught:
        load_schedule(write(folder, text), settings, "schedule.yml")
    return [str(problem) for problem in caught.value.problems]


def test_triggers_are_sent_as_the_sdk_sends_them(tmp_path: Path):
    write(tmp_path, JOB, "job.yml")
    found = load_schedule(write(tmp_path, CRON % "./job.yml"))
    assert found.trigger == {
        "triggerType": "Cron",
        "expression": "0 2 * * *",
        "startTime": "2026-03-01T10:00:00",
        "timeZone": "W. Europe Standard Time",
    }
    weekly = """\
name: weekly
trigger:
  type: recurrence
  frequency: week
  interval: 2
  schedule:
    hours: 4
    minutes: [0, 30]
    week_days: [Monday, friday]
create_job: azureml:train
"""
    found = load_schedule(write(tmp_path, weekly))
    assert (found.source, found.job) == ("train", None)
    assert found.trigger == {
        "triggerType": "Recurrence",
        "timeZone": "UTC",
        "frequency": "Week",
        "interval": 2,
        "schedule": {"hours": [4], "minutes": [0, 30], "weekDays": ["monday", "friday"]},
    }


def test_jobs_beside_and_inside_the_file_and_changes_of_them(tmp_path: Path):
    write(tmp_path, JOB, "job.yml")
    for given in ("job.yml", "file:job.yml", "./job.yml"):
        found = load_schedule(write(tmp_path, CRON % given))
        assert found.job is not None
        assert found.job.data["inputs"] == {"lr": 0.1}
    inside = CRON % ("\n" + "".join(f"  {line}\n" for line in JOB.splitlines()))
    found = load_schedule(write(tmp_path, inside))
    assert found.job is not None
    assert found.job.data["command"].startswith("python train.py")
    changed = CRON % "\n  type: command\n  job: ./job.yml\n  inputs:\n    lr: 0.2\n  compute: azureml:cpu\n"
    found = load_schedule(write(tmp_path, changed))
    assert found.job is not None
    assert (found.job.data["inputs"], found.job.data["compute"]) == ({"lr": 0.2}, "azureml:cpu")


def test_what_is_wrong_has_its_place(tmp_path: Path):
    write(tmp_path, JOB, "job.yml")
    assert problems(tmp_path, CRON.replace("0 2 * * *", "0 25 * * *") % "./job.yml") == [
        "schedule.yml:6:15: '25' is no hour of a cron expression ('0 25 * * *'): use a number, a list "
        "(1,15), a range (1-5), a step (*/10) or '*'."
    ]
    assert problems(tmp_path, CRON.replace("W. Europe Standard", "W. Europe Standart") % "./job.yml") == [
        "schedule.yml:8:14: The trigger's timeZone 'W. Europe Standart Time' is no time zone. Did you mean "
        "'W. Europe Standard Time'?"
    ]
    missing, text = problems(tmp_path, CRON.replace("expression:", "expresion:") % "./job.yml")
    assert missing == "schedule.yml:5:3: 'expression' is required in a cron trigger."
    assert text.startswith("schedule.yml:6:3: unknown key 'expresion' in a cron trigger. Did you mean")
    (text,) = problems(tmp_path, CRON % "./jub.yml")
    assert text.startswith("schedule.yml:9:13: ")
    assert "jub.yml" in text
    # Of the job: in its own file; of a change: where the change stands.
    write(tmp_path, JOB.replace("inputs.lr", "inputs.rl"), "job.yml")
    with pytest.raises(YamlError, match=r"job\.yml:1:31: .*there is no input 'rl'"):
        load_schedule(write(tmp_path, CRON % "./job.yml"))
    write(tmp_path, JOB, "job.yml")
    changed = CRON % "\n  job: ./job.yml\n  resources:\n    instance_count: none\n"
    (text,) = problems(tmp_path, changed)
    assert text.startswith("schedule.yml:12:21: resources.instance_count must be a whole number")
    inside = CRON % "\n  command: echo ${{inputs.x}}\n  environment: azureml:sk@latest\n"
    (text,) = problems(tmp_path, inside)
    assert text.startswith("schedule.yml:10:17: ${{inputs.x}}: ")


@pytest.mark.parametrize("key", ["create_monitor", "import_data"])
def test_other_schedules_are_refused_by_name(tmp_path: Path, key: str):
    (text,) = problems(tmp_path, CRON.replace("create_job", key) % "./job.yml")
    assert text.startswith("schedule.yml:9:1: ")
    assert f"({key}) are not offered" in text


def test_changes_of_a_job_that_is_there(tmp_path: Path):
    found = load_schedule(write(tmp_path, CRON % "\n  job: azureml:train\n  inputs:\n    lr: 0.5\n"))
    assert found.source == "train"
    assert found.job is not None
    assert found.job.data == {"inputs": {"lr": 0.5}}
    (text,) = problems(tmp_path, CRON % "\n  job: azureml:train\n  command: other\n")
    assert text.startswith("schedule.yml:11:3: unknown key 'command' in a change of a scheduled job.")


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def here(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "AZURE_SUBSCRIPTION_ID",
        "AZURE_RESOURCE_GROUP",
        "AZUREML_WORKSPACE_NAME",
        "ML_WORKSPACE_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIDEMILL_HOME", str(make_home(tmp_path, fake.address)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


DETAIL: dict[str, Any] = {
    "name": "nightly",
    "enabled": True,
    "trigger": "0 2 * * *, Europe/Berlin",
    "time_zone": "Europe/Berlin",
    "owner": "ann",
    "catch_up_s": 86400.0,
    "job": {"type": "command", "command": "python train.py"},
    "coming": [{"at": "2026-03-02T01:00:00.000000Z", "local": "2026-03-02 02:00:00"}],
    "last_error": None,
    "timeline": [{"at": "2026-03-01T10:00:00.000000Z", "code": "Created", "message": "Created by ann."}],
}


def test_create_show_and_refusals_with_their_place(
    fake: Fake, here: Path, capsys: pytest.CaptureFixture[str]
):
    write(here, JOB, "job.yml")
    write(here, CRON % "./job.yml")
    fake.answers["GET", f"{W}/environments/sk/versions"] = {"value": [{"name": "3"}]}
    fake.answers["PUT", f"{W}/schedules/nightly"] = {"properties": {"provisioningState": "Succeeded"}}
    fake.answers["GET", f"{NATIVE}/schedules/nightly"] = DETAIL
    assert main.run(["schedule", "create", "-f", "schedule.yml"]) == 0
    (asked,) = [one for one in fake.asked if one.method == "PUT"]
    properties = asked.json["properties"]
    assert "isEnabled" not in properties
    assert properties["displayName"] == "Every night"
    definition = properties["action"]["jobDefinition"]
    assert definition["environmentId"] == f"{W}/environments/sk/versions/3"
    assert definition["inputs"] == {"lr": {"value": "0.1", "jobInputType": "literal"}}
    out = capsys.readouterr().out
    assert "2026-03-02 01:00:00 UTC  (2026-03-02 02:00:00)" in out
    assert "the last missed time, if it is not older than" in out
    for target, place in (
        ("properties.action.jobDefinition.inputs.lr", "job.yml:4:7: "),
        ("properties.trigger.timeZone", "schedule.yml:8:14: "),
    ):
        error = {"error": {"code": "Bad", "message": "No.", "target": target}}
        fake.answers["PUT", f"{W}/schedules/nightly"] = Answer(400, error)
        assert main.run(["schedule", "create", "-f", "schedule.yml"]) != 0
        assert f"{place}No." in capsys.readouterr().err


def test_the_other_commands(fake: Fake, here: Path, capsys: pytest.CaptureFixture[str]):
    body = {"properties": {"isEnabled": True, "trigger": {"expression": "0 2 * * *"}, "tags": {}}}
    fake.answers["GET", f"{W}/schedules/nightly"] = body
    fake.answers["PUT", f"{W}/schedules/nightly"] = body
    fake.answers["GET", f"{NATIVE}/schedules/nightly"] = DETAIL
    fake.answers["POST", f"{W}/schedules/nightly/trigger"] = {
        "jobName": "nightly-1",
        "scheduleActionType": "CreateJob",
    }
    fake.answers["DELETE", f"{W}/schedules/nightly"] = Answer(204, b"")
    rows = [{**DETAIL, "next_at": "2026-03-02T01:00:00.000000Z"}, {**DETAIL, "name": "off", "enabled": False}]
    fake.answers["GET", f"{NATIVE}/schedules"] = {"value": rows}

    assert main.run(["schedule", "disable", "-n", "nightly"]) == 0
    assert fake.asked[-2].json["properties"]["isEnabled"] is False
    assert main.run(["schedule", "enable", "-n", "nightly"]) == 0
    assert fake.asked[-2].json["properties"]["isEnabled"] is True
    assert main.run(["schedule", "update", "-n", "nightly", "--set", "trigger.expression=0 3 * * *"]) == 0
    assert fake.asked[-2].json["properties"]["trigger"] == {"expression": "0 3 * * *"}
    assert main.run(["schedule", "update", "-n", "nightly", "--set", "create_job=x"]) == 2
    assert "what can be changed is display_name" in capsys.readouterr().err
    assert main.run(["schedule", "trigger", "-n", "nightly"]) == 0
    assert "Job nightly-1 is submitted." in capsys.readouterr().out
    assert fake.asked[-1].json["scheduleTime"].endswith("+00:00")
    assert main.run(["schedule", "list"]) == 0
    out = capsys.readouterr().out
    assert "nightly" in out
    assert "2026-03-02 01:00:00" in out
    assert "off" not in out
    assert main.run(["schedule", "list", "--disabled-only"]) == 0
    assert "off" in capsys.readouterr().out
    assert main.run(["schedule", "delete", "-n", "nightly"]) == 2
    assert main.run(["schedule", "delete", "-n", "nightly", "--yes"]) == 0
    assert (fake.asked[-1].method, fake.asked[-1].path) == ("DELETE", f"{W}/schedules/nightly")
