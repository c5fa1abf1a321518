"""`tidemill workspace …`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidemill.cli.arm import entity
from tidemill.cli.commands.compute import confirm, parse_tags
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import PROVIDER, Session
from tidemill.cli.text import ago

API = "2024-10-01-preview"

workspace = group("workspace", "Workspaces.")
_name = click.option("--name", "-n", help="Name of the workspace (default: the one that commands act on).")


@command(workspace, "list", "tidemill workspace list")
def list_(session: Session) -> None:
    """List the workspaces of the resource group (all of the subscription without --resource-group)."""
    base = session.group_id if session.given.group else session.subscription_id
    rows = [
        entity(item) for item in session.client.pages(f"{base}/{PROVIDER}/workspaces", {"api-version": API})
    ]
    columns = (
        Column("name", key("name"), wide=True),
        Column("resource group", lambda item: _group_of(item.get("id") or ""), wide=True),
        Column("location", key("location")),
        Column("state", key("provisioning_state"), state=True),
        Column("created", key("created_at"), ago),
        Column("description", key("description"), wide=True),
    )
    print_list(
        session, rows, columns, "No workspaces. Create one with: tidemill workspace create --name main"
    )


@command(workspace, "show", "tidemill workspace show --name main")
@_name
def show(session: Session, name: str | None) -> None:
    """Show one workspace."""
    print_item(session, entity(session.client.get(session.workspace_id(name), {"api-version": API})))


@command(workspace, "create", "tidemill workspace create --name vision --description 'Image models'")
@click.option("--file", "-f", "file", metavar="YAML", help="The workspace, in Azure's v2 YAML.")
@click.option("--name", "-n", help="Name of the workspace.")
@click.option("--location", "-l", help="Region, for prices.")
@click.option("--display-name", help="Display name.")
@click.option("--description", help="Description.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags; repeatable.")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change a value of the file; repeatable."
)
def create(session: Session, file: str | None, settings: tuple[str, ...], **flags: Any) -> None:
    """Create a workspace, with its own storage account and keys."""
    from tidemill.cli.yaml import to_arm
    from tidemill.cli.yaml.load import from_flags, load_workspace

    if file:
        extra = tuple(f"{k}={v}" for k, v in flags.items() if v and k != "tags")
        spec = load_workspace(Path(file), settings + extra, file)
    elif flags["name"]:
        spec = from_flags("workspace", {**flags, "tags": parse_tags(flags["tags"])})
    else:
        raise CliError("Give --name NAME or --file YAML.", USAGE, "UsageError")
    body = to_arm.workspace(spec.data, _default_location(session))
    path = session.workspace_id(spec.data["name"])
    session.client.begin("PUT", path, body, {"api-version": API})
    print_item(session, entity(session.client.get(path, {"api-version": API})))


@command(workspace, "update", "tidemill workspace update --name vision --description 'Image models'")
@_name
@click.option("--display-name", help="Display name.")
@click.option("--description", help="Description.")
@click.option("--tags", multiple=True, metavar="K=V", help="Tags to add or change; repeatable.")
def update(
    session: Session,
    name: str | None,
    display_name: str | None,
    description: str | None,
    tags: tuple[str, ...],
) -> None:
    """Change a workspace's description, display name or tags."""
    path = session.workspace_id(name)
    body: dict[str, Any] = {}
    if display_name is not None:
        body.setdefault("properties", {})["friendlyName"] = display_name
    if description is not None:
        body.setdefault("properties", {})["description"] = description
    added = parse_tags(tags)
    if added:
        current = session.client.get(path, {"api-version": API}).get("tags") or {}
        body["tags"] = {**current, **added}
    if not body:
        raise CliError(
            "Nothing to change: give --description, --display-name or --tags.", USAGE, "UsageError"
        )
    session.client.begin("PATCH", path, body, {"api-version": API})
    print_item(session, entity(session.client.get(path, {"api-version": API})))


@command(workspace, "delete", "tidemill workspace delete --name vision --yes")
@click.option("--name", "-n", required=True, help="Name of the workspace.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Return before it is gone.")
@click.option("--all-resources", is_flag=True, hidden=True, help="As in az ml: here they always go with it.")
@click.option("--permanently-delete", is_flag=True, hidden=True, help="As in az ml: here deletion is final.")
def delete(
    session: Session, name: str, yes: bool, no_wait: bool, all_resources: bool, permanently_delete: bool
) -> None:
    """Delete a workspace with its jobs, data and models."""
    path = session.workspace_id(name)
    session.client.get(path, {"api-version": API})
    confirm(f"Delete workspace {name} with all its jobs, data and models?", yes)
    query: dict[str, str | int] = {
        "api-version": API,
        "forceToPurge": "true" if permanently_delete else "false",
    }
    session.client.begin("DELETE", path, None, query, wait=not no_wait)
    session.note(f"{name} is {'being ' if no_wait else ''}deleted.")


@command(workspace, "diagnose", "tidemill workspace diagnose")
@_name
def diagnose(session: Session, name: str | None) -> None:
    """Try out what a workspace depends on: its storage, secrets, images, environments, isolation."""
    found = session.client.call("POST", f"{session.workspace_id(name)}/diagnose", {}, {"api-version": API})
    rows = [
        {"part": part.removesuffix("Results"), **one} for part, ones in found["value"].items() for one in ones
    ]
    order = ("Error", "Warning", "Information")
    rows.sort(key=lambda row: order.index(row["level"]))
    columns = (
        Column("level", key("level"), state=True),
        Column("code", key("code")),
        Column("message", key("message"), wide=True),
    )
    print_list(session, rows, columns, "Nothing was found.")


def _default_location(session: Session) -> str:
    found = session.client.find(session.workspace_id(), {"api-version": API})
    return (found or {}).get("location") or "local"


def _group_of(arm_id: str) -> str:
    parts = arm_id.split("/")
    return parts[4] if len(parts) > 4 else ""
