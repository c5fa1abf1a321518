"""`{workspace}/onlineEndpoints` and their deployments: translation between ARM's shape and app.serving."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.rows.codec import encode
from tidemill.app.rows.endpoint_rows import (
    deployment_key,
    deployment_status,
    endpoint_key,
    endpoint_status,
)
from tidemill.app.serving import endpoints, online_deployments
from tidemill.app.views import deployment_logs, endpoint_views
from tidemill.domain.fields import choice, integer
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource
from tidemill.domain.serving.model import MAX_INSTANCES
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import arm_type, render, to_object
from tidemill.wire.arm.etag import etag
from tidemill.wire.azure.resources import Resources
from tidemill.wire.http import Context, Route, json_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/onlineEndpoints"
ONE = BASE + "/{endpoint}"
DEPLOYMENT = ONE + "/deployments/{name}"
ACTION = f"{PROVIDER}/workspaces/onlineEndpoints"


_CONTAINERS = {
    "inferenceserver": deployment_logs.SERVER,
    "storageinitializer": deployment_logs.INITIALIZER,
}


def routes() -> list[Route]:
    return [
        *_ENDPOINTS.routes(),
        *_DEPLOYMENTS.routes(),
        Route("POST", ONE + "/listKeys", f"{ACTION}/listKeys/action", _list_keys),
        Route("POST", ONE + "/regenerateKeys", f"{ACTION}/regenerateKeys/action", _regenerate_keys),
        Route("POST", ONE + "/token", f"{ACTION}/token/action", _token),
        Route("POST", DEPLOYMENT + "/getLogs", f"{ACTION}/deployments/getLogs/action", _get_logs, reads=True),
        Route("GET", DEPLOYMENT + "/skus", f"{ACTION}/deployments/skus/read", _list_skus),
    ]


def render_endpoint(ctx: Context, row: Resource) -> bytes:
    scoring_uri = endpoint_views.scoring_uri(ctx.services, row)
    swagger = scoring_uri.removesuffix("score") + "swagger.json" if scoring_uri else None
    computed = {"provisioningState": row.state, "scoringUri": scoring_uri, "swaggerUri": swagger}
    extra = {"identity": endpoint_status(row).identity, "kind": "Managed", "etag": etag(row)}
    return render(row, extra_properties=encode(computed), extra=to_object(extra))


def render_deployment(_: Context, row: Resource) -> bytes:
    computed = {"provisioningState": row.state}
    extra = {"sku": deployment_status(row).sku, "kind": "Managed", "etag": etag(row)}
    return render(row, extra_properties=encode(computed), extra=encode(extra))


_ENDPOINTS = Resources(BASE, ACTION, ("endpoint",), endpoints, endpoint_key, render_endpoint, partial=True)
_DEPLOYMENTS = Resources(
    ONE + "/deployments",
    f"{ACTION}/deployments",
    ("endpoint", "name"),
    online_deployments,
    deployment_key,
    render_deployment,
)


async def _list_keys(ctx: Context) -> Response:
    keys = await endpoints.keys(ctx.services, ctx.scope, ctx.params["endpoint"])
    body = {"primaryKey": keys.primary, "secondaryKey": keys.secondary}
    return json_response(body, headers={"Cache-Control": "no-store"})


async def _regenerate_keys(ctx: Context) -> Response:
    body = await ctx.request.json()
    row = await endpoints.regenerate_key(ctx.services, ctx.caller, ctx.scope, ctx.params["endpoint"], body)
    return operations.accepted(ctx, operations.done(row))


async def _token(ctx: Context) -> Response:
    found = await endpoints.token(ctx.services, ctx.caller, ctx.scope, ctx.params["endpoint"])
    body = {
        "accessToken": found.token,
        "expiryTimeUtc": found.expires_at,
        "refreshAfterTimeUtc": found.refresh_at,
        "tokenType": "Bearer",
    }
    return json_response(body, headers={"Cache-Control": "no-store"})


async def _get_logs(ctx: Context) -> Response:
    body = await ctx.request.json()
    tail = integer(body.get("tail"), deployment_logs.LINES, "tail", 1, deployment_logs.MOST_LINES)
    kind = choice(body.get("containerType"), _CONTAINERS, deployment_logs.SERVER, "containerType")
    endpoint, name = _DEPLOYMENTS.named(ctx)
    text = await deployment_logs.read(ctx.services, ctx.scope, endpoint, name, tail, kind)
    return json_response({"content": text})


async def _list_skus(ctx: Context) -> Response:
    row = await online_deployments.get(ctx.services, ctx.scope, ctx.params["endpoint"], ctx.params["name"])
    capacity = {"minimum": 0, "maximum": MAX_INSTANCES, "default": 1, "scaleType": "Manual"}
    sku = {"name": online_deployments.DEFAULT_SKU, "tier": None}
    return json_response({"value": [{"resourceType": arm_type(row), "sku": sku, "capacity": capacity}]})
