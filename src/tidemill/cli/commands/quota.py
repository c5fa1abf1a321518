"""`tidemill quota …` and `tidemill queue`."""

from __future__ import annotations

import time
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import OK, USAGE, CliError
from tidemill.cli.framework import Number, command, group
from tidemill.cli.output import Column, key, print_item, print_list, table
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

quota = group("quota", "What teams, users, workspaces and computes may hold at most, and their shares.")

_NONE = "none"
_COLUMNS = (
    Column("of", key("kind")),
    Column("name", key("name"), wide=True),
    Column("measure", key("measure")),
    Column("used", key("used"), lambda v, now: text.number(v) if v is not None else "-", right=True),
    Column("limit", key("limit"), lambda v, now: text.number(v) if v is not None else "-", right=True),
    Column("weight", key("weight"), lambda v, now: f"{v:g}" if v else "-", right=True),
    Column("default team", key("default_team"), wide=True),
)


@command(quota, "show", "tidemill quota show\ntidemill quota show -o json")
def show(session: Session) -> None:
    """List the quotas with what is used of each, and the weights of teams and users."""
    found = session.client.get("/api/v1/quotas")["value"]
    if session.output != "table" or session.given.query is not None:
        print_list(session, found, _COLUMNS, "")
        return
    rows: list[dict[str, Any]] = []
    for rule in found:
        lines: list[dict[str, Any]] = rule["limits"] or [{}]
        rows += [{**rule, **line} for line in lines]
    print_list(session, rows, _COLUMNS, "No quotas. Set one with: tidemill quota set --team vision --cores 8")


def _measure(name: str, words: str) -> Any:
    return click.option(f"--{name}", metavar="N", help=f"{words}; none for no limit.")


@command(
    quota,
    "set",
    "tidemill quota set --team vision --cores 16 --gpus 2 --weight 2\n"
    "tidemill quota set --user '*' --jobs 10\n"
    "tidemill quota set --workspace-name main --family standardDSv2Family=32",
)
@click.option("--team", metavar="GROUP", help="Of a group; it is a team from then on. '*': of each team.")
@click.option("--user", metavar="WHO", help="Of a user or a program. '*': of each one.")
@click.option(
    "--compute", metavar="NAME", help="Of a compute. Without any of the three: of --workspace-name."
)
@_measure("cores", "vCPU held at once")
@_measure("gpus", "GPUs held at once")
@_measure("nodes", "Nodes held at once")
@_measure("jobs", "Jobs running at once")
@click.option("--family", "families", multiple=True, metavar="NAME=N", help="vCPU of a VM family.")
@click.option("--weight", type=Number(), help="Share against other teams (users); 0: the usual 1.")
@click.option("--default-team", metavar="GROUP", help="Of a user in several: whose jobs they are.")
def set_(session: Session, team: str | None, user: str | None, compute: str | None, **given: Any) -> None:
    """Set limits and weights; what is not named stays. They hold at once; nothing that runs is ended."""
    body = _subject(session, team, user, compute)
    named = {measure: given[measure] for measure in ("cores", "gpus", "nodes", "jobs") if given[measure]}
    for entry in given["families"]:
        family, separator, value = entry.partition("=")
        if not separator or not family:
            raise CliError(f"--family {entry!r} must be NAME=N.", USAGE, "UsageError")
        named[family] = value
    body["limits"] = {measure: _whole(measure, value) for measure, value in named.items()}
    body |= {name: given[name] for name in ("weight", "default_team") if given[name] is not None}
    if not body["limits"] and len(body) == 4:
        raise CliError("Nothing to set: give a limit such as --cores 8, or --weight.", USAGE, "UsageError")
    answer = session.client.call("PUT", "/api/v1/quotas", body)
    limits = [(measure, text.number(limit)) for measure, limit in answer["limits"].items()]
    weight = [("weight", f"{answer['weight']:g}")] if answer["weight"] else []
    team_fact = [("default team", answer["default_team"])] if answer["default_team"] else []
    facts = [(answer["kind"], answer["name"]), *limits, *weight, *team_fact]
    print_item(session, answer, facts if len(facts) > 1 else [*facts, ("limits", "none")])
    if given["default_team"] and answer["default_team"]:
        _note_no_member(session, answer["name"], answer["default_team"])


def _note_no_member(session: Session, user: str, team: str) -> None:
    """A default team counts among those that somebody is in."""
    groups = session.client.get(f"/api/v1/access/principals/{segment(user)}")["groups"]
    if team not in groups:
        session.note(
            f"{user} is no direct member of {team}: a default team counts for those who are in it. "
            f"Put them there: tidemill access add-member {team} {user}"
        )


def _subject(session: Session, team: str | None, user: str | None, compute: str | None) -> dict[str, Any]:
    named = {"team": team, "user": user, "compute": compute}
    chosen = [(kind, name) for kind, name in named.items() if name]
    if len(chosen) > 1:
        raise CliError("Give one of --team, --user and --compute.", USAGE, "UsageError")
    if not chosen and not session.given.workspace:
        raise CliError(
            "Whose quota? Give --team, --user, --compute or --workspace-name.", USAGE, "UsageError"
        )
    kind, name = chosen[0] if chosen else ("workspace", session.given.workspace or "")
    workspace = session.workspace_id() if kind in ("workspace", "compute") else None
    return {"kind": kind, "name": name, "workspace": workspace}


def _whole(measure: str, value: str) -> int:
    if value.lower() == _NONE:
        return -1
    if not value.isascii() or not value.isdigit():
        raise CliError(f"{measure} is {value!r}: it must be a whole number, or none.", USAGE, "UsageError")
    return int(value)


@command(
    quota,
    "explain",
    "tidemill quota explain --job train-7\n"
    "tidemill quota explain --size Standard_NC24ads_A100_v4 --nodes 2 --team vision",
)
@click.option("--job", metavar="NAME", help="A job that waits.")
@click.option("--size", metavar="VM_SIZE", help="Instead: what nodes of that size would ask for.")
@click.option("--compute", metavar="NAME", help="Instead: what nodes of that compute would ask for.")
@click.option("--nodes", type=int, default=1, show_default=True, help="How many.")
@click.option("--team", metavar="GROUP", help="One of your teams.")
def explain(
    session: Session, job: str | None, size: str | None, compute: str | None, nodes: int, team: str | None
) -> None:
    """Each quota that holds for a job as an equation, with who holds what, since and until when."""
    if bool(job) == bool(size or compute):
        raise CliError("Give --job NAME, or --size (or --compute) with --nodes.", USAGE, "UsageError")
    query: dict[str, str | int] = {"nodes": nodes}
    query |= {name: value for name, value in (("job", job), ("size", size)) if value}
    query |= {name: value for name, value in (("compute", compute), ("team", team)) if value}
    said = session.client.get(f"{session.native}/quotas/explain", query)
    if session.output != "table" or session.given.query is not None:
        print_item(session, said)
        return
    click.echo(said["verdict"])
    now = time.time()
    for equation in said["equations"]:
        sign = "fits" if equation["fits"] else "does not fit"
        click.echo(f"\n{equation['kind']} {equation['name']}: {equation['text']} -> {sign}")
        if equation["holders"]:
            for line in table(equation["holders"], _HOLDERS, now, None):
                click.echo(f"  {line}")


def _until(iso: str | None, now: float) -> str:
    at = text.seconds_of(iso)
    if at is None:
        return "unknown"
    return "now" if at < now + 1 else f"in {text.duration(at - now)}"


def _names(value: Any, now: float) -> str:
    return ", ".join(value) if isinstance(value, list) else text.plain(value)


_HOLDERS = (
    Column("holds", key("text")),
    Column("job", key("job")),
    Column("user", key("user")),
    Column("nodes", key("nodes"), _names),
    Column("since", key("since"), text.ago),
    Column("released", key("released_at"), _until),
    Column("by", key("released_by")),
)
_QUEUE = (
    Column("#", key("position"), right=True),
    Column("compute", key("compute")),
    Column("job", key("job"), wide=True),
    Column("user", key("user")),
    Column("team", key("team")),
    Column("priority", key("priority")),
    Column("share", key("share"), lambda v, now: "-" if v is None else f"{v:.2f}", right=True),
    Column("nodes", key("nodes"), right=True),
    Column("waits", key("waits_s"), lambda v, now: text.duration(v), right=True),
    Column("starts", key("expected_at"), _until),
    Column("reason", key("reason"), wide=True),
)


@command(None, "queue", "tidemill queue\ntidemill queue --compute cpu --watch\ntidemill queue -o json")
@click.option("--compute", metavar="NAME", help="Only the jobs of this compute.")
@click.option("--limit", type=int, default=100, show_default=True, help="At most so many.")
@click.option("--watch", is_flag=True, help="Again every two seconds, until stopped.")
def queue(session: Session, compute: str | None, limit: int, watch: bool) -> int:
    """The jobs that wait, in order: whose turn it is, by which share, why not yet, and when."""
    query: dict[str, str | int] = {"limit": limit}
    if compute or session.given.workspace:
        query["workspace"] = session.workspace_id()
    if compute:
        query["compute"] = compute
    while True:
        rows = session.client.get("/api/v1/queue", query)["value"]
        if watch and session.output == "table":
            click.clear()
        print_list(session, rows, _QUEUE, "Nothing waits.")
        if not watch:
            return OK
        time.sleep(2)
