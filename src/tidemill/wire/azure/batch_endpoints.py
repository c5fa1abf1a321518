"""`{workspace}/batchEndpoints`, their deployments, and the data plane that calls them and lists their jobs
(the same paths below `/mferp/managementfrontend`): translation between ARM's shape and app.batch_*."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app import batch_calls, batch_deployments, batch_endpoints, batch_views
from tidemill.app.batch_rows import deployment_key, endpoint_key
from tidemill.app.codec import encode
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Key, Resource
from tidemill.wire.arm import operations
from tidemill.wire.arm.envelope import render, render_list
from tidemill.wire.arm.etag import check_conditions, etag
from tidemill.wire.arm.paging import next_link, read_page, split_page
from tidemill.wire.azure.jobs import render_job
from tidemill.wire.http import Context, Route, bytes_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/batchEndpoints"
ONE = BASE + "/{endpoint}"
DEPLOYMENTS = ONE + "/deployments"
DEPLOYMENT = DEPLOYMENTS + "/{name}"
ACTION = f"{PROVIDER}/workspaces/batchEndpoints"
DEPLOYMENT_HEADER = "azureml-model-deployment"
REQUEST_ID = (
    "repeatability_request-id",
    "repeatability-request-id",
)  # the SDK's spelling, and the standard's


def routes() -> list[Route]:
    return [
        Route("GET", BASE, f"{ACTION}/read", _list, partial=True),
        Route("GET", ONE, f"{ACTION}/read", _get),
        Route("PUT", ONE, f"{ACTION}/write", _put),
        Route("PATCH", ONE, f"{ACTION}/write", _patch),
        Route("DELETE", ONE, f"{ACTION}/delete", _delete),
        Route("POST", ONE + "/listKeys", f"{ACTION}/listKeys/action", _list_keys),
        Route("GET", ONE + "/jobs", f"{ACTION}/jobs/read", _list_jobs),
        Route("POST", ONE + "/jobs", f"{ACTION}/jobs/write", _invoke),
        Route("GET", DEPLOYMENTS, f"{ACTION}/deployments/read", _list_deployments),
        Route("GET", DEPLOYMENT, f"{ACTION}/deployments/read", _get_deployment),
        Route("PUT", DEPLOYMENT, f"{ACTION}/deployments/write", _put_deployment),
        Route("PATCH", DEPLOYMENT, f"{ACTION}/deployments/write", _patch_deployment),
        Route("DELETE", DEPLOYMENT, f"{ACTION}/deployments/delete", _delete_deployment),
        Route("GET", DEPLOYMENT + "/jobs", f"{ACTION}/deployments/jobs/read", _list_jobs),
    ]


def render_endpoint(ctx: Context, row: Resource) -> bytes:
    uri = batch_views.scoring_uri(ctx.services, row)
    computed = {"provisioningState": row.state, "scoringUri": uri, "swaggerUri": None}
    return render(row, extra_properties=encode(computed), extra=encode({"etag": etag(row)}))


def render_deployment(row: Resource) -> bytes:
    computed = encode({"provisioningState": row.state})
    return render(row, extra_properties=computed, extra=encode({"etag": etag(row)}))


async def _list(ctx: Context) -> Response:
    page = read_page(ctx.request)
    granted = ctx.part.granted if ctx.part is not None else None
    rows = await batch_endpoints.list_of(
        ctx.services, ctx.scope, limit=page.limit + 1, after=page.after, granted=granted
    )
    shown, after = split_page(rows, page)
    return bytes_response(render_list([render_endpoint(ctx, row) for row in shown], next_link(ctx, after)))


async def _get(ctx: Context) -> Response:
    row = await batch_endpoints.get(ctx.services, ctx.scope, ctx.params["endpoint"])
    return bytes_response(render_endpoint(ctx, row), headers={"ETag": etag(row)})


async def _put(ctx: Context) -> Response:
    name, body = ctx.params["endpoint"], await ctx.request.json()
    await _check_conditions(ctx, endpoint_key(ctx.scope, name))
    row, created = await batch_endpoints.put(ctx.services, ctx.caller, ctx.scope, name, body)
    return bytes_response(render_endpoint(ctx, row), 201 if created else 200, headers=_ready(ctx, row))


async def _patch(ctx: Context) -> Response:
    name, body = ctx.params["endpoint"], await ctx.request.json()
    row = await batch_endpoints.patch(ctx.services, ctx.caller, ctx.scope, name, body)
    return bytes_response(render_endpoint(ctx, row), headers=_ready(ctx, row))


async def _delete(ctx: Context) -> Response:
    row = await batch_endpoints.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["endpoint"])
    return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))


async def _list_keys(ctx: Context) -> Response:
    await batch_endpoints.refuse_keys(ctx.services, ctx.scope, ctx.params["endpoint"])
    return Response(status_code=204)


async def _invoke(ctx: Context) -> Response:
    """The header names the deployment, as for online endpoints."""
    asked = ctx.request
    row, created = await batch_calls.invoke(
        ctx.services,
        ctx.caller,
        ctx.scope,
        ctx.params["endpoint"],
        await asked.json(),
        asked.header(DEPLOYMENT_HEADER) or "",
        next((found for name in REQUEST_ID if (found := asked.header(name))), ""),
    )
    return bytes_response(render_job(ctx.services, row), 201 if created else 200)


async def _list_jobs(ctx: Context) -> Response:
    page = read_page(ctx.request)
    rows = await batch_calls.jobs_of(
        ctx.services,
        ctx.scope,
        ctx.params["endpoint"],
        ctx.params.get("name", ""),
        limit=page.limit + 1,
        after=page.after,
    )
    shown, after = split_page(rows, page)
    return bytes_response(
        render_list([render_job(ctx.services, row) for row in shown], next_link(ctx, after))
    )


async def _list_deployments(ctx: Context) -> Response:
    page = read_page(ctx.request)
    rows = await batch_deployments.list_of(
        ctx.services, ctx.scope, ctx.params["endpoint"], limit=page.limit + 1, after=page.after
    )
    shown, after = split_page(rows, page)
    return bytes_response(render_list(map(render_deployment, shown), next_link(ctx, after)))


async def _get_deployment(ctx: Context) -> Response:
    row = await batch_deployments.get(ctx.services, ctx.scope, *_names(ctx))
    return bytes_response(render_deployment(row), headers={"ETag": etag(row)})


async def _put_deployment(ctx: Context) -> Response:
    body = await ctx.request.json()
    await _check_conditions(ctx, deployment_key(ctx.scope, *_names(ctx)))
    row, created = await batch_deployments.put(ctx.services, ctx.caller, ctx.scope, *_names(ctx), body)
    return bytes_response(render_deployment(row), 201 if created else 200, headers=_ready(ctx, row))


async def _patch_deployment(ctx: Context) -> Response:
    body = await ctx.request.json()
    row = await batch_deployments.patch(ctx.services, ctx.caller, ctx.scope, *_names(ctx), body)
    return bytes_response(render_deployment(row), headers=_ready(ctx, row))


async def _delete_deployment(ctx: Context) -> Response:
    row = await batch_deployments.delete(ctx.services, ctx.caller, ctx.scope, *_names(ctx))
    return Response(status_code=204) if row is None else operations.accepted(ctx, operations.gone(row))


async def _check_conditions(ctx: Context, key: Key) -> None:
    if ctx.request.header("if-match") or ctx.request.header("if-none-match"):
        check_conditions(ctx.request, await ctx.services.store.read(lambda read: read.get(key)))


def _names(ctx: Context) -> tuple[str, str]:
    return ctx.params["endpoint"], ctx.params["name"]


def _ready(ctx: Context, row: Resource) -> dict[str, str]:
    return operations.operation_headers(ctx, operations.ready(row), with_location=False)
