"""Workspaces on the wire: Microsoft.MachineLearningServices/workspaces, and the discovery that follows."""

from __future__ import annotations

from typing import Any, cast

from starlette.responses import Response

from tidemill.app.assets.storage_access import account_holder
from tidemill.app.services import Addresses, Services
from tidemill.app.upkeep import workspace_deletion
from tidemill.app.views import diagnosis
from tidemill.app.workspaces import workspaces
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Resource, Scope
from tidemill.wire.arm import operations, paging
from tidemill.wire.arm.envelope import arm_id, render, render_list, to_object
from tidemill.wire.arm.etag import check_conditions, etag
from tidemill.wire.http import PUBLIC, Context, Route, bytes_response, json_response

_GROUP = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces"
_W = f"{_GROUP}/{{ws}}"
_ACTION = f"{PROVIDER}/workspaces"
_FLAGS = (
    "hbiWorkspace",
    "softDeleteEnabled",
    "allowRecoverSoftDeletedWorkspace",
    "allowRoleAssignmentOnRG",
    "provisionNetworkNow",
    "enableDataIsolation",
    "v1LegacyMode",
)


def render_workspace(services: Services, row: Resource) -> bytes:
    """The row in ARM's shape, with the addresses under which this server is reached now."""
    status = workspaces.status_of(row)
    https = services.addresses.https
    derived = {
        "provisioningState": row.state,
        "workspaceId": status["workspaceId"],
        "discoveryUrl": f"{https}/discovery",
        "mlFlowTrackingUri": f"azureml://{https.split('://', 1)[1]}/mlflow/v1.0{arm_id(row)}",
        "tenantId": services.settings.tenant,
        "storageHnsEnabled": False,
    }
    identity = dict(cast(dict[str, Any], status["identity"]))
    if "systemassigned" in str(identity.get("type", "")).lower():
        identity |= {"principalId": status["workspaceId"], "tenantId": services.settings.tenant}
    sku = {"name": status["sku"], "tier": status["sku"]}
    extra = {"kind": status["kind"], "sku": sku, "identity": identity, "etag": etag(row)}
    return render(row, extra_properties=to_object(derived), extra=to_object(extra))


def draft_of(name: str, body: dict[str, Any]) -> workspaces.WorkspaceDraft:
    """A PUT's body or a template's resource. Raises InvalidRequest naming the member of the wrong type."""
    kind = str(body.get("kind") or "Default")
    sku = body.get("sku")
    return workspaces.WorkspaceDraft(
        name=name,
        location=str(body.get("location") or ""),
        tags=_object(body, "tags"),
        kind="Default" if kind.lower() == "default" else kind,
        sku=str(cast(dict[str, Any], sku).get("name") or "Basic") if isinstance(sku, dict) else "Basic",
        identity=_object(body, "identity") or {"type": "SystemAssigned"},
        properties=_tidy(_object(body, "properties")),
    )


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"{name!r} must be a JSON object, not {value!r}.", "InvalidRequestContent", name)
    return cast(dict[str, Any], value or {})


def _tidy(properties: dict[str, Any]) -> dict[str, Any]:
    """Templates carry every parameter: empty values say nothing, and flags come as the strings "true"."""
    kept = {name: value for name, value in properties.items() if not _says_nothing(value)}
    for name in _FLAGS:
        if isinstance(kept.get(name), str):
            kept[name] = kept[name].lower() == "true"
    if _object(kept, "encryption").get("status") == "Disabled":
        del kept["encryption"]
    return kept


def _says_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_says_nothing(item) for item in cast(dict[str, Any], value).values())
    return value is None or value in ("", [])


async def _get(ctx: Context) -> Response:
    row = await workspaces.get(ctx.services, ctx.scope)
    return _one(ctx, row)


def _one(ctx: Context, row: Resource, status: int = 200) -> Response:
    return bytes_response(render_workspace(ctx.services, row), status, {"ETag": etag(row)})


async def _list(ctx: Context) -> Response:
    page = paging.read_page(ctx.request)
    scope = Scope(ctx.scope.subscription, ctx.scope.group)
    shows = ctx.part.shows if ctx.part is not None else None
    rows = await workspaces.list_of(ctx.services, scope, limit=page.limit + 1, after=page.after, shows=shows)
    shown, after = paging.split_page(rows, page)
    items = (render_workspace(ctx.services, row) for row in shown)
    return bytes_response(render_list(items, paging.next_link(ctx, after)))


async def _put(ctx: Context) -> Response:
    body = await ctx.request.json()
    existing = await ctx.services.store.read(lambda read: read.get(workspaces.workspace_key(ctx.scope)))
    check_conditions(ctx.request, existing)
    group = Scope(ctx.scope.subscription, ctx.scope.group)
    row, new = await workspaces.create(ctx.services, ctx.caller, group, draft_of(ctx.scope.workspace, body))
    return _one(ctx, row, 201 if new else 200)


async def _patch(ctx: Context) -> Response:
    body = await ctx.request.json()
    check_conditions(ctx.request, await workspaces.get(ctx.services, ctx.scope))
    patch: dict[str, Any] = {
        name: _object(body, name) for name in ("tags", "identity", "properties") if body.get(name) is not None
    }
    row = await workspaces.update(ctx.services, ctx.caller, ctx.scope, patch)
    return _one(ctx, row)


async def _delete(ctx: Context) -> Response:
    row = await workspace_deletion.delete(ctx.services, ctx.caller, ctx.scope)
    if row is None:
        return Response(None, 204)
    return operations.accepted(ctx, operations.gone(row))


async def _list_keys(ctx: Context) -> Response:
    return json_response(await _keys(ctx))


async def _list_storage_keys(ctx: Context) -> Response:
    return json_response({"userStorageKey": (await _keys(ctx))["userStorageKey"]})


async def _keys(ctx: Context) -> dict[str, Any]:
    row = await workspaces.get(ctx.services, ctx.scope)
    holder = account_holder(ctx.caller, ctx.decision, ctx.scope.arm_id)
    return workspaces.keys_of(ctx.services, row, holder)


async def _resync_keys(ctx: Context) -> Response:
    """Keys are derived from the account's name when they are asked for: they are in step already."""
    row = await workspaces.get(ctx.services, ctx.scope)
    return operations.accepted(ctx, operations.done(row))


_PARTS = {
    "storage": "storageAccountResults",
    "secrets": "keyVaultResults",
    "images": "containerRegistryResults",
    "other": "otherResults",
}
_DIAGNOSED = (
    *_PARTS.values(),
    "userDefinedRouteResults",
    "networkSecurityRuleResults",
    "resourceLockResults",
    "dnsResolutionResults",
    "applicationInsightsResults",
)


async def _diagnose(ctx: Context) -> Response:
    """Problems under ARM's names of the parts; what was tried and is well with the others."""
    found = await diagnosis.diagnose(ctx.services, ctx.scope)
    results: dict[str, list[dict[str, str]]] = {name: [] for name in _DIAGNOSED}
    for part, findings in found.items():
        for one in findings:
            name = "otherResults" if one.level == "Information" else _PARTS[part]
            results[name].append({"code": one.code, "level": one.level, "message": one.message})
    return json_response({"value": results})


def _discovery_of(addresses: Addresses) -> dict[str, str]:
    https = addresses.https
    services = ("history", "experimentation", "hyperdrive", "labeling", "modelmanagement", "pipelines")
    return {"api": https, "studio": https, **dict.fromkeys(services, https)}


async def _discovery(ctx: Context) -> Response:
    return json_response(_discovery_of(ctx.services.addresses))


def routes() -> list[Route]:
    """Every workspace route; {ws} of these need not exist, handlers say so themselves."""
    subscription = f"/subscriptions/{{sub}}/providers/{PROVIDER}/workspaces"
    return [
        Route("GET", _W, f"{_ACTION}/read", _get, "workspace"),
        Route("PUT", _W, f"{_ACTION}/write", _put, "workspace"),
        Route("PATCH", _W, f"{_ACTION}/write", _patch, "workspace"),
        Route("DELETE", _W, f"{_ACTION}/delete", _delete, "workspace"),
        Route("GET", _GROUP, f"{_ACTION}/read", _list, "workspaces of a group", partial=True),
        Route("GET", subscription, f"{_ACTION}/read", _list, "workspaces of the subscription", partial=True),
        Route("POST", f"{_W}/listKeys", f"{_ACTION}/listKeys/action", _list_keys),
        Route("POST", f"{_W}/listStorageAccountKeys", f"{_ACTION}/listKeys/action", _list_storage_keys),
        Route("POST", f"{_W}/resyncKeys", f"{_ACTION}/resyncKeys/action", _resync_keys),
        Route("POST", f"{_W}/diagnose", f"{_ACTION}/diagnose/action", _diagnose),
        Route("GET", "/discovery", PUBLIC, _discovery, "discovery"),
    ]
