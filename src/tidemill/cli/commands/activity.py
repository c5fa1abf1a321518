"""`tidemill activity …`"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import FAILED, OK, USAGE, CliError
from tidemill.cli.framework import Whole, command, group
from tidemill.cli.output import Column, fact_lines, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.domain.scopes import in_words

activity = group("activity", "Who did what, allowed or refused; and whether that log is whole.")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLUMNS = (
    Column("when", key("at"), text.ago),
    Column("who", key("who")),
    Column("from", key("address")),
    Column("action", lambda r: _short(r["action"]), wide=True),
    Column("on", lambda r: _on(r["resource"]), wide=True),
    Column("outcome", lambda r: _outcome(r), state=True),
    Column("why", lambda r: in_words(r["reason"]) or r["code"], wide=True),
)


@command(
    activity,
    "list",
    """tidemill activity list --since 2h
    tidemill activity list --refused --who ann
    tidemill activity list --what listSecrets --output json""",
)
@click.option("--who", help="Only what this user, program or object id did.")
@click.option("--what", help="Only actions with this in their name; * stands for anything.")
@click.option("--scope", metavar="ID", help="Only at or below this ARM id. With -w: that workspace.")
@click.option(
    "--since", metavar="TIME", help="From then on: 30m, 2h, 7d, or a time such as 2026-11-25T13:00."
)
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option("--max-results", "-r", type=Whole(1), default=50, show_default=True, help="At most so many.")
def list_(
    session: Session,
    who: str | None,
    what: str | None,
    scope: str | None,
    since: str | None,
    refused: bool,
    max_results: int,
) -> None:
    """List what was done, the newest first: writes, sign-ins, looks at secrets, and everything refused."""
    query: dict[str, str | int] = {"limit": min(max_results, 200)}
    wanted = {"who": who, "what": what, "scope": scope, "since": since and _moment(since)}
    query |= {name: value for name, value in wanted.items() if value}
    if refused:
        query["refused"] = "true"
    path = _path(session)
    rows: list[dict[str, Any]] = []
    while True:
        answer = session.client.get(path, query)
        rows += answer["value"]
        if not answer["next"] or len(rows) >= max_results:
            break
        query["after"] = answer["next"]
    print_list(session, rows[:max_results], _COLUMNS, "Nothing of that kind was recorded.")


@command(
    activity,
    "verify",
    """tidemill activity verify
    tidemill activity verify --against 1042:9f2c…""",
)
@click.option(
    "--against", metavar="NUMBER:HASH", help="A head that an earlier verify printed, kept somewhere else."
)
def verify(session: Session, against: str | None) -> int:
    """Check the whole log: exit code 1 when a record was changed, removed, or put in, naming the first."""
    found = session.client.get("/api/v1/activity/verify", {"against": against} if against else None)
    broken = found["broken"]
    if session.output != "table":
        print_item(session, found)
        return FAILED if broken else OK
    facts = [
        ("records", f"{found['records']} hold ({found['first']} to {found['last']})"),
        ("checkpoints", str(found["checkpoints"])),
        ("head", found["head"]),
    ]
    for line in fact_lines(facts):
        click.echo(line)
    if broken:
        raise CliError(f"Record {broken['seq']}: {broken['why']}.", FAILED, "ActivityLogBroken")
    session.note(
        "Keep the head somewhere else, and give it to --against later: then nothing before it can be "
        "changed unnoticed, not even by who holds this home's keys."
    )
    return OK


def _path(session: Session) -> str:
    """The whole server's log; the workspace's with -w, and for who may not see the whole."""
    whole, own = "/api/v1/activity", f"{session.native}/activity"
    if session.given.workspace:
        return own
    if session.client.request("GET", whole, query={"limit": 1}).status != 403:
        return whole
    session.note("Only of this workspace: the whole server's log needs a role on the subscription.")
    return own


def _moment(given: str) -> str:
    """`2h` ago, or a time of this machine's clock -> ISO 8601 in UTC."""
    match = re.fullmatch(r"(\d+)([smhd])", given)
    if match:
        ago = timedelta(**{_UNITS[match[2]]: int(match[1])})
        return (datetime.now(UTC) - ago).isoformat()
    try:
        return datetime.fromisoformat(given).astimezone(UTC).isoformat()
    except ValueError:
        raise CliError(
            f"--since {given!r} is no time: give 30m, 2h, 7d, or 2026-11-25T13:00.", USAGE, "UsageError"
        ) from None


def _short(action: str) -> str:
    return action.removeprefix("Microsoft.MachineLearningServices/").removeprefix("Tidemill.Server/")


def _on(resource: str) -> str:
    """The name of what it was about, where the path's last segment is a verb (`jobs/train-1/cancel`), too."""
    _, *found = re.split("/resourceGroups/[^/]+/", resource, maxsplit=1, flags=re.IGNORECASE)
    below = found[0].split("/") if found else []
    if below[:1] == ["providers"]:
        below = below[2:]
    if below[:1] in (["workspaces"], ["registries"]) and len(below) > 2:
        below = below[2:]
    named = below[:-1] if len(below) > 1 and len(below) % 2 else below
    if len(named) >= 4 and named[-2] == "versions":
        return f"{named[-3]}:{named[-1][:8]}"
    return named[-1] if named else resource.rsplit("/", 1)[-1]


def _outcome(record: dict[str, Any]) -> str:
    times = f" ×{record['count']}" if record["count"] > 1 else ""
    status = f" {record['status']}" if record["status"] and record["outcome"] != "Succeeded" else ""
    return f"{record['outcome']}{status}{times}"
