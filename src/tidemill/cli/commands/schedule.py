"""`tidemill schedule …`"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.commands.compute import confirm
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

schedule = group("schedule", "Jobs at set times: cron and recurrence triggers.")
_name = click.option("--name", "-n", required=True, help="Name of the schedule.")
_SHOWN_EVENTS = 15


def _last(item: dict[str, Any]) -> str:
    if item.get("last_error"):
        return f"not submitted: {item['last_error']}"
    return item.get("last_job") or ""


_COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("state", lambda item: "Enabled" if item.get("enabled") else "Disabled", state=True),
    Column("trigger", key("trigger"), wide=True),
    Column("next (UTC)", lambda item: moment(item.get("next_at"))),
    Column("last", _last, wide=True),
)


@command(
    schedule,
    "create",
    """tidemill schedule create --file schedule.yml
    tidemill schedule create -f schedule.yml --set trigger.time_zone=Europe/Berlin""",
)
@click.option("--file", "-f", "file", required=True, metavar="YAML", help="The schedule, in Azure's v2 YAML.")
@click.option("--name", "-n", help="Name of the schedule; else the file's.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
@click.option("--no-wait", is_flag=True, hidden=True, help="Taken and without effect: there is no wait.")
def create(session: Session, file: str, name: str | None, settings: tuple[str, ...], no_wait: bool) -> None:
    """Create a schedule, or change one."""
    from tidemill.cli import scheduling
    from tidemill.cli.yaml.schedule import load_schedule

    given = (*settings, f"name={name}") if name else settings
    found = load_schedule(Path(file), given, file)
    made = found.spec.data["name"]
    scheduling.put(session, found, made)
    _print(session, made)


@command(schedule, "list", "tidemill schedule list --include-disabled")
@click.option("--include-disabled", is_flag=True, help="Disabled ones too.")
@click.option("--disabled-only", is_flag=True, help="Only disabled ones.")
@click.option("--max-results", "-r", type=Whole(1), help="At most so many.")
def list_(session: Session, include_disabled: bool, disabled_only: bool, max_results: int | None) -> None:
    """List schedules with their next times."""
    if include_disabled and disabled_only:
        raise CliError("--include-disabled and --disabled-only exclude each other.", USAGE, "UsageError")
    rows = session.client.get(f"{session.native}/schedules")["value"]
    if not include_disabled:
        rows = [row for row in rows if row["enabled"] is not disabled_only]
    empty = "No schedules yet. Create one with: tidemill schedule create --file schedule.yml"
    print_list(session, rows[:max_results], _COLUMNS, "No schedule is disabled." if disabled_only else empty)


@command(schedule, "show", "tidemill schedule show --name nightly")
@_name
def show(session: Session, name: str) -> None:
    """Show one schedule: its next times, and what came of the last."""
    _print(session, name)


@command(
    schedule,
    "update",
    "tidemill schedule update --name nightly --set trigger.expression='0 3 * * *'",
)
@_name
@click.option("--set", "settings", multiple=True, required=True, metavar="KEY=VALUE", help="Repeatable.")
def update(session: Session, name: str, settings: tuple[str, ...]) -> None:
    """Change the trigger, display_name, description or tags."""
    from tidemill.cli import scheduling

    body = session.client.get(scheduling.path_of(session, name), {"api-version": scheduling.API})
    properties = body["properties"]
    for setting in settings:
        _change(properties, setting)
    scheduling.write(session, name, {"properties": properties})
    _print(session, name)


def _change(properties: dict[str, Any], setting: str) -> None:
    field, equals, value = setting.partition("=")
    plain = {"display_name": "displayName", "description": "description"}
    triggers = {
        "expression": "expression",
        "time_zone": "timeZone",
        "start_time": "startTime",
        "end_time": "endTime",
        "frequency": "frequency",
    }
    head, _, rest = field.partition(".")
    if equals and field in plain:
        properties[plain[field]] = value
    elif equals and head == "tags" and rest:
        properties.setdefault("tags", {})[rest] = value
    elif equals and head == "trigger" and rest in triggers:
        properties["trigger"][triggers[rest]] = value
    elif equals and field == "trigger.interval" and value.isdigit():
        properties["trigger"]["interval"] = int(value)
    else:
        names = ", ".join(
            [*plain, "tags.NAME", *(f"trigger.{name}" for name in triggers), "trigger.interval"]
        )
        raise CliError(
            f"--set {setting}: what can be changed is {names}. For all else: tidemill schedule create --file",
            USAGE,
            "UsageError",
        )


@command(schedule, "enable", "tidemill schedule enable --name nightly")
@_name
@click.option("--no-wait", is_flag=True, hidden=True, help="Taken and without effect: there is no wait.")
def enable(session: Session, name: str, no_wait: bool) -> None:
    """Run it again, from its next time on."""
    _switch(session, name, True)


@command(schedule, "disable", "tidemill schedule disable --name nightly")
@_name
@click.option("--no-wait", is_flag=True, hidden=True, help="Taken and without effect: there is no wait.")
def disable(session: Session, name: str, no_wait: bool) -> None:
    """Keep it, and do not run it."""
    _switch(session, name, False)


@command(schedule, "trigger", "tidemill schedule trigger --name nightly --stream")
@_name
@click.option("--stream", is_flag=True, help="Follow the job until it ends; exit code 1 when it fails.")
def trigger(session: Session, name: str, stream: bool) -> int:
    """Submit its job now, once."""
    from tidemill.cli import scheduling
    from tidemill.cli.commands.job import follow

    now = datetime.now(UTC).isoformat()
    path = f"{scheduling.path_of(session, name)}/trigger"
    api = {"api-version": scheduling.TRIGGER_API}
    answer = session.client.call("POST", path, {"scheduleTime": now}, dict(api))
    job = answer["jobName"]
    if stream:
        return follow(session, job)
    if session.output == "table":
        click.echo(f"Job {job} is submitted.")
        session.note(f"Follow it with: tidemill job stream --name {job}{session.home_flag}")
    else:
        print_item(session, {"job_name": job, "schedule_action_type": answer["scheduleActionType"]})
    return 0


@command(schedule, "delete", "tidemill schedule delete --name nightly --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, hidden=True, help="Taken and without effect: there is no wait.")
def delete(session: Session, name: str, yes: bool, no_wait: bool) -> None:
    """Delete a schedule. Jobs that it submitted stay."""
    from tidemill.cli import scheduling

    path, query = scheduling.path_of(session, name), {"api-version": scheduling.API}
    session.client.get(path, dict(query))
    confirm(f"Delete schedule {name}?", yes)
    session.client.begin("DELETE", path, None, dict(query))
    session.note(f"{name} is deleted.")


def _switch(session: Session, name: str, enabled: bool) -> None:
    from tidemill.cli import scheduling

    body = session.client.get(scheduling.path_of(session, name), {"api-version": scheduling.API})
    properties = {**body["properties"], "isEnabled": enabled}
    scheduling.write(session, name, {"properties": properties})
    _print(session, name)


def _print(session: Session, name: str) -> None:
    detail = session.client.get(f"{session.native}/schedules/{segment(name)}")
    print_item(session, detail, show_facts(detail))


def show_facts(detail: dict[str, Any]) -> list[tuple[str, str]]:
    job = detail.get("job") or {}
    facts = [
        ("schedule", str(detail.get("name"))),
        ("state", "Enabled" if detail.get("enabled") else "Disabled"),
        ("trigger", str(detail.get("trigger"))),
        ("job", str(job.get("command") or job.get("type"))),
        ("in the name of", str(detail.get("owner"))),
        ("catches up", _catch_up(detail.get("catch_up_s"))),
    ]
    for label, value in (("from", detail.get("start_at")), ("until", detail.get("end_at"))):
        if value:
            facts.append((label, f"{moment(value)} UTC"))
    coming = detail.get("coming") or []
    zone = detail.get("time_zone")
    times = [f"{moment(one['at'])} UTC" + ("" if zone == "UTC" else f"  ({one['local']})") for one in coming]
    facts.append(("next", "\n".join(times) or "none"))
    if detail.get("last_error"):
        facts.append(("last error", str(detail["last_error"])))
    events = (detail.get("timeline") or [])[-_SHOWN_EVENTS:]
    if events:
        lines = [f"{moment(entry['at'])}  {text.plain(entry.get('message'))}" for entry in events]
        facts.append(("time line", "\n".join(lines)))
    return facts


def _catch_up(seconds: float | None) -> str:
    if not seconds:
        return "no: what was missed is skipped"
    return f"the last missed time, if it is not older than {text.duration(seconds)}"


def moment(iso: str | None) -> str:
    """`2026-03-01T06:00:00.000000Z` -> `2026-03-01 06:00:00`."""
    return iso[:19].replace("T", " ") if iso else ""
