"""People, groups and programs, and why somebody may: what ARM has no word for."""

from __future__ import annotations

import difflib
from typing import Any

from starlette.responses import Response

from tidemill.app import access, principals, roles
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.role_explanations import Explanation, Step
from tidemill.store.api import Read
from tidemill.wire.http import SIGNED_IN, Context, Route, json_response

ACTION = "Microsoft.Authorization/principals"
BASE = "/api/v1/access"
_ONE = f"{BASE}/principals/{{who}}"


def routes() -> list[Route]:
    return [
        Route("GET", f"{BASE}/me", SIGNED_IN, me),
        Route("GET", f"{BASE}/principals", f"{ACTION}/read", list_principals),
        Route("POST", f"{BASE}/principals", f"{ACTION}/write", create_principal),
        Route("GET", _ONE, f"{ACTION}/read", get_principal),
        Route("PATCH", _ONE, f"{ACTION}/write", patch_principal),
        Route("DELETE", _ONE, f"{ACTION}/delete", delete_principal),
        Route("PUT", f"{_ONE}/members/{{member}}", f"{ACTION}/write", add_member),
        Route("DELETE", f"{_ONE}/members/{{member}}", f"{ACTION}/write", remove_member),
        # About oneself; about others: with the right to read assignments at the scope asked about.
        Route("POST", f"{BASE}/explain", SIGNED_IN, explain),
    ]


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


async def me(ctx: Context) -> Response:
    """Who the token speaks for."""
    caller = ctx.caller
    if caller.principal is not None:
        return json_response(principal_body(caller.principal))
    return json_response({"oid": caller.oid, "kind": caller.kind, "name": caller.name, "job": caller.job})


async def list_principals(ctx: Context) -> Response:
    text = ctx.request.query.get("kind", "")
    kind = roles.kind_of(text) if text else None
    found = await ctx.services.store.read(lambda read: read.principals(kind))
    return json_response({"value": [principal_body(one) for one in found]})


async def create_principal(ctx: Context) -> Response:
    body = await ctx.request.json()
    kind = roles.kind_of(str(body.get("kind", "")))
    if kind is PrincipalKind.MANAGED_IDENTITY and body.get("resource"):
        raise InvalidRequest("The identity of a compute is made with the compute.", target="resource")
    made = await principals.create(
        ctx.services,
        ctx.caller,
        kind,
        str(body.get("name", "")),
        display_name=str(body.get("display_name") or ""),
    )
    return json_response(principal_body(made), 201)


async def get_principal(ctx: Context) -> Response:
    """With `groups` and, of a group, `members` (names)."""

    def look(read: Read) -> dict[str, Any]:
        one = principals.require(read, ctx.params["who"])
        found = principal_body(one)
        found["groups"] = _names(read, read.groups_with(one.oid))
        if one.kind is PrincipalKind.GROUP:
            found["members"] = _names(read, read.members(one.oid))
        return found

    return json_response(await ctx.services.store.read(look))


def _names(read: Read, oids: Any) -> list[str]:
    return sorted(found.name for oid in oids if (found := read.principal(oid)) is not None)


async def patch_principal(ctx: Context) -> Response:
    """`disabled`, `display_name`."""
    body = await ctx.request.json()
    disabled = body.get("disabled")
    if disabled is not None and not isinstance(disabled, bool):
        raise InvalidRequest(f"disabled is {disabled!r}: give true or false.", target="disabled")
    shown = body.get("display_name")
    changed = await principals.change(
        ctx.services,
        ctx.params["who"],
        disabled=disabled,
        display_name=None if shown is None else str(shown),
    )
    return json_response(principal_body(changed))


async def delete_principal(ctx: Context) -> Response:
    return json_response(principal_body(await principals.delete(ctx.services, ctx.params["who"])))


async def add_member(ctx: Context) -> Response:
    new = await principals.add_member(ctx.services, ctx.params["who"], ctx.params["member"])
    return json_response({"changed": new}, 201 if new else 200)


async def remove_member(ctx: Context) -> Response:
    gone = await principals.remove_member(ctx.services, ctx.params["who"], ctx.params["member"])
    return json_response({"changed": gone})


async def explain(ctx: Context) -> Response:
    """`{"who", "action", "scope", "data"}`; without `who` about the caller, without `scope` about the
    subscription. -> the decision, every assignment with what it says, and what would help."""
    body = await ctx.request.json()
    action, data = str(body.get("action") or ""), bool(body.get("data"))
    text = str(body.get("scope") or ctx.scope.arm_id)
    place = roles.parse_scope(text)
    if place is None:
        raise InvalidRequest(
            f"scope {text!r} is no ARM id of a subscription, resource group, workspace or resource.",
            target="scope",
        )
    if not action:
        raise InvalidRequest("'action' is missing: PROVIDER/TYPE/VERB.", target="action")
    asked = str(body.get("who") or "") or ctx.caller.acts_as or ctx.caller.oid
    who = await ctx.services.store.read(lambda read: read.principal(asked))
    if who is None or who.oid != ctx.caller.oid:
        await access.authorise(
            ctx.services, ctx.caller, "Microsoft.Authorization/roleAssignments/read", place.scope, place.below
        )
        who = await ctx.services.store.read(lambda read: principals.require(read, asked))
    found = await roles.explained(ctx.services, who, action, place.arm_id, data)
    return json_response(_explained(ctx.services, who, found))


def _explained(services: Services, who: Principal, found: Explanation) -> dict[str, Any]:
    decision = found.decision
    known = services.live.actions
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
