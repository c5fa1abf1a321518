"""`{workspace}/batchEndpoints`, their deployments, and the data plane that calls them and lists their jobs
(the same paths below `/mferp/managementfrontend`): translation between ARM's shape and app.batch_*."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.rows.batch_rows import deployment_key, endpoint_key
from tidemill.app.rows.codec import encode
from tidemill.app.serving import batch_calls, batch_deployments, batch_endpoints
from tidemill.app.views import batch_views
from tidemill.app.views.batch_views import ACTION
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource
from tidemill.wire.arm.envelope import render
from tidemill.wire.arm.etag import etag
from tidemill.wire.arm.paging import read_page
from tidemill.wire.azure.jobs import render_job
from tidemill.wire.azure.resources import Resources, listed
from tidemill.wire.http import Context, Route, bytes_response

BASE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/batchEndpoints"
ONE = BASE + "/{endpoint}"
DEPLOYMENT = ONE + "/deployments/{name}"
DEPLOYMENT_HEADER = "azureml-model-deployment"
REQUEST_ID = ("repeatability_request-id", "repeatability-request-id")  # as the SDK has it, and the standard


def routes() -> list[Route]:
    return [
        *_ENDPOINTS.routes(),
        *_DEPLOYMENTS.routes(),
        Route("POST", ONE + "/listKeys", f"{ACTION}/listKeys/action", _list_keys),
        Route("GET", ONE + "/jobs", f"{ACTION}/jobs/read", _list_jobs),
        Route("POST", ONE + "/jobs", f"{ACTION}/jobs/write", _invoke),
        Route("GET", DEPLOYMENT + "/jobs", f"{ACTION}/deployments/jobs/read", _list_jobs),
    ]


def render_endpoint(ctx: Context, row: Resource) -> bytes:
    uri = batch_views.scoring_uri(ctx.services, row)
    computed = {"provisioningState": row.state, "scoringUri": uri, "swaggerUri": None}
    return render(row, extra_properties=encode(computed), extra=encode({"etag": etag(row)}))


def render_deployment(_: Context, row: Resource) -> bytes:
    computed = encode({"provisioningState": row.state})
    return render(row, extra_properties=computed, extra=encode({"etag": etag(row)}))


_ENDPOINTS = Resources(
    BASE, ACTION, ("endpoint",), batch_endpoints, endpoint_key, render_endpoint, partial=True
)
_DEPLOYMENTS = Resources(
    ONE + "/deployments",
    f"{ACTION}/deployments",
    ("endpoint", "name"),
    batch_deployments,
    deployment_key,
    render_deployment,
)


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
    return listed(ctx, rows, lambda _, row: render_job(ctx.services, row))
