"""Online endpoints in the native API: what serves, what it costs, what is wrong (docs/architecture.md)."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.views import endpoint_views, endpoint_why
from tidemill.wire.azure.online_endpoints import ACTION
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W

ONE = W + "/endpoints/{endpoint}"
RESOURCE = "onlineEndpoints/{endpoint}"  # where roles are given


def routes() -> list[Route]:
    read, deployment = f"{ACTION}/read", ONE + "/deployments/{name}"
    return [
        Route("GET", W + "/endpoints", read, _list, partial=True),
        Route("GET", ONE, read, _get, resource=RESOURCE),
        Route("GET", ONE + "/why", read, _why, resource=RESOURCE),
        Route("GET", deployment, f"{ACTION}/deployments/read", _get_deployment, resource=RESOURCE),
    ]


async def _list(ctx: Context) -> Response:
    return json_response({"value": await endpoint_views.summaries(ctx.services, ctx.scope, ctx.part)})


async def _get(ctx: Context) -> Response:
    return json_response(await endpoint_views.detail(ctx.services, ctx.scope, ctx.params["endpoint"]))


async def _why(ctx: Context) -> Response:
    deployment = ctx.request.query.get("deployment", "")
    found = await endpoint_why.why(ctx.services, ctx.scope, ctx.params["endpoint"], deployment)
    return json_response(found)


async def _get_deployment(ctx: Context) -> Response:
    endpoint, name = ctx.params["endpoint"], ctx.params["name"]
    return json_response(await endpoint_views.deployment(ctx.services, ctx.scope, endpoint, name))
