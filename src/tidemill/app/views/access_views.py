"""Who there is, who may what and why, as people read it: in the native API and on pages."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from tidemill.app.errors import absent
from tidemill.app.people import access, principals, roles
from tidemill.app.people.access import AccessDenied
from tidemill.app.people.roles import Place
from tidemill.app.services import Caller, Services
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.role_explanations import Explanation, Step
from tidemill.domain.role_explanations import explain as explained
from tidemill.domain.roles import RoleAssignment, RoleDefinition, covers, fold_scope
from tidemill.store.api import Read

PRINCIPALS = "Microsoft.Authorization/principals"
ASSIGNMENTS = "Microsoft.Authorization/roleAssignments"
READ_PRINCIPALS = f"{PRINCIPALS}/read"
READ_ASSIGNMENTS = f"{ASSIGNMENTS}/read"
WRITE_ASSIGNMENTS = f"{ASSIGNMENTS}/write"
DELETE_ASSIGNMENTS = f"{ASSIGNMENTS}/delete"
MOST_GIVERS = 5


def principal_body(one: Principal) -> dict[str, Any]:
    return {
        "oid": one.oid,
        "kind": one.kind.value,
        "name": one.name,
        "display_name": one.display_name,
        "app_id": one.app_id,
        "resource": one.resource,
        "disabled": one.disabled,
        "created_at": iso(one.created_at),
        "created_by": one.created_by,
    }


async def person(s: Services, who: str) -> dict[str, Any]:
    """With `groups` and, of a group, `members` (names). Raises NotFound naming near ones."""

    def look(read: Read) -> dict[str, Any]:
        one = principals.require(read, who)
        found = principal_body(one)
        found["groups"] = _names(read, read.groups_with(one.oid))
        if one.kind is PrincipalKind.GROUP:
            found["members"] = _names(read, read.members(one.oid))
        return found

    return await s.store.read(look)


def _names(read: Read, oids: Any) -> list[str]:
    return sorted(found.name for oid in oids if (found := read.principal(oid)) is not None)


async def people(s: Services) -> list[dict[str, Any]]:
    """Everybody, by name, with the names of the groups they are in directly, and of groups the members'."""

    def look(read: Read) -> list[dict[str, Any]]:
        known = {one.oid: one for one in read.principals()}
        groups: dict[str, list[str]] = {oid: [] for oid in known}
        members: dict[str, list[str]] = {oid: [] for oid in known}
        both = [pair for pair in read.memberships() if known.keys() >= set(pair)]
        for group, member in both:
            members[group].append(known[member].name)
            groups[member].append(known[group].name)
        return [
            {**principal_body(one), "groups": sorted(groups[one.oid]), "members": sorted(members[one.oid])}
            for one in sorted(known.values(), key=lambda one: one.name.lower())
        ]

    return await s.store.read(look)


async def assignments(s: Services, place: Place, of: Principal | None = None) -> list[dict[str, Any]]:
    """Those that count at a place and those below it, the widest scope first. `of`: only those that this
    principal has, through groups too."""
    index = await s.access.current()
    rows = await roles.assignments_at(s, place, assigned_to=of.oid if of else "")
    rows = sorted(rows, key=lambda row: (row.scope.count("/"), row.scope.lower(), row.created_at))
    return [_assignment(row, index.principal(row.principal), index.role(row.role)) for row in rows]


async def assignment(s: Services, place: Place, id: str) -> dict[str, Any]:
    """One of `assignments`. Raises NotFound."""
    found = next((one for one in await assignments(s, place) if one["id"] == id.lower()), None)
    if found is None:
        raise absent("Role assignment", id, (), place.arm_id, "It may have been taken away already.")
    return found


async def own_roles(s: Services, caller: Caller, place: Place) -> list[dict[str, Any]]:
    """The caller's assignments that count at a place, with the groups they come through."""
    index = await s.access.current()
    at = fold_scope(place.arm_id)
    found: list[dict[str, Any]] = []
    for scope, ones in index.held(caller.acts_as or caller.oid).items():
        for one in ones if covers(scope, at) else ():
            known = (index.principal(oid) for oid in one.via)
            body = _assignment(one.assignment, index.principal(one.assignment.principal), one.role)
            found.append({**body, "groups": [group.name for group in known if group is not None]})
    return found


def _assignment(row: RoleAssignment, who: Principal | None, role: RoleDefinition | None) -> dict[str, Any]:
    return {
        "id": row.id,
        "who": who.name if who else row.principal,
        "kind": who.kind.value if who else "Unknown",
        "role": role.name if role else row.role,
        "role_id": row.role,
        "oid": row.principal,
        "scope": row.scope,
        "description": row.description,
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
    }


# What is asked for by name.


async def place_named(s: Services, workspace: Scope, text: str) -> Place:
    """`workspace`, `group`, `subscription`, a resource (`computes/cpu`) of the workspace, or an ARM id of
    this server. Raises InvalidRequest."""
    word, (type, slash, name) = text.strip().lower(), text.strip().partition("/")
    if word in ("", "workspace"):
        return Place(workspace)
    if word in ("group", "resource-group"):
        return Place(Scope(workspace.subscription, workspace.group))
    if word == "subscription":
        return Place(Scope(workspace.subscription))
    if slash and type in roles.SINGLE and name and "/" not in name:
        return Place(workspace, f"{type}/{name}")
    place = roles.parse_scope(text.strip()) if word.startswith("/") else None
    if place is None or place.scope.subscription.lower() != s.settings.subscription.lower():
        raise InvalidRequest(
            f"{text[:200]!r} is no scope: give workspace, group, subscription, a resource such as "
            "computes/cpu, or an ARM id (/subscriptions/…) of this server.",
            target="scope",
        )
    return place


def full_action(text: str) -> str:
    """ARM's action; without a provider it stands below Microsoft.MachineLearningServices/workspaces."""
    named = "." in text.split("/")[0] or text.startswith("*")
    return text if named or not text else f"{PROVIDER}/workspaces/{text}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role to be given, looked up: what is shown before it is."""

    who: Principal
    role: RoleDefinition
    place: Place


async def grant_asked(s: Services, caller: Caller, who: str, role: str, place: Place) -> Grant:
    """Raises AccessDenied where the caller may not give roles there; NotFound naming near principals or
    roles."""
    await access.authorise(s, caller, WRITE_ASSIGNMENTS, place.scope, place.below)
    known = await named(s, caller, who.strip())
    offered = await roles.definitions_at(s, place.arm_id)
    wanted = role.strip().lower()
    found = next((one for one in offered if wanted in (one.name.lower(), one.id)), None)
    if found is None:
        raise absent("Role", role.strip(), [one.name for one in offered], f"those for {place.arm_id}")
    return Grant(known, found, place)


async def named(s: Services, caller: Caller, who: str) -> Principal:
    """By oid, name or client id. Raises NotFound; near names are only told to who may list principals."""
    try:
        return await s.store.read(lambda read: principals.require(read, who))
    except NotFound:
        lists = await access.decide(s, caller, READ_PRINCIPALS, Scope(s.settings.subscription))
        if lists.allowed:
            raise
        raise NotFound(
            f"Principal {who!r} was not found. Give the exact name; to see names you need {READ_PRINCIPALS} "
            "at the subscription.",
            target=who,
        ) from None


# Why, and why not.


async def explain(
    s: Services, caller: Caller, *, who: str, action: str, scope: str, data: bool = False
) -> dict[str, Any]:
    """Without `who`, or by their own name, about the caller. -> the decision, every assignment with what it
    says, and what would help. Raises AccessDenied about others for who may not read assignments at `scope`,
    an ARM id."""
    place = roles.parse_scope(scope)
    if place is None:
        raise InvalidRequest(
            f"scope {scope!r} is no ARM id of a subscription, resource group, workspace or resource.",
            target="scope",
        )
    if not action:
        raise InvalidRequest("'action' is missing: PROVIDER/TYPE/VERB.", target="action")
    asked = who or caller.acts_as or caller.oid
    known = await s.store.read(lambda read: read.principal(asked) or read.principal_named(asked))
    if known is None or known.oid != caller.oid:
        await access.authorise(s, caller, READ_ASSIGNMENTS, place.scope, place.below)
        known = await named(s, caller, asked)
    return _explained(s, known, await roles.explained(s, known, action, place.arm_id, data))


def _explained(s: Services, who: Principal, found: Explanation) -> dict[str, Any]:
    decision = found.decision
    known = s.live.actions
    lowered = {action.lower(): action for action in known}
    near: list[str] = []
    if known and decision.action.lower() not in lowered:
        near = [lowered[one] for one in difflib.get_close_matches(decision.action.lower(), lowered, 3, 0.7)]
    return {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "principal": principal_body(who),
        "action": decision.action,
        "known_action": not known or decision.action.lower() in lowered,
        "near_actions": near,
        "scope": decision.scope,
        "assignment": None if decision.assignment is None else decision.assignment.id,
        "steps": [_step(step) for step in found.steps],
        "would_allow": found.would_allow,
    }


def _step(step: Step) -> dict[str, Any]:
    given = step.held.assignment
    return {
        "assignment": given.id,
        "role": step.held.role.name,
        "scope": given.scope,
        "groups": step.groups,
        "allows": step.allows,
        "verdict": step.verdict,
        "granted_at": iso(given.created_at),
        "granted_by": given.created_by,
    }


async def missing(s: Services, denied: AccessDenied) -> dict[str, Any]:
    """Of a refusal: the right that is missing, the roles that have it (narrowest first), and who can give one
    there: people first."""
    decision, caller = denied.decision, denied.caller
    index = await s.access.current()
    found = explained(index, caller.oid, decision.action, decision.scope)
    known = {oid: index.principal(oid) for oid, _ in index.holders_of((WRITE_ASSIGNMENTS,), decision.scope)}
    givers = [who for who in known.values() if who is not None and not who.resource]
    givers.sort(key=lambda who: (who.kind is not PrincipalKind.USER, who.name.lower()))
    return {
        "who": caller.name,
        "action": decision.action,
        "scope": decision.scope,
        "reason": decision.reason,
        "would_allow": list(found.would_allow),
        "givers": [who.shown for who in givers[:MOST_GIVERS]],
        "more_givers": max(0, len(givers) - MOST_GIVERS),
    }
