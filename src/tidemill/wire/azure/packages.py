"""`models/{name}/versions/{version}/package`: the SDK's `ml.models.package`, as a long-running operation."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.rows.package_rows import package_status
from tidemill.app.serving import packages
from tidemill.app.workspaces.workspaces import require_workspace, status_of
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource
from tidemill.domain.serving.packaging import CREATING
from tidemill.wire.arm import operations
from tidemill.wire.arm.paging import base_url
from tidemill.wire.azure.assets import WORKSPACE
from tidemill.wire.http import Context, Route, json_response

MODEL = WORKSPACE + "/models/{name}/versions/{version}"
ACTION = f"{PROVIDER}/workspaces/models/versions"


def routes() -> list[Route]:
    return [
        Route("POST", MODEL + "/package", f"{ACTION}/package/action", _package),
        Route("GET", MODEL + "/packageResults/{id}", f"{ACTION}/read", _result),
    ]


async def _package(ctx: Context) -> Response:
    name, version = ctx.params["name"], ctx.params["version"]
    row = await packages.begin(ctx.services, ctx.caller, ctx.scope, name, version, await ctx.request.json())
    named = {
        "name": row.key.parent,
        "version": row.key.name,
    }  # the command line's; the SDK reads it at the end
    return json_response(named, 202, headers=_headers(ctx, row))


async def _result(ctx: Context) -> Response:
    """The SDK looks here once the operation has ended: PackageResponse."""
    row = await ctx.services.store.read(lambda read: read.by_uid(ctx.params["id"]))
    if row is None or row.key.scope != ctx.scope:
        raise NotFound("There is no such package of this model.", "PackageNotFound")
    if row.state == CREATING:
        return Response(None, 202, _headers(ctx, row))
    workspace = await ctx.services.store.read(lambda read: require_workspace(read, ctx.scope))
    return json_response(_response(ctx, row, str(status_of(workspace).get("workspaceId"))))


def _headers(ctx: Context, row: Resource) -> dict[str, str]:
    path = ctx.request.path.rsplit("/package", 1)[0]
    version = f"?api-version={ctx.request.api_version or '2023-08-01-preview'}"
    headers = operations.operation_headers(ctx, operations.ready(row), with_location=False)
    return {**headers, "Location": f"{base_url(ctx)}{path}/packageResults/{row.uid}{version}"}


def _response(ctx: Context, row: Resource, workspace: str) -> dict[str, Any]:
    plan = package_status(row).plan
    code = {"codeId": plan.spec.code_id, "scoringScript": plan.spec.script} if plan.spec.script else None
    where = f"azureml://locations/{ctx.services.settings.region}/workspaces/{workspace}"
    return {
        "buildId": row.uid,
        "buildState": row.state,
        "baseEnvironmentSource": {
            "baseEnvironmentSourceType": "EnvironmentAsset",
            "resourceId": plan.spec.environment_id,
        },
        "inferencingServer": {"serverType": "AzureMLOnline", "codeConfiguration": code},
        "environmentVariables": dict(plan.spec.variables),
        "inputs": [],
        "properties": {},
        "tags": dict(plan.spec.tags),
        "targetEnvironmentId": f"{where}/environments/{row.key.parent}/versions/{row.key.name}",
    }
