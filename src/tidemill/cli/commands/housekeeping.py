"""`tidemill retention …` and `tidemill gc`."""

from __future__ import annotations

from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session

retention = group("retention", "What may be removed from the home, and when. Without a rule all is kept.")
_COLUMNS = (
    Column("what", key("kind")),
    Column("name", lambda row: str(row["name"]).split(" ")[0], wide=True),
    Column("size", key("size"), lambda value, now: text.size(value), right=True),
    Column("last used", key("used_at"), text.ago),
    Column("why", key("why"), wide=True),
)
_APPLY_S = 3600.0


@command(retention, "show", "tidemill retention show")
def show(session: Session) -> None:
    """Show the rules."""
    _print(session, session.client.get("/api/v1/retention"))


@command(
    retention,
    "set",
    """tidemill retention set --job-files-days 90 --environments-days 30
    tidemill retention set --job-files-days forever""",
)
@click.option("--job-files-days", metavar="N|forever", help="Logs and artifacts of jobs, since they ended.")
@click.option("--environments-days", metavar="N|forever", help="Built environments, since a job used them.")
@click.option("--uploads-days", metavar="N|forever", help="Uploads of which no asset was made.")
@click.option("--backups-keep", metavar="N|forever", help="How many of the newest in the home stay.")
def set_(session: Session, **given: str | None) -> None:
    """Change rules. Nothing is removed by that: see `tidemill gc`."""
    wanted = {name: _number(name, value) for name, value in given.items() if value is not None}
    if not wanted:
        raise CliError("Give at least one rule, for example --job-files-days 90.", USAGE, "UsageError")
    _print(session, session.client.call("PUT", "/api/v1/retention", wanted))


@command(None, "gc", "tidemill gc\ntidemill gc --apply")
@click.option("--apply", "really", is_flag=True, help="Remove it.")
@click.option("--all", "everything", is_flag=True, help="Show what stays, too, and why.")
def gc(session: Session, really: bool, everything: bool) -> None:
    """Show what would be removed by the rules of retention, with sizes and reasons. What a job that has not
    ended, an asset, or a result that pipelines use again needs is never removed."""
    client = session.connect(_APPLY_S)
    if really:
        rows = client.call("POST", "/api/v1/retention/apply", {})["value"]
    else:
        rows = client.get("/api/v1/retention/candidates")["value"]
        rows = [row for row in rows if everything or row["remove"]]
    print_list(session, rows, _COLUMNS, "Nothing to remove (rules: tidemill retention show).")
    gone = [row for row in rows if row["remove"]]
    if gone and session.output == "table":
        size = text.size(sum(row["size"] for row in gone))
        said = "were removed" if really else "would be removed. Remove it with: tidemill gc --apply"
        session.note(f"{len(gone)} of {size} {said}{session.home_flag if not really else ''}")


def _print(session: Session, rules: dict[str, Any]) -> None:
    facts = [
        (name.replace("_", " "), "kept for ever" if value is None else str(value))
        for name, value in rules.items()
    ]
    print_item(session, rules, facts)


def _number(name: str, value: str) -> int | None:
    if value == "forever":
        return None
    if not value.isdecimal():
        flag = "--" + name.replace("_", "-")
        raise CliError(f"{flag} is {value!r}: give a whole number, or forever.", USAGE, "UsageError")
    return int(value)
