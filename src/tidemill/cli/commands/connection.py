"""`tidemill connection …`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemill.cli.arm import entity
from tidemill.cli.commands.compute import confirm
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

API = "2024-10-01-preview"

connection = group("connection", "How a workspace reaches something outside.")
_name = click.option("--name", "-n", required=True, help="Name of the connection.")


@command(connection, "create", "tidemill connection create --file registry.yml")
@click.option("--file", "-f", "file", required=True, metavar="YAML", help="In Azure's v2 YAML.")
def create(session: Session, file: str) -> None:
    """Create a connection, or change one. Its secrets are kept sealed, and shown to nobody who does not ask
    for them."""
    from tidemill.cli.yaml import connections

    spec = connections.load_connection(Path(file), file)
    body = connections.connection(spec.data)
    made = session.client.call("PUT", _path(session, spec.data["name"]), body, {"api-version": API})
    print_item(session, _shown(made))


@command(connection, "list", "tidemill connection list")
def list_(session: Session) -> None:
    """List connections, without their secrets."""
    found = session.client.pages(_path(session), {"api-version": API})
    columns = (
        Column("name", key("name")),
        Column("type", key("type")),
        Column("target", key("target"), wide=True),
        Column("credentials", key("auth_type")),
    )
    example = "No connections. Make one: tidemill connection create --file registry.yml"
    print_list(session, [_shown(one) for one in found], columns, example)


@command(connection, "show", "tidemill connection show --name registry")
@_name
@click.option("--populate-secrets", is_flag=True, help="With its secrets, if you may see them.")
def show(session: Session, name: str, populate_secrets: bool) -> None:
    """Show one connection."""
    query: dict[str, str | int] = {"api-version": API}
    if populate_secrets:
        found = session.client.call("POST", f"{_path(session, name)}/listsecrets", {}, query)
    else:
        found = session.client.get(_path(session, name), query)
    print_item(session, _shown(found))


@command(connection, "delete", "tidemill connection delete --name registry --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a connection with its secrets."""
    session.client.get(_path(session, name), {"api-version": API})
    confirm(f"Delete connection {name}?", yes)
    session.client.call("DELETE", _path(session, name), None, {"api-version": API})
    session.note(f"{name} is deleted.")


def _path(session: Session, name: str = "") -> str:
    base = f"{session.workspace_id()}/connections"
    return f"{base}/{segment(name)}" if name else base


def _shown(resource: dict[str, Any]) -> dict[str, Any]:
    """With its type as the YAML spells it, in place of ARM's category."""
    from tidemill.cli.yaml.connections import type_of

    found = entity(resource)
    category = str(found.pop("category", ""))
    return {**found, "type": type_of(category)}
