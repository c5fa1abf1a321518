"""People, groups and programs, and why somebody may: what ARM has no word for."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.people import principals, roles
from tidemill.app.views import access_views
from tidemill.app.views.access_views import PRINCIPALS as ACTION
from tidemill.app.views.access_views import READ_ASSIGNMENTS, principal_body
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.principals import PrincipalKind
from tidemill.wire.azure.authorization import SCOPES, place_of
from tidemill.wire.http import SIGNED_IN, Context, Route, json_response

BASE = "/api/v1/access"
_ONE = f"{BASE}/principals/{{who}}"


def routes() -> list[Route]:
    found = [
        Route("GET", f"{BASE}/me", SIGNED_IN, me),
        Route("GET", f"{BASE}/principals", f"{ACTION}/read", list_principals),
        Route("POST", f"{BASE}/principals", f"{ACTION}/write", create_principal),
        Route("GET", _ONE, f"{ACTION}/read", get_principal),
        Route("PATCH", _ONE, f"{ACTION}/write", patch_principal),
        Route("DELETE", _ONE, f"{ACTION}/delete", delete_principal),
        Route("PUT", f"{_ONE}/members/{{member}}", f"{ACTION}/write", add_member),
        Route("DELETE", f"{_ONE}/members/{{member}}", f"{ACTION}/write", remove_member),
        # About oneself; about others: with the right to read assignments at the scope asked about.
        Route("POST", f"{BASE}/explain", SIGNED_IN, explain, reads=True),
    ]
    # By name, for who may see the roles of one scope and not everybody there is: a workspace's owner.
    for scope in SCOPES:
        base = f"/api/v1{scope}/access"
        found += [
            Route("GET", f"{base}/assignments", READ_ASSIGNMENTS, list_assignments),
            Route("GET", f"{base}/principals/{{who}}", READ_ASSIGNMENTS, find_principal),
        ]
    return found


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
    return json_response(await access_views.person(ctx.services, ctx.params["who"]))


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


async def list_assignments(ctx: Context) -> Response:
    """With names. `?who=` only what that user, group or program has there, its groups' roles too."""
    who = ctx.request.query.get("who", "")
    of = await access_views.named(ctx.services, ctx.caller, who) if who else None
    return json_response({"value": await access_views.assignments(ctx.services, place_of(ctx), of)})


async def find_principal(ctx: Context) -> Response:
    """By the exact name, the object id or the client id."""
    found = await access_views.named(ctx.services, ctx.caller, ctx.params["who"])
    return json_response(principal_body(found))


async def explain(ctx: Context) -> Response:
    """`{"who", "action", "scope", "data"}`; without `who`, or by one's own name, about the caller, without
    `scope` about the subscription. -> the decision, every assignment with what it says, and what would
    help."""
    body = await ctx.request.json()
    found = await access_views.explain(
        ctx.services,
        ctx.caller,
        who=str(body.get("who") or ""),
        action=str(body.get("action") or ""),
        scope=str(body.get("scope") or ctx.scope.arm_id),
        data=bool(body.get("data")),
    )
    return json_response(found)
