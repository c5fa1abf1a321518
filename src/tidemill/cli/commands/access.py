"""`tidemill access …`: who there is, who may what, and why."""

from __future__ import annotations

import uuid
from typing import Any

import click

from tidemill.cli.errors import NOT_FOUND, REFUSED, USAGE, CliError, did_you_mean
from tidemill.cli.framework import command, group
from tidemill.cli.output import Column, key, print_item, print_list
from tidemill.cli.session import Session
from tidemill.cli.text import ago, plain
from tidemill.cli.urls import segment
from tidemill.domain.scopes import in_words, scope_words

API = "2022-04-01"
BASE = "/api/v1/access"
AUTHORIZATION = "providers/Microsoft.Authorization"
_SCOPES = ("subscription", "group", "workspace")

access = group("access", "People, groups, programs and their roles.")
_scope_option = click.option(
    "--scope",
    default="workspace",
    show_default=True,
    metavar="SCOPE",
    help="workspace, group, subscription, a resource of the workspace (computes/cpu), or an ARM id.",
)


def _create(session: Session, kind: str, name: str, display_name: str | None) -> None:
    body = {"kind": kind, "name": name, "display_name": display_name or ""}
    print_item(session, session.client.call("POST", f"{BASE}/principals", body))


_display = click.option("--display-name", help="How it is shown.")


@command(access, "create-user", "tidemill access create-user ann@example.org --display-name 'Ann Lee'")
@click.argument("name")
@_display
def create_user(session: Session, name: str, display_name: str | None) -> None:
    """Make a user, without any role yet."""
    _create(session, "User", name, display_name)


@command(access, "create-group", "tidemill access create-group vision")
@click.argument("name")
@_display
def create_group(session: Session, name: str, display_name: str | None) -> None:
    """Make a group, empty and without any role yet."""
    _create(session, "Group", name, display_name)


@command(access, "create-principal", "tidemill access create-principal nightly-training")
@click.argument("name")
@_display
@click.option("--managed-identity", is_flag=True, help="An identity that computes and jobs can be given.")
def create_principal(session: Session, name: str, display_name: str | None, managed_identity: bool) -> None:
    """Make a service principal, for a program; its client id is printed."""
    _create(session, "ManagedIdentity" if managed_identity else "ServicePrincipal", name, display_name)


@command(access, "delete", "tidemill access delete ann@example.org")
@click.argument("who")
def delete(session: Session, who: str) -> None:
    """Delete a user, group or program with its roles. Its tokens are dead at once."""
    gone = session.client.call("DELETE", f"{BASE}/principals/{segment(who)}")
    session.note(f"{gone['name']} is deleted, with its roles and memberships.")


@command(access, "disable", "tidemill access disable ann@example.org")
@click.argument("who")
def disable(session: Session, who: str) -> None:
    """Shut somebody out at once; the roles stay for `enable`."""
    print_item(session, session.client.call("PATCH", f"{BASE}/principals/{segment(who)}", {"disabled": True}))


@command(access, "enable", "tidemill access enable ann@example.org")
@click.argument("who")
def enable(session: Session, who: str) -> None:
    """Let somebody in again."""
    changed = {"disabled": False}
    print_item(session, session.client.call("PATCH", f"{BASE}/principals/{segment(who)}", changed))


@command(access, "add-member", "tidemill access add-member vision ann@example.org")
@click.argument("into", metavar="GROUP")
@click.argument("member")
def add_member(session: Session, into: str, member: str) -> None:
    """Put a user, a program or a group into a group."""
    path = f"{BASE}/principals/{segment(into)}/members/{segment(member)}"
    done = session.client.call("PUT", path)
    session.note(f"{member} {'is now' if done['changed'] else 'was already'} in {into}.")


@command(access, "remove-member", "tidemill access remove-member vision ann@example.org")
@click.argument("into", metavar="GROUP")
@click.argument("member")
def remove_member(session: Session, into: str, member: str) -> None:
    """Take somebody out of a group."""
    path = f"{BASE}/principals/{segment(into)}/members/{segment(member)}"
    done = session.client.call("DELETE", path)
    session.note(f"{member} {'is no longer' if done['changed'] else 'was not'} in {into}.")


@command(
    access,
    "grant",
    """tidemill access grant ann@example.org 'AzureML Data Scientist'
    tidemill access grant ops Owner --scope subscription""",
)
@click.argument("who")
@click.argument("role")
@_scope_option
@click.option("--description", help="Why.")
def grant(session: Session, who: str, role: str, scope: str, description: str | None) -> None:
    """Give somebody a role at a scope; it counts there and everywhere below."""
    where = scope_id(session, scope)
    principal = session.client.get(f"/api/v1{where}/access/principals/{segment(who)}")
    found = _role(session, where, role)
    body = {
        "properties": {
            "roleDefinitionId": found["id"],
            "principalId": principal["oid"],
            "description": description or "",
        }
    }
    path = f"{where}/{AUTHORIZATION}/roleAssignments/{uuid.uuid4()}"
    made = session.client.call("PUT", path, body, {"api-version": API})
    given = made["properties"]
    shown = {
        "principal": principal["name"],
        "kind": principal["kind"],
        "role": found["properties"]["roleName"],
        "scope": given["scope"],
        "description": given.get("description"),
        "created_at": given["createdOn"],
        "created_by": given["createdBy"],
        "principal_id": principal["oid"],
        "id": made["id"],
    }
    print_item(session, shown)


@command(access, "revoke", "tidemill access revoke ann@example.org 'AzureML Data Scientist'")
@click.argument("who")
@click.argument("role")
@_scope_option
def revoke(session: Session, who: str, role: str, scope: str) -> None:
    """Take a role away. The next request is refused."""
    where = scope_id(session, scope)
    principal = session.client.get(f"/api/v1{where}/access/principals/{segment(who)}")
    found = _role(session, where, role)
    held = [row for row in _assignments(session, where, who) if row["principal_id"] == principal["oid"]]
    name, role = principal["name"], found["properties"]["roleName"]
    for one in held:
        if one["role"] == role and one["scope"].lower() == where.lower():
            session.client.call("DELETE", one["id"], None, {"api-version": API})
            session.note(f"{name} is no longer {role} at {scope_words(where)}.")
            return
    has = "; ".join(f"{one['role']} at {scope_words(one['scope'])}" for one in held)
    raise CliError(
        f"{name} is not {role} exactly at {scope_words(where)}. It has there: {has or 'no role of its own'}. "
        "A role that comes through a group is the group's.",
        NOT_FOUND,
        "RoleAssignmentNotFound",
    )


@command(
    access,
    "list",
    """tidemill access list
    tidemill access list --principals""",
)
@_scope_option
@click.option("--who", help="Only of this user, group or program, its groups' roles too.")
@click.option("--principals", "people", is_flag=True, help="Users, groups and programs instead of roles.")
@click.option("--roles", "definitions", is_flag=True, help="Roles that can be granted, instead.")
def list_(session: Session, scope: str, who: str | None, people: bool, definitions: bool) -> None:
    """List who has which role at a scope, above it and below it."""
    if people:
        _list_principals(session)
        return
    where = scope_id(session, scope)
    if definitions:
        _list_roles(session, where)
        return
    rows = _assignments(session, where, who or "")
    columns = (
        Column("who", key("principal"), wide=True),
        Column("kind", key("kind")),
        Column("role", key("role"), wide=True),
        Column("scope", key("scope"), lambda v, now: scope_words(v), wide=True),
        Column("granted", key("created_at"), ago),
        Column("by", key("created_by"), wide=True),
    )
    print_list(session, rows, columns, "Nobody has a role there.")


def _list_principals(session: Session) -> None:
    columns = (
        Column("name", key("name"), wide=True),
        Column("kind", key("kind")),
        Column("display name", key("display_name"), wide=True),
        Column("client id", key("app_id"), wide=True),
        Column("disabled", key("disabled")),
        Column("created", key("created_at"), ago),
    )
    rows = list(session.client.pages(f"{BASE}/principals"))
    print_list(session, rows, columns, "There is nobody. Make a user with: tidemill access create-user NAME")


def _list_roles(session: Session, where: str) -> None:
    rows = [
        {"name": one["properties"]["roleName"], "id": one["name"], **one["properties"]}
        for one in _definitions(session, where)
    ]
    columns = (
        Column("name", key("name")),
        Column("type", key("type")),
        Column("description", key("description"), wide=True),
    )
    print_list(session, rows, columns, "There are no roles for this scope.")


@command(
    access,
    "explain",
    """tidemill access explain ann@example.org jobs/write workspace
    tidemill access explain ann@example.org computes/delete computes/cpu""",
)
@click.argument("who")
@click.argument("action")
@click.argument("scope", default="workspace")
@click.option("--data", is_flag=True, help="A data action.")
def explain(session: Session, who: str, action: str, scope: str, data: bool) -> int:
    """Say whether somebody may do something somewhere, by which assignment, and what every other one says.

    ACTION is ARM's; without a provider it stands below Microsoft.MachineLearningServices/workspaces. The
    exit code is 0 for yes, 4 for no."""
    named = "." in action.split("/")[0] or action.startswith("*")
    full = action if named else f"Microsoft.MachineLearningServices/workspaces/{action}"
    body = {"who": who, "action": full, "scope": scope_id(session, scope), "data": data}
    found = session.client.call("POST", f"{BASE}/explain", body)
    if not found["known_action"]:
        near = " or ".join(repr(one) for one in found["near_actions"])
        hint = f" Did you mean {near}?" if near else ""
        session.note(f"No route of this server needs the action {full!r}.{hint}")
    if session.output == "table":
        _print_explanation(found)
    else:
        print_item(session, found)
    return 0 if found["allowed"] else REFUSED


def _print_explanation(found: dict[str, Any]) -> None:
    who = found["principal"]["name"]
    word = "may" if found["allowed"] else "may not"
    click.echo(f"{who} {word} {found['action']}\n  at {scope_words(found['scope'])}")
    click.echo(f"  {in_words(found['reason'])}")
    for step in found["steps"]:
        through = f" through {' > '.join(step['groups'])}" if step["groups"] else ""
        mark = ">" if step["assignment"] == found["assignment"] else "-"
        click.echo(f"{mark} {step['role']}{through} at {scope_words(step['scope'])}: {step['verdict']}")
        click.echo(f"    assignment {step['assignment']}, granted by {plain(step['granted_by'])}")
    if found["would_allow"]:
        click.echo(f"  Roles that would allow it, narrowest first: {', '.join(found['would_allow'])}")


def scope_id(session: Session, text: str) -> str:
    """`workspace`, `group`, `subscription`, `computes/cpu` or an ARM id -> an ARM id."""
    if text.startswith("/subscriptions/"):
        return text.rstrip("/")
    word = text.lower()
    if word == "workspace":
        return session.workspace_id()
    if word in ("group", "resource-group"):
        return session.group_id
    if word == "subscription":
        return session.subscription_id
    type, slash, name = text.partition("/")
    if slash and type and name and "/" not in name:
        return f"{session.workspace_id()}/{segment(type)}/{segment(name)}"
    raise CliError(
        f"{text!r} is no scope.{did_you_mean(text, _SCOPES)} Give {', '.join(_SCOPES)}, a resource such as "
        "computes/cpu, or an ARM id (/subscriptions/…).",
        USAGE,
        "UsageError",
    )


def _definitions(session: Session, where: str) -> Any:
    return session.client.pages(f"{where}/{AUTHORIZATION}/roleDefinitions", {"api-version": API})


def _role(session: Session, where: str, text: str) -> dict[str, Any]:
    """A role definition by name or GUID."""
    found = list(_definitions(session, where))
    for one in found:
        if text.lower() in (one["properties"]["roleName"].lower(), one["name"].lower()):
            return one
    names = [one["properties"]["roleName"] for one in found]
    raise CliError(
        f"There is no role {text!r} for {scope_words(where)}.{did_you_mean(text, names)} "
        f"There are: {', '.join(names)}.",
        NOT_FOUND,
        "RoleDefinitionDoesNotExist",
    )


def _assignments(session: Session, where: str, who: str) -> list[dict[str, Any]]:
    """The role assignments that count at a scope and below it; `who`: only theirs, their groups' too."""
    found = session.client.get(f"/api/v1{where}/access/assignments", {"who": who} if who else {})
    return [
        {
            "principal": one["who"],
            "kind": one["kind"],
            "role": one["role"],
            "scope": one["scope"],
            "description": one["description"],
            "created_at": one["created_at"],
            "created_by": one["created_by"],
            "principal_id": one["oid"],
            "id": f"{one['scope']}/{AUTHORIZATION}/roleAssignments/{one['id']}",
        }
        for one in found["value"]
    ]
