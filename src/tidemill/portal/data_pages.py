"""The data assets of a workspace; one version with a look at what it holds."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.rows.asset_rows import DATA
from tidemill.app.views import asset_uses, asset_views, data_preview
from tidemill.domain.errors import Forbidden, NotFound, TidemillError
from tidemill.domain.plan import Place
from tidemill.portal import asset_pages, pages
from tidemill.portal.frame import W
from tidemill.wire.http import Context, Route

# A picture is shown by an address of its own: whatever its bytes are taken for, nothing in it runs.
_PICTURE = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def routes() -> list[Route]:
    one = f"{W}/data/{{name}}/{{version}}/picture"
    return [
        *asset_pages.routes(DATA, list_page, data_page),
        Route("GET", one, asset_pages.read_action(DATA), picture, resource="data/{name}"),
    ]


async def list_page(ctx: Context) -> Response:
    return await asset_pages.list_page(ctx, DATA, "data")


async def data_page(ctx: Context) -> Response:
    """`?path=a/b.csv`: what of the asset is looked at; `?after=`: further entries of a folder."""
    _, values = await asset_pages.one(ctx, DATA)
    s, scope, asset = ctx.services, ctx.scope, values["item"]
    problem = ""
    place: Place | None = None
    try:
        place = await data_preview.place_of(s, scope, DATA, asset["address"])
    except TidemillError as error:
        problem = error.message
    uses = await asset_pages.used(ctx, lambda read: asset_uses.of_data(read, scope, place))
    look = await _look(ctx, place, asset["type"], problem)
    return pages.page("data_version.html", **values, **uses, **look)


async def _look(ctx: Context, place: Place | None, kind: str, problem: str) -> dict[str, Any]:
    found: dict[str, Any] = {"may_read": True, "problem": problem, "seen": None}
    if not await data_preview.may_read(ctx.services, ctx.caller, ctx.scope):
        return {**found, "may_read": False}
    query = ctx.request.query
    if place is not None:
        try:
            found["seen"] = await data_preview.look(
                ctx.services, ctx.scope, place, query.get("path", ""), query.get("after", ""), kind
            )
        except TidemillError as error:
            found["problem"] = error.message
    return found


async def picture(ctx: Context) -> Response:
    s, name, version = ctx.services, ctx.params["name"], ctx.params["version"]
    if not await data_preview.may_read(s, ctx.caller, ctx.scope):
        raise Forbidden(f"You may not read the bytes of workspace {ctx.scope.workspace!r}.")
    _, asset = await asset_views.version(s, ctx.scope, DATA, name, version)
    place = await data_preview.place_of(s, ctx.scope, DATA, asset["address"])
    if place is None:
        raise NotFound(f"Data asset {name}:{version} is not in this workspace's storage.")
    content, kind = await data_preview.picture(s, place, ctx.request.query.get("path", ""))
    return Response(content, headers=_PICTURE, media_type=kind)
