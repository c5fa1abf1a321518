"""Microsoft.Resources: subscriptions, resource groups, template deployments, and the companions of a
workspace (vault, insights, storage account) that share its life."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.times import iso
from tidemill.app.workspaces import deployments, groups, workspaces
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource, Scope
from tidemill.wire.arm import template
from tidemill.wire.arm.envelope import arm_id, render, render_list
from tidemill.wire.azure.workspaces import draft_of
from tidemill.wire.http import SIGNED_IN, Context, Route, bytes_response, json_response

_RESOURCES = "Microsoft.Resources"
_WORKSPACES = f"{PROVIDER}/workspaces".lower()
# Made and removed with the workspace that names them; they have no service of their own here.
COMPANIONS = (
    "Microsoft.Storage/storageAccounts",
    "Microsoft.KeyVault/vaults",
    "Microsoft.Insights/components",
    "Microsoft.OperationalInsights/workspaces",
)
_COMPANION_TYPES = tuple(name.lower() for name in COMPANIONS)


async def _put_deployment(ctx: Context) -> Response:
    body = await ctx.request.json()
    properties = object_at(body, "properties")
    if not isinstance(properties.get("template"), dict):
        raise InvalidRequest(
            "properties.template must hold the template itself; templateLink is not offered here.",
            "InvalidTemplate",
            "properties.template",
        )
    group = await groups.get(ctx.services, ctx.scope)
    scope = Scope(ctx.scope.subscription, group.key.name)
    wanted = template.resources_of(
        properties["template"],
        object_at(properties, "parameters", "properties.parameters"),
        scope,
        tenant=ctx.services.settings.tenant,
        location=group.location,
        whole=lambda kind: kind.lower() == _WORKSPACES,
    )
    for item in wanted:
        if item.type.lower() not in (_WORKSPACES, *_COMPANION_TYPES):
            raise NotOffered(
                f"The template asks for {item.type} '{item.name}', which is not offered.", item.type
            )
    started = ctx.services.clock.now()
    for item in wanted:
        if item.type.lower() == _WORKSPACES:
            await workspaces.create(ctx.services, ctx.caller, scope, draft_of(item.name, item.body))
    row, new = await deployments.record(
        ctx.services,
        ctx.caller,
        scope,
        ctx.params["name"],
        [(item.type, item.name, _id_of(scope, item.type, item.name)) for item in wanted],
        started,
    )
    return bytes_response(render(row), 201 if new else 200)


def _id_of(scope: Scope, kind: str, name: str) -> str:
    provider, *segments = kind.split("/")
    pairs = "/".join(f"{s}/{n}" for s, n in zip(segments, name.split("/"), strict=True))
    return f"{scope.arm_id}/providers/{provider}/{pairs}"


async def _get_deployment(ctx: Context) -> Response:
    return bytes_response(render(await deployments.get(ctx.services, ctx.scope, ctx.params["name"])))


async def _list_operations(ctx: Context) -> Response:
    row = await deployments.get(ctx.services, ctx.scope, ctx.params["name"])
    spec = msgspec.json.decode(row.spec)
    value = [
        {
            "id": f"{ctx.scope.arm_id}/providers/{_RESOURCES}/deployments/{row.key.name}/operations/{number}",
            "operationId": str(number),
            "properties": {
                "provisioningOperation": "Create",
                "provisioningState": "Succeeded",
                "timestamp": iso(row.modified_at),
                "duration": spec["duration"],
                "statusCode": "OK",
                "targetResource": target,
            },
        }
        for number, target in enumerate(spec["targets"], 1)
    ]
    return json_response({"value": value})


async def _get_group(ctx: Context) -> Response:
    return bytes_response(_group(await groups.get(ctx.services, ctx.scope)))


async def _head_group(ctx: Context) -> Response:
    await groups.get(ctx.services, ctx.scope)
    return Response(None, 204)


async def _put_group(ctx: Context) -> Response:
    body = await ctx.request.json()
    row, new = await groups.put(
        ctx.services, ctx.caller, ctx.scope, str(body.get("location") or ""), body.get("tags")
    )
    return bytes_response(_group(row), 201 if new else 200)


async def _list_groups(ctx: Context) -> Response:
    rows = await groups.list_of(ctx.services, ctx.scope.subscription)
    if ctx.part is not None:
        rows = [row for row in rows if ctx.part.shows(arm_id(row))]
    return bytes_response(render_list(map(_group, rows)))


def _group(row: Resource) -> bytes:
    return render(row, extra_properties=b'{"provisioningState":"Succeeded"}')


def _subscription(ctx: Context) -> dict[str, Any]:
    mine = ctx.services.settings.subscription
    return {
        "id": f"/subscriptions/{mine}",
        "subscriptionId": mine,
        "tenantId": ctx.services.settings.tenant,
        "displayName": "Tidemill",
        "state": "Enabled",
    }


async def _get_subscription(ctx: Context) -> Response:
    return json_response(_subscription(ctx))


async def _list_subscriptions(ctx: Context) -> Response:
    return json_response({"value": [_subscription(ctx)]})


async def _list_tenants(ctx: Context) -> Response:
    tenant = ctx.services.settings.tenant
    return json_response(
        {"value": [{"id": f"/tenants/{tenant}", "tenantId": tenant, "displayName": "Tidemill"}]}
    )


async def _get_provider(ctx: Context) -> Response:
    return json_response(
        {
            "id": f"/subscriptions/{ctx.services.settings.subscription}/providers/{PROVIDER}",
            "namespace": PROVIDER,
            "registrationState": "Registered",
            "resourceTypes": [{"resourceType": "workspaces", "locations": [ctx.services.settings.region]}],
        }
    )


async def _find_companion(ctx: Context) -> Resource:
    """The workspace that the companion belongs to. Raises NotFound."""
    wanted = ctx.request.path.rstrip("/").lower()
    for row in await workspaces.list_of(ctx.services, Scope(ctx.scope.subscription, ctx.scope.group)):
        spec = msgspec.json.decode(row.spec)
        named = (spec.get(name) for name in ("storageAccount", "keyVault", "applicationInsights"))
        if wanted in (str(item).lower() for item in named):
            return row
    raise NotFound(f"The resource '{ctx.request.path}' was not found.", target=ctx.params["name"])


async def _get_companion(ctx: Context) -> Response:
    row = await _find_companion(ctx)
    segments = ctx.request.path.strip("/").split("/")
    body = {
        "id": ctx.request.path,
        "name": segments[-1],
        "type": "/".join(segments[-3:-1]),
        "location": row.location,
        "tags": {},
        "properties": {"provisioningState": "Succeeded"},
    }
    return json_response(body)


async def _delete_companion(ctx: Context) -> Response:
    """Accepted and carried out with the workspace's own deletion, which is what the SDK sends next."""
    await _find_companion(ctx)
    return Response(None, 200)


def routes() -> list[Route]:
    """Subscription, group, deployment and companion routes."""
    sub = "/subscriptions/{sub}"
    rg = f"{sub}/resourceGroups/{{rg}}"
    deployment = f"{rg}/providers/{_RESOURCES}/deployments/{{name}}"
    groups_action = f"{_RESOURCES}/subscriptions/resourceGroups"
    found = [
        Route("GET", "/subscriptions", SIGNED_IN, _list_subscriptions),
        Route("GET", "/tenants", SIGNED_IN, _list_tenants),
        Route("GET", sub, f"{_RESOURCES}/subscriptions/read", _get_subscription),
        Route(
            "GET", f"{sub}/providers/{PROVIDER}", f"{_RESOURCES}/subscriptions/providers/read", _get_provider
        ),
        Route("GET", f"{sub}/resourceGroups", f"{groups_action}/read", _list_groups, partial=True),
        Route("GET", rg, f"{groups_action}/read", _get_group),
        Route("HEAD", rg, f"{groups_action}/read", _head_group),
        Route("PUT", rg, f"{groups_action}/write", _put_group),
        Route("PUT", deployment, f"{_RESOURCES}/deployments/write", _put_deployment),
        Route("GET", deployment, f"{_RESOURCES}/deployments/read", _get_deployment),
        Route(
            "GET", f"{deployment}/operations", f"{_RESOURCES}/deployments/operations/read", _list_operations
        ),
        Route(
            "GET",
            f"{rg}/deployments/{{name}}/operations",
            f"{_RESOURCES}/deployments/operations/read",
            _list_operations,
        ),
    ]
    for companion in COMPANIONS:
        path = f"{rg}/providers/{companion}/{{name}}"
        found.append(Route("GET", path, f"{companion}/read", _get_companion))
        found.append(Route("DELETE", path, f"{companion}/delete", _delete_companion))
    return found
