"""`tidemill datastore …`"""

from __future__ import annotations

from pathlib import Path

import click

from tidemill.cli.arm import entity
from tidemill.cli.commands.compute import confirm
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

API = "2024-10-01-preview"

datastore = group("datastore", "Where data lies.")
_name = click.option("--name", "-n", required=True, help="Name of the datastore.")


@command(datastore, "create", "tidemill datastore create --file store.yml")
@click.option(
    "--file", "-f", "file", required=True, metavar="YAML", help="A blob datastore, in Azure's v2 YAML."
)
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
def create(session: Session, file: str, settings: tuple[str, ...]) -> None:
    """Create a datastore."""
    from tidemill.cli.yaml import to_arm
    from tidemill.cli.yaml.load import load_datastore

    spec = load_datastore(Path(file), settings, file)
    path = f"{session.workspace_id()}/datastores/{segment(spec.data['name'])}"
    query: dict[str, str | int] = {"api-version": API, "skipValidation": "true"}
    print_item(session, entity(session.client.call("PUT", path, to_arm.blob_datastore(spec.data), query)))


@command(datastore, "list", "tidemill datastore list")
def list_(session: Session) -> None:
    """List datastores."""
    path = f"{session.workspace_id()}/datastores"
    rows = [entity(item) for item in session.client.pages(path, {"api-version": API, "count": 30})]
    columns = (
        Column("name", key("name")),
        Column("type", key("type")),
        Column("container", key("container_name")),
        Column("account", key("account_name"), wide=True),
        Column("default", key("is_default")),
    )
    print_list(session, rows, columns, "No datastores.")


@command(datastore, "show", "tidemill datastore show --name workspaceblobstore")
@_name
def show(session: Session, name: str) -> None:
    """Show one datastore."""
    path = f"{session.workspace_id()}/datastores/{segment(name)}"
    print_item(session, entity(session.client.get(path, {"api-version": API})))


@command(datastore, "delete", "tidemill datastore delete --name old --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a datastore; what lies in it stays."""
    path = f"{session.workspace_id()}/datastores/{segment(name)}"
    session.client.get(path, {"api-version": API})
    confirm(f"Delete datastore {name}?", yes)
    session.client.begin("DELETE", path, None, {"api-version": API})
    session.note(f"{name} is deleted.")
