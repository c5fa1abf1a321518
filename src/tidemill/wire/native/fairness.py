"""Quotas and the queue in the native API (docs/architecture.md)."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.computes import quotas
from tidemill.app.views import fairness
from tidemill.app.views.fairness import WRITE_QUOTAS
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import parse_workspace_id
from tidemill.domain.model import Scope
from tidemill.wire.http import SIGNED_IN, Context, Route, json_response
from tidemill.wire.native.routes import JOBS, W, whole


def routes() -> list[Route]:
    return [
        Route("GET", "/api/v1/queue", SIGNED_IN, queue),
        Route("GET", "/api/v1/quotas", SIGNED_IN, list_quotas),
        Route("PUT", "/api/v1/quotas", WRITE_QUOTAS, put_quota),
        Route("GET", W + "/quotas/explain", JOBS, explain),
    ]


async def queue(ctx: Context) -> Response:
    query = ctx.request.query
    limit = whole(query.get("limit", "100"), "limit", 1, fairness.MOST_QUEUED)
    workspace = _workspace(query.get("workspace"), "workspace")
    value = await fairness.queue(ctx.services, ctx.caller, workspace, query.get("compute", ""), limit)
    return json_response({"value": value})


async def list_quotas(ctx: Context) -> Response:
    return json_response({"value": await fairness.show(ctx.services, ctx.caller)})


async def put_quota(ctx: Context) -> Response:
    body = await ctx.request.json()
    limits = body.get("limits")
    if limits is not None and not isinstance(limits, dict):
        raise InvalidRequest('limits must be an object: {"cores": 8}.', target="limits")
    wanted = quotas.Change(
        _text(body, "kind") or "",
        _text(body, "name") or "",
        _workspace(_text(body, "workspace"), "workspace"),
        limits or {},
        body.get("weight"),
        _text(body, "default_team"),
    )
    rule = await quotas.change(ctx.services, ctx.caller, wanted)
    return json_response(
        {
            "kind": rule.kind,
            "id": rule.id,
            "name": rule.name,
            "limits": rule.limits,
            "weight": rule.weight,
            "default_team": fairness.name_of_team(await ctx.services.access.current(), rule),
        }
    )


async def explain(ctx: Context) -> Response:
    query = ctx.request.query
    ask = fairness.Ask(
        query.get("job", ""),
        query.get("compute", ""),
        query.get("size", ""),
        whole(query.get("nodes", "1"), "nodes", 1, 10_000),
        query.get("team", ""),
    )
    return json_response(await fairness.explain(ctx.services, ctx.caller, ctx.scope, ask))


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} must be text, not {value!r}.", target=name)
    return value


def _workspace(text: str | None, name: str) -> Scope | None:
    if not text:
        return None
    parsed = parse_workspace_id(text)
    if parsed is None or parsed[1]:
        raise InvalidRequest(f"{name} is {text!r}: it must be the ARM id of a workspace.", target=name)
    return parsed[0]
