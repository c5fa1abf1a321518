"""`Microsoft.Insights/autoscaleSettings`, as azure-mgmt-monitor speaks it."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.serving import autoscale_settings
from tidemill.domain.model import Resource
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.http import Context, Route, bytes_response

SUBSCRIPTION = "/subscriptions/{sub}/providers/Microsoft.Insights/autoscaleSettings"
GROUP = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Insights/autoscaleSettings"
ACTION = "Microsoft.Insights/autoscaleSettings"


def routes() -> list[Route]:
    one = GROUP + "/{name}"
    return [
        Route("GET", SUBSCRIPTION, f"{ACTION}/read", _list_all),
        Route("GET", GROUP, f"{ACTION}/read", _list),
        Route("GET", one, f"{ACTION}/read", _get),
        Route("PUT", one, f"{ACTION}/write", _put),
        Route("PATCH", one, f"{ACTION}/write", _patch),
        Route("DELETE", one, f"{ACTION}/delete", _delete),
    ]


async def _list_all(ctx: Context) -> Response:
    rows = await autoscale_settings.list_of(ctx.services, None)
    mine = [row for row in rows if row.key.scope.subscription == ctx.scope.subscription]
    return bytes_response(render_list(map(_render, mine)))


async def _list(ctx: Context) -> Response:
    return bytes_response(
        render_list(map(_render, await autoscale_settings.list_of(ctx.services, ctx.scope)))
    )


async def _get(ctx: Context) -> Response:
    return bytes_response(_render(await autoscale_settings.get(ctx.services, ctx.scope, ctx.params["name"])))


async def _put(ctx: Context) -> Response:
    body = await ctx.request.json()
    row, created = await autoscale_settings.put(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], body)
    return bytes_response(_render(row), 201 if created else 200)


async def _patch(ctx: Context) -> Response:
    body = await ctx.request.json()
    row = await autoscale_settings.patch(ctx.services, ctx.caller, ctx.scope, ctx.params["name"], body)
    return bytes_response(_render(row))


async def _delete(ctx: Context) -> Response:
    found = await autoscale_settings.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["name"])
    return Response(status_code=200 if found else 204)


def _render(row: Resource) -> bytes:
    spec = {"enabled": True, "notifications": [], "name": row.key.name, **decode_object(row.spec)}
    return render(row, properties=encode(spec))
