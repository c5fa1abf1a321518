"""`tidemill keys …`"""

from __future__ import annotations

import click

from tidemill.cli import text
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session

keys = group("keys", "The home's own keys, and their rotation.")

_COLUMNS = (
    Column("kind", key("kind")),
    Column("id", key("id")),
    Column("state", key("state")),
    Column("until", key("until"), lambda value, now: (value or text.NOTHING)[:16]),
)


@command(keys, "list", "tidemill keys list")
def list_(session: Session) -> None:
    """List the home's keys, by their ids. The keys themselves are never shown."""
    print_list(session, session.client.get("/api/v1/keys")["value"], _COLUMNS, "No keys.")


@command(
    keys,
    "rotate",
    """tidemill keys rotate --master
    tidemill keys rotate --signing --at-once""",
)
@click.option("--signing", is_flag=True, help="Of tokens: those from before count until they expire.")
@click.option(
    "--storage", is_flag=True, help="Of storage accounts: those from before work until the next time."
)
@click.option("--master", is_flag=True, help="Of secrets at rest: all are sealed anew in the background.")
@click.option("--links", is_flag=True, help="Of signed links: those from before stay good.")
@click.option("--at-once", is_flag=True, help="Not --master: what was signed before is worth nothing now.")
def rotate(session: Session, signing: bool, storage: bool, master: bool, links: bool, at_once: bool) -> None:
    """Make new keys, on the running server. A kill in the middle loses nothing."""
    asked = {"signing": signing, "storage": storage, "master": master, "links": links}
    kinds = [kind for kind, wanted in asked.items() if wanted]
    if not kinds:
        raise CliError("Say which: --signing, --storage, --master, --links.", USAGE, "UsageError")
    if at_once and master:
        raise CliError("--at-once is not for --master: what is sealed needs its key.", USAGE, "UsageError")
    for kind in kinds:
        answer = session.client.call("POST", "/api/v1/keys/rotate", {"kind": kind, "at_once": at_once})
        if session.output == "table":
            click.echo(answer["message"])
        else:
            print_item(session, answer)
