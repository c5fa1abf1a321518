"""What the pages of models, data, environments and components have in common: the list of names, and who used
a version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from tidemill.app.people import access
from tidemill.app.rows.asset_rows import AssetKind
from tidemill.app.views import asset_uses, asset_views
from tidemill.domain.ids import PROVIDER
from tidemill.portal.asset_links import page
from tidemill.portal.frame import W, around, live
from tidemill.store.api import Read
from tidemill.wire.http import Context, Handler, Route

ACTION = f"{PROVIDER}/workspaces"


def read_action(kind: AssetKind) -> str:
    return f"{ACTION}/{kind.type}/versions/read"


def routes(kind: AssetKind, list_page: Handler, one_page: Handler) -> list[Route]:
    """A list, the newest version of a name, and one version."""
    above, resource = f"{W}/{kind.type}", f"{kind.type}/{{name}}"
    return [
        Route("GET", above, f"{ACTION}/{kind.type}/read", list_page),
        Route("GET", f"{above}/{{name}}", read_action(kind), one_page, resource=resource),
        Route("GET", f"{above}/{{name}}/{{version}}", read_action(kind), one_page, resource=resource),
    ]


async def list_page(ctx: Context, kind: AssetKind, template: str, **more: Any) -> Response:
    """`?archived=1` shows those too, `?after=UID` the next page. `template`: of NAME.html and _NAME.html."""
    query = ctx.request.query
    archived, after = query.get("archived") == "1", query.get("after", "")
    frame = await around(ctx, kind.type)
    found = await asset_views.names(ctx.services, ctx.scope, kind, archived=archived, after=after)
    plain = f"{frame['base']}/{kind.type}"

    def address(hidden: bool, following: str = "") -> str:
        parts = {"archived": "1" if hidden else "", "after": following}
        given = urlencode({key: value for key, value in parts.items() if value})
        return f"{plain}?{given}" if given else plain

    values = {
        **frame,
        "items": found.items,
        "archived": archived,
        "first": not after,
        "newest": address(archived),
        "older": address(archived, found.following) if found.following else "",
        "other": address(not archived),
        **more,
    }
    return live(ctx, address(archived, after), template, values)


async def one(ctx: Context, kind: AssetKind) -> tuple[Any, dict[str, Any]]:
    """-> (the row of the version that the address names, what its page shows)."""
    version = ctx.params.get("version", "")
    row, found = await asset_views.version(ctx.services, ctx.scope, kind, ctx.params["name"], version)
    return row, await shown(ctx, kind, found)


async def shown(ctx: Context, kind: AssetKind, found: dict[str, Any]) -> dict[str, Any]:
    """The frame, the asset, and addresses of its versions. Archived ones are shown on demand, and where the
    page is about one."""
    frame = await around(ctx, kind.type)
    if found.get("job") and not await may(ctx, f"{ACTION}/jobs/read"):
        found = {**found, "job": ""}
    archived = ctx.request.query.get("archived") == "1"
    versions = [
        {**each, "page": f"{frame['base']}/{page(kind.type, found['name'], each['version'])}"}
        for each in found["versions"]
        if archived or not each["archived"] or each["version"] == found["version"]
    ]
    return {
        **frame,
        "item": found,
        "here": f"{frame['base']}/{page(kind.type, found['name'], found['version'])}",
        "versions": versions,
        "hidden": len(found["versions"]) - len(versions),
        "shows_archived": archived,
    }


async def used(ctx: Context, find: Callable[[Read], asset_uses.Uses]) -> dict[str, Any]:
    """Who had it, as far as the caller may see jobs and endpoints: a role may be on the asset alone."""
    found = await ctx.services.store.read(find)
    jobs = await may(ctx, f"{ACTION}/jobs/read")
    kinds = {
        kind: await may(ctx, f"{ACTION}/{kind}Endpoints/read")
        for kind in {one["kind"] for one in found.deployments}
    }
    shown = replace(
        found,
        jobs=found.jobs if jobs else (),
        further=found.further if jobs else 0,
        deployments=tuple(one for one in found.deployments if kinds[one["kind"]]),
    )
    return {"uses": shown, "searched": asset_uses.SEARCHED, "may_see_jobs": jobs}


async def may(ctx: Context, action: str) -> bool:
    """At the whole workspace."""
    return (await access.decide(ctx.services, ctx.caller, action, ctx.scope)).allowed
