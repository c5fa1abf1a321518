"""`tidemill registry …`: assets that several workspaces share."""

from __future__ import annotations

import click

from tidemill.cli.arm import entity
from tidemill.cli.commands.compute import confirm, parse_tags
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import PROVIDER, Session
from tidemill.cli.text import ago
from tidemill.cli.urls import segment

API = "2022-10-01-preview"

registry = group("registry", "Registries: assets that several workspaces share.")
_name = click.option("--name", "-n", required=True, help="Name of the registry.")


def registry_id(session: Session, name: str) -> str:
    """Its ARM id, in whatever resource group it is; of one that is not listed, in that of the command."""
    known = session.client.pages(f"{session.subscription_id}/{PROVIDER}/registries", {"api-version": API})
    found = next((item["id"] for item in known if item["name"].casefold() == name.casefold()), None)
    return found or f"{session.group_id}/{PROVIDER}/registries/{segment(name)}"


@command(registry, "list", "tidemill registry list")
def list_(session: Session) -> None:
    """List the registries of the subscription."""
    found = session.client.pages(f"{session.subscription_id}/{PROVIDER}/registries", {"api-version": API})
    columns = (
        Column("name", key("name"), wide=True),
        Column("location", key("location")),
        Column("state", key("provisioning_state"), state=True),
        Column("created", key("created_at"), ago),
    )
    empty = "No registries. Create one with: tidemill registry create --name shared"
    print_list(session, [entity(item) for item in found], columns, empty)


@command(registry, "show", "tidemill registry show --name shared")
@_name
def show(session: Session, name: str) -> None:
    """Show one registry."""
    print_item(session, entity(session.client.get(registry_id(session, name), {"api-version": API})))


@command(registry, "create", "tidemill registry create --name shared")
@_name
@click.option("--location", "-l", help="Region; nothing depends on it here.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags; repeatable.")
def create(session: Session, name: str, location: str | None, tags: tuple[str, ...]) -> None:
    """Create a registry, with roles and storage of its own."""
    path = f"{session.group_id}/{PROVIDER}/registries/{segment(name)}"
    body = {**({"location": location} if location else {}), "tags": parse_tags(tags), "properties": {}}
    print_item(session, entity(session.client.call("PUT", path, body, {"api-version": API})))


@command(registry, "delete", "tidemill registry delete --name shared --yes")
@_name
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete a registry with all that is in it."""
    path = registry_id(session, name)
    session.client.get(path, {"api-version": API})
    confirm(f"Delete registry {name} with all its models, data, environments and components?", yes)
    session.client.begin("DELETE", path, None, {"api-version": API})
    session.note(f"{name} is deleted.")
