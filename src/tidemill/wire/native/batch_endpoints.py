"""Batch endpoints in the native API (docs/architecture.md)."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.views import batch_views
from tidemill.app.views.batch_views import ACTION
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W

ONE = W + "/batchEndpoints/{endpoint}"
RESOURCE = "batchEndpoints/{endpoint}"  # where roles are given


def routes() -> list[Route]:
    read, deployment = f"{ACTION}/read", ONE + "/deployments/{name}"
    return [
        Route("GET", W + "/batchEndpoints", read, _list, partial=True),
        Route("GET", ONE, read, _get, resource=RESOURCE),
        Route("GET", deployment, f"{ACTION}/deployments/read", _get_deployment, resource=RESOURCE),
    ]


async def _list(ctx: Context) -> Response:
    return json_response({"value": await batch_views.summaries(ctx.services, ctx.scope, ctx.part)})


async def _get(ctx: Context) -> Response:
    found = await batch_views.detail(ctx.services, ctx.caller, ctx.scope, ctx.params["endpoint"])
    return json_response(found)


async def _get_deployment(ctx: Context) -> Response:
    endpoint, name = ctx.params["endpoint"], ctx.params["name"]
    return json_response(await batch_views.deployment(ctx.services, ctx.caller, ctx.scope, endpoint, name))
