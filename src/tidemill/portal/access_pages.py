"""People and roles of a workspace: who may what and why; roles given and taken away, after a second look."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import Response

from tidemill.app.people import access, principals, roles
from tidemill.app.people.access import AccessDenied
from tidemill.app.people.roles import AssignmentDraft, Place
from tidemill.app.views import access_views
from tidemill.app.views.access_views import (
    DELETE_ASSIGNMENTS,
    READ_ASSIGNMENTS,
    READ_PRINCIPALS,
    WRITE_ASSIGNMENTS,
)
from tidemill.domain.errors import TidemillError
from tidemill.domain.model import Scope
from tidemill.portal import pages, session
from tidemill.portal.frame import W, around, base_of, computes_seen
from tidemill.wire.http import Context, Route, resource_below

READ = "Microsoft.MachineLearningServices/workspaces/read"
MOST_PEOPLE = 200
DONE = {"given": "The role is given; it counts from the next request on.", "taken": "The role is taken away."}
# Suggested in the box; any action may be asked about.
ACTIONS = (
    "jobs/read",
    "jobs/write",
    "jobs/delete",
    "computes/write",
    "computes/delete",
    "data/write",
    "read",
)


def routes() -> list[Route]:
    found = [
        # Each part of it is checked by itself: everybody sees their own roles, and may ask about themselves.
        Route("GET", f"{W}/access", READ, show),
        Route("GET", f"{W}/access/grant", WRITE_ASSIGNMENTS, ask_grant),
        Route("GET", f"{W}/access/revoke/{{id}}", DELETE_ASSIGNMENTS, ask_revoke),
    ]
    # One address for each kind of scope: the gate decides there, and the activity log names it.
    places = ("/ui/{sub}", "/ui/{sub}/{rg}", W, *(f"{W}/{type}/{{name}}" for type in roles.SINGLE))
    for place in places:
        one = f"{place}/access/assignments/{{id}}"
        found += [
            Route("POST", one, WRITE_ASSIGNMENTS, grant),
            Route("POST", f"{one}/delete", DELETE_ASSIGNMENTS, revoke),
        ]
    return found


async def show(ctx: Context) -> Response:
    s, query, place = ctx.services, ctx.request.query, Place(ctx.scope)
    may_read = await _may(ctx, READ_ASSIGNMENTS, ctx.scope)
    may_list = await _may(ctx, READ_PRINCIPALS, Scope(ctx.scope.subscription))
    text = query.get("q", "").strip()[:200]
    directory = await access_views.people(s) if may_list else []
    matching = [one for one in directory if text.lower() in f"{one['name']} {one['display_name']}".lower()]
    offered = await roles.definitions_at(s, place.arm_id) if may_read else []
    values = {
        **await around(ctx, "access"),
        "done": DONE.get(query.get("done", ""), ""),
        "mine": await access_views.own_roles(s, ctx.caller, place),
        "may_read": may_read,
        "may_list": may_list,
        "assignments": _by_scope(await access_views.assignments(s, place)) if may_read else [],
        "missing_read": None if may_read else await _missing(ctx, READ_ASSIGNMENTS, ctx.scope),
        "missing_list": None
        if may_list
        else await _missing(ctx, READ_PRINCIPALS, Scope(ctx.scope.subscription)),
        "missing_write": await _missing(ctx, WRITE_ASSIGNMENTS, ctx.scope),
        "missing_delete": await _missing(ctx, DELETE_ASSIGNMENTS, ctx.scope),
        "text": text,
        "people": matching[:MOST_PEOPLE],
        "more_people": max(0, len(matching) - MOST_PEOPLE),
        "alone": len(directory) == 1,
        "custom": [role for role in offered if not role.builtin],
        "builtin": [role for role in offered if role.builtin],
        **await _suggestions(ctx, directory, offered),
        **await _explained(ctx),
    }
    return pages.page("access.html", **values)


async def _may(ctx: Context, action: str, scope: Scope) -> bool:
    return (await access.decide(ctx.services, ctx.caller, action, scope)).allowed


async def _missing(ctx: Context, action: str, scope: Scope) -> dict[str, Any] | None:
    """What the caller lacks for an action; None where it is nothing."""
    decision = await access.decide(ctx.services, ctx.caller, action, scope)
    return (
        None
        if decision.allowed
        else await access_views.missing(ctx.services, AccessDenied(ctx.caller, decision))
    )


async def _suggestions(ctx: Context, directory: list[dict[str, Any]], offered: Any) -> dict[str, Any]:
    """What the forms' fields offer, as far as the caller may see it."""
    found = [f"computes/{name}" for name in await computes_seen(ctx)]
    return {
        "names": [one["name"] for one in directory[:MOST_PEOPLE]] or [ctx.caller.name],
        "role_names": [role.name for role in offered],
        "scopes": ["workspace", "group", "subscription", *found],
        "actions": ACTIONS,
    }


def _by_scope(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["scope"], []).append(row)
    return list(found.items())


async def _explained(ctx: Context) -> dict[str, Any]:
    """The answer to `?action=&who=&scope=`, or what is wrong with the question."""
    query = ctx.request.query
    who, action, scope = (query.get(name, "").strip()[:500] for name in ("who", "action", "scope"))
    asked: dict[str, Any] = {"who": who or ctx.caller.name, "action": action, "scope": scope or "workspace"}
    found: dict[str, Any] = {"asked": asked, "explained": None, "problem": "", "denied": None}
    if not action:
        return found
    try:
        place = await access_views.place_named(ctx.services, ctx.scope, scope)
        found["explained"] = await access_views.explain(
            ctx.services,
            ctx.caller,
            who=who,
            action=access_views.full_action(action),
            scope=place.arm_id,
            data=bool(query.get("data")),
        )
    except AccessDenied as error:
        found["denied"] = await access_views.missing(ctx.services, error)
    except TidemillError as error:
        found["problem"] = error.message
    return found


# Giving a role.


async def ask_grant(ctx: Context) -> Response:
    """`?to=&role=&at=&why=`: what would be given, with a button; or the form again with what is wrong."""
    query, frame = ctx.request.query, await around(ctx, "access")
    given = {name: query.get(name, "").strip()[:500] for name in ("to", "role", "at", "why")}
    found, problem = None, ""
    try:
        place = await access_views.place_named(ctx.services, ctx.scope, given["at"])
        found = await access_views.grant_asked(ctx.services, ctx.caller, given["to"], given["role"], place)
    except AccessDenied:
        raise
    except TidemillError as error:
        problem = error.message
    directory: list[dict[str, Any]] = []
    if found is None and await _may(ctx, READ_PRINCIPALS, Scope(ctx.scope.subscription)):
        directory = await access_views.people(ctx.services)
    offered = await roles.definitions_at(ctx.services, ctx.scope.arm_id)
    return pages.page(
        "access_grant.html",
        400 if problem else 200,
        **frame,
        grant=found,
        problem=problem,
        given=given,
        action=_address(found.place, str(uuid.UUID(ctx.services.ids.uid()))) if found else "",
        **await _suggestions(ctx, directory, offered),
    )


async def grant(ctx: Context) -> Response:
    """The id in the address was made with the confirmation: sent twice, the role is given once."""
    form = await ctx.request.form()
    draft = AssignmentDraft(form.get("role", ""), form.get("to", ""), description=form.get("why", "")[:500])
    await roles.assign(ctx.services, ctx.caller, _place(ctx), ctx.params["id"], draft)
    return _back(form, "given")


# Taking it away.


async def ask_revoke(ctx: Context) -> Response:
    found = await access_views.assignment(ctx.services, Place(ctx.scope), ctx.params["id"])
    place = roles.parse_scope(found["scope"])
    return pages.page(
        "access_revoke.html",
        **await around(ctx, "access"),
        assignment=found,
        action=f"{_address(place, found['id'])}/delete" if place else "",
    )


async def revoke(ctx: Context) -> Response:
    form = await ctx.request.form()
    held = await roles.assignment(ctx.services, _place(ctx), ctx.params["id"])
    await principals.remove_assignment(ctx.services, held.id)
    return _back(form, "taken")


def _place(ctx: Context) -> Place:
    return Place(ctx.scope, resource_below(ctx.resource, ctx.params))


def _address(place: Place, id: str) -> str:
    below = "".join(f"/{quote(part, safe='')}" for part in place.below.split("/") if part)
    return f"{base_of(place.scope)}{below}/access/assignments/{id}"


def _back(form: dict[str, str], done: str) -> Response:
    after = session.local_page(form.get("next", ""))
    return pages.redirect(f"{after}?{urlencode({'done': done})}" if "?" not in after else after)
