"""`{workspace}/connections`: translation between ARM's shape and app.assets.connections."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.assets import connections
from tidemill.app.rows.codec import encode
from tidemill.domain.ids import PROVIDER
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.paging import next_link, read_page, split_page
from tidemill.wire.http import Context, Route, bytes_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/connections"
ACTION = f"{PROVIDER}/workspaces/connections"


def routes() -> list[Route]:
    one = BASE + "/{name}"
    return [
        Route("GET", BASE, f"{ACTION}/read", _list),
        Route("GET", one, f"{ACTION}/read", _get),
        Route("PUT", one, f"{ACTION}/write", _put),
        Route("PATCH", one, f"{ACTION}/write", _patch),
        Route("DELETE", one, f"{ACTION}/delete", _delete),
        Route("POST", one + "/listsecrets", f"{ACTION}/listsecrets/action", _list_secrets),
    ]


async def _list(ctx: Context) -> Response:
    page, query = read_page(ctx.request), ctx.request.query
    rows = await connections.list_of(
        ctx.services,
        ctx.scope,
        category=query.get("category", ""),
        target=query.get("target", ""),
        limit=page.limit + 1,
        after=page.after,
    )
    shown, after = split_page(rows, page)
    return bytes_response(render_list(map(render, shown), next_link(ctx, after)))


async def _get(ctx: Context) -> Response:
    return bytes_response(render(await connections.get(ctx.services, ctx.scope, ctx.params["name"])))


async def _put(ctx: Context) -> Response:
    body = await ctx.request.json()
    row, _ = await connections.put(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], body)
    return bytes_response(render(row))  # 200 always: the SDK takes a 201 for an error


async def _patch(ctx: Context) -> Response:
    body = await ctx.request.json()
    row = await connections.update(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], body)
    return bytes_response(render(row))


async def _delete(ctx: Context) -> Response:
    gone = await connections.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=200 if gone else 204)


async def _list_secrets(ctx: Context) -> Response:
    row, properties = await connections.secrets_of(ctx.services, ctx.scope, ctx.params["name"])
    return bytes_response(render(row, properties=encode(properties)), headers={"Cache-Control": "no-store"})
