"""`{workspace}/onlineEndpoints` and their deployments: translation between ARM's shape and app.endpoints,
app.online_deployments."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app import deployment_logs, endpoint_views, endpoints, online_deployments
from tidemill.app.codec import encode
from tidemill.app.endpoint_rows import (
    deployment_key,
    deployment_status,
    endpoint_key,
    endpoint_status,
)
from tidemill.domain.fields import choice, integer
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Key, Resource
from tidemill.domain.serving.model import MAX_INSTANCES
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import arm_type, render, render_list, to_object
from tidemill.wire.arm.etag import check_conditions, etag
from tidemill.wire.arm.paging import next_link, read_page, split_page
from tidemill.wire.http import Context, Route, bytes_response, json_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/onlineEndpoints"
ONE = BASE + "/{endpoint}"
DEPLOYMENTS = ONE + "/deployments"
DEPLOYMENT = DEPLOYMENTS + "/{name}"
ACTION = f"{PROVIDER}/workspaces/onlineEndpoints"


_CONTAINERS = {
    "inferenceserver": deployment_logs.SERVER,
    "storageinitializer": deployment_logs.INITIALIZER,
}


def routes() -> list[Route]:
    return [
        Route("GET", BASE, f"{ACTION}/read", _list, partial=True),
        Route("GET", ONE, f"{ACTION}/read", _get),
        Route("PUT", ONE, f"{ACTION}/write", _put),
        Route("PATCH", ONE, f"{ACTION}/write", _patch),
        Route("DELETE", ONE, f"{ACTION}/delete", _delete),
        Route("POST", ONE + "/listKeys", f"{ACTION}/listKeys/action", _list_keys),
        Route("POST", ONE + "/regenerateKeys", f"{ACTION}/regenerateKeys/action", _regenerate_keys),
        Route("POST", ONE + "/token", f"{ACTION}/token/action", _token),
        Route("GET", DEPLOYMENTS, f"{ACTION}/deployments/read", _list_deployments),
        Route("GET", DEPLOYMENT, f"{ACTION}/deployments/read", _get_deployment),
        Route("PUT", DEPLOYMENT, f"{ACTION}/deployments/write", _put_deployment),
        Route("PATCH", DEPLOYMENT, f"{ACTION}/deployments/write", _patch_deployment),
        Route("DELETE", DEPLOYMENT, f"{ACTION}/deployments/delete", _delete_deployment),
        Route("POST", DEPLOYMENT + "/getLogs", f"{ACTION}/deployments/getLogs/action", _get_logs, reads=True),
        Route("GET", DEPLOYMENT + "/skus", f"{ACTION}/deployments/skus/read", _list_skus),
    ]


def render_endpoint(row: Resource, scoring_uri: str | None) -> bytes:
    swagger = scoring_uri.removesuffix("score") + "swagger.json" if scoring_uri else None
    computed = {"provisioningState": row.state, "scoringUri": scoring_uri, "swaggerUri": swagger}
    extra = {"identity": endpoint_status(row).identity, "kind": "Managed", "etag": etag(row)}
    return render(row, extra_properties=encode(computed), extra=to_object(extra))


def render_deployment(row: Resource) -> bytes:
    computed = {"provisioningState": row.state}
    extra = {"sku": deployment_status(row).sku, "kind": "Managed", "etag": etag(row)}
    return render(row, extra_properties=encode(computed), extra=encode(extra))


async def _list(ctx: Context) -> Response:
    page = read_page(ctx.request)
    granted = ctx.part.granted if ctx.part is not None else None
    rows = await endpoints.list_of(
        ctx.services, ctx.scope, limit=page.limit + 1, after=page.after, granted=granted
    )
    shown, after = split_page(rows, page)
    return bytes_response(render_list((_shown(ctx, row) for row in shown), next_link(ctx, after)))


async def _get(ctx: Context) -> Response:
    row = await endpoints.get(ctx.services, ctx.scope, ctx.params["endpoint"])
    return bytes_response(_shown(ctx, row), headers={"ETag": etag(row)})


async def _put(ctx: Context) -> Response:
    name, body = ctx.params["endpoint"], await ctx.request.json()
    await _check_conditions(ctx, endpoint_key(ctx.scope, name))
    row, created = await endpoints.put(ctx.services, ctx.caller, ctx.scope, name, body)
    return bytes_response(_shown(ctx, row), 201 if created else 200, headers=_until_ready(ctx, row))


async def _patch(ctx: Context) -> Response:
    name, body = ctx.params["endpoint"], await ctx.request.json()
    row = await endpoints.patch(ctx.services, ctx.caller, ctx.scope, name, body)
    return bytes_response(_shown(ctx, row), headers=_until_ready(ctx, row))


async def _delete(ctx: Context) -> Response:
    row = await endpoints.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["endpoint"])
    return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))


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


async def _list_deployments(ctx: Context) -> Response:
    page = read_page(ctx.request)
    rows = await online_deployments.list_of(
        ctx.services, ctx.scope, ctx.params["endpoint"], limit=page.limit + 1, after=page.after
    )
    shown, after = split_page(rows, page)
    return bytes_response(render_list(map(render_deployment, shown), next_link(ctx, after)))


async def _get_deployment(ctx: Context) -> Response:
    row = await online_deployments.get(ctx.services, ctx.scope, *_names(ctx))
    return bytes_response(render_deployment(row), headers={"ETag": etag(row)})


async def _put_deployment(ctx: Context) -> Response:
    body = await ctx.request.json()
    await _check_conditions(ctx, deployment_key(ctx.scope, *_names(ctx)))
    row, created = await online_deployments.put(ctx.services, ctx.caller, ctx.scope, *_names(ctx), body)
    return bytes_response(render_deployment(row), 201 if created else 200, headers=_until_ready(ctx, row))


async def _patch_deployment(ctx: Context) -> Response:
    body = await ctx.request.json()
    row = await online_deployments.patch(ctx.services, ctx.caller, ctx.scope, *_names(ctx), body)
    return bytes_response(render_deployment(row), headers=_until_ready(ctx, row))


async def _delete_deployment(ctx: Context) -> Response:
    row = await online_deployments.delete(ctx.services, ctx.caller, ctx.scope, *_names(ctx))
    return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))


async def _get_logs(ctx: Context) -> Response:
    body = await ctx.request.json()
    tail = integer(body.get("tail"), deployment_logs.LINES, "tail", 1, deployment_logs.MOST_LINES)
    kind = choice(body.get("containerType"), _CONTAINERS, deployment_logs.SERVER, "containerType")
    text = await deployment_logs.read(ctx.services, ctx.scope, *_names(ctx), tail, kind)
    return json_response({"content": text})


async def _list_skus(ctx: Context) -> Response:
    row = await online_deployments.get(ctx.services, ctx.scope, *_names(ctx))
    capacity = {"minimum": 0, "maximum": MAX_INSTANCES, "default": 1, "scaleType": "Manual"}
    sku = {"name": online_deployments.DEFAULT_SKU, "tier": None}
    return json_response({"value": [{"resourceType": arm_type(row), "sku": sku, "capacity": capacity}]})


async def _check_conditions(ctx: Context, key: Key) -> None:
    if ctx.request.header("if-match") or ctx.request.header("if-none-match"):
        check_conditions(ctx.request, await ctx.services.store.read(lambda read: read.get(key)))


def _names(ctx: Context) -> tuple[str, str]:
    return ctx.params["endpoint"], ctx.params["name"]


def _shown(ctx: Context, row: Resource) -> bytes:
    return render_endpoint(row, endpoint_views.scoring_uri(ctx.services, row))


def _until_ready(ctx: Context, row: Resource) -> dict[str, str]:
    return operations.operation_headers(ctx, operations.ready(row), with_location=False)
