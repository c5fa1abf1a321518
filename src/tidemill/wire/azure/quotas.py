"""`locations/{loc}/usages`, `quotas`, `updateQuotas` and a workspace's `usages`, in ARM's shape.

Azure gives quotas by VM family (in vCPU); the measures that it has no word for (cores, gpus, nodes, jobs) are
listed under their own names and set in the same way.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.computes import computes, quotas
from tidemill.app.views import fairness
from tidemill.app.views.fairness import READ_QUOTAS, WRITE_QUOTAS, WorkspaceLine
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER, parse_workspace_id
from tidemill.domain.quota import WORKSPACE
from tidemill.wire.http import Context, Route, json_response

LOCATION = f"/subscriptions/{{sub}}/providers/{PROVIDER}/locations/{{loc}}"
USAGES = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}/usages"
READ_USAGES = f"{PROVIDER}/locations/usages/read"
HOST_NAMES = {
    "Cores": ("Total Dedicated vCPUs", "vCPUs of this host"),
    "Gpus": ("Total GPUs", "GPUs of this host"),
    "Clusters": ("Clusters", "Compute clusters"),
}
MOST = 1000  # quotas in one updateQuotas


def routes() -> list[Route]:
    return [
        Route("GET", LOCATION + "/usages", READ_USAGES, list_usages),
        Route("GET", LOCATION + "/quotas", READ_QUOTAS, list_quotas),
        Route("POST", LOCATION + "/updateQuotas", WRITE_QUOTAS, update_quotas),
        Route("GET", USAGES, f"{PROVIDER}/workspaces/usages/read", list_workspace_usages),
    ]


async def list_usages(ctx: Context) -> Response:
    """The host's, then those of workspaces that have a quota."""
    base = f"{ctx.scope.arm_id}/providers/{PROVIDER}/locations/{ctx.params['loc']}/usages"
    value: list[dict[str, Any]] = []
    for usage in await computes.usages(ctx.services):
        name, words = HOST_NAMES[usage.unit]
        value.append(
            _usage(ctx, f"{base}/{usage.unit.lower()}", "usages", name, words, usage.current, usage.limit)
        )
    value += [_line_usage(ctx, line) for line in await fairness.workspace_lines(ctx.services, ctx.caller)]
    return json_response({"value": value})


async def list_workspace_usages(ctx: Context) -> Response:
    lines = await fairness.workspace_lines(ctx.services, ctx.caller, ctx.scope)
    return json_response({"value": [_line_usage(ctx, line) for line in lines]})


def _line_usage(ctx: Context, line: WorkspaceLine) -> dict[str, Any]:
    id = f"{line.workspace.arm_id}/usages/{line.measure}"
    return _usage(ctx, id, "workspaces/usages", line.measure, line.measure, line.used, line.limit)


def _usage(
    ctx: Context, id: str, type: str, name: str, words: str, current: int, limit: int
) -> dict[str, Any]:
    return {
        "id": id,
        "amlWorkspaceLocation": ctx.params.get("loc") or ctx.services.settings.region,
        "type": f"{PROVIDER}/{type}",
        "unit": "Count",
        "currentValue": current,
        "limit": limit,
        "name": {"value": name, "localizedValue": words},
    }


async def list_quotas(ctx: Context) -> Response:
    """ResourceQuota: what `updateQuotas` has set."""
    lines = await fairness.workspace_lines(ctx.services, ctx.caller)
    value = [_quota(line.workspace.arm_id, line.measure, line.limit) for line in lines]
    for item in value:
        item["amlWorkspaceLocation"] = ctx.params["loc"]
    return json_response({"value": value})


def _quota(workspace: str, measure: str, limit: int) -> dict[str, Any]:
    return {
        "id": f"{workspace}/quotas/{measure}",
        "type": f"{PROVIDER}/workspaces/quotas",
        "limit": limit,
        "unit": "Count",
        "name": {"value": measure, "localizedValue": measure},
    }


async def update_quotas(ctx: Context) -> Response:
    """QuotaUpdateParameters; each entry has its own status, as in Azure."""
    entries = (await ctx.request.json()).get("value")
    if not isinstance(entries, list) or not entries or len(entries) > MOST:
        raise InvalidRequest(f"'value' must be a list of 1 to {MOST} quotas.", target="value")
    return json_response({"value": [await _update(ctx, at, entry) for at, entry in enumerate(entries)]})


async def _update(ctx: Context, at: int, entry: Any) -> dict[str, Any]:
    id = entry.get("id") if isinstance(entry, dict) else None
    parsed = parse_workspace_id(id) if isinstance(id, str) else None
    if parsed is None or len(parsed[1]) != 2 or parsed[1][0].lower() != "quotas":
        raise InvalidRequest(
            f"value[{at}].id is {id!r}: it must be the id of a workspace's quota, "
            f"{ctx.scope.arm_id}/resourceGroups/…/workspaces/…/quotas/FAMILY.",
            target=f"value[{at}].id",
        )
    scope, (_, measure) = parsed
    if scope.subscription.lower() != ctx.scope.subscription.lower():
        raise InvalidRequest(f"value[{at}].id is in another subscription.", target=f"value[{at}].id")
    wanted = quotas.Change(WORKSPACE, scope.workspace, scope, {measure: entry.get("limit")})
    status = "Success"
    try:
        await quotas.change(ctx.services, ctx.caller, wanted)
    except (InvalidRequest, NotFound, Conflict) as error:
        if error.target != f"limits.{measure}" or "measure" not in error.message:
            raise
        status = "InvalidVMFamilyName"
    limit = entry.get("limit")
    return {
        "id": id,
        "type": f"{PROVIDER}/workspaces/quotas",
        "limit": limit,
        "unit": "Count",
        "status": status,
    }
