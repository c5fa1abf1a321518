"""`tidemill secret …`"""

from __future__ import annotations

import sys

import click

from tidemill.cli import text
from tidemill.cli.commands.compute import confirm
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

secret = group("secret", "Values that jobs get as environment variables, and nobody sees.")
_name = click.argument("name")

_COLUMNS = (
    Column("name", key("name")),
    Column("version", key("version")),
    Column("set", key("created_at"), text.ago),
    Column("by", key("created_by")),
    Column("enabled", key("enabled")),
)


@command(
    secret,
    "set",
    """tidemill secret set hf-token
    tidemill secret set hf-token --value-stdin < token.txt""",
)
@_name
@click.option(
    "--value-stdin", is_flag=True, help="Read the value from standard input; a last line end is dropped."
)
def set_(session: Session, name: str, value_stdin: bool) -> None:
    """Set a secret: asks for the value. Older versions are kept. A job names it in its environment_variables
    as ${{secrets.NAME}}."""
    print_item(
        session, session.client.call("PUT", _path(session, name), {"value": _value(name, value_stdin)})
    )


@command(secret, "list", "tidemill secret list")
def list_(session: Session) -> None:
    """List secrets, without their values."""
    rows = session.client.get(f"{session.native}/secrets")["value"]
    print_list(session, rows, _COLUMNS, "No secrets. Set one with: tidemill secret set NAME")


@command(secret, "show", "tidemill secret show hf-token")
@_name
def show(session: Session, name: str) -> None:
    """Show a secret's versions. The value is never shown."""
    found = session.client.get(_path(session, name))
    if session.output == "table":
        print_list(session, found["versions"], _COLUMNS, "No versions.")
    else:
        print_item(session, found)


@command(secret, "delete", "tidemill secret delete hf-token --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a secret with all its versions."""
    session.client.get(_path(session, name))
    confirm(f"Delete secret {name} with all its versions?", yes)
    session.client.call("DELETE", _path(session, name))
    session.note(f"{name} is deleted.")


def _value(name: str, from_stdin: bool) -> str:
    """Never from the command line: arguments are seen by every process of the host, and kept by shells."""
    if from_stdin:
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise CliError(
            "Standard input is no terminal: give --value-stdin to read the value from it.",
            USAGE,
            "UsageError",
        )
    return click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)


def _path(session: Session, name: str) -> str:
    return f"{session.native}/secrets/{segment(name)}"
