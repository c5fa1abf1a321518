"""The rules of retention, and what they let go (docs/architecture.md)."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.times import iso
from tidemill.app.upkeep import housekeeping
from tidemill.domain.retention import Verdict
from tidemill.wire.http import Context, Route, json_response

# Below Microsoft.Authorization, as the home's keys are: what goes is everybody's.
_ACTION = "Microsoft.Authorization/homeRetention"


def routes() -> list[Route]:
    return [
        Route("GET", "/api/v1/retention", f"{_ACTION}/read", show),
        Route("PUT", "/api/v1/retention", f"{_ACTION}/write", change),
        Route("GET", "/api/v1/retention/candidates", f"{_ACTION}/read", look),
        Route("POST", "/api/v1/retention/apply", f"{_ACTION}/write", apply),
    ]


async def show(ctx: Context) -> Response:
    return json_response(housekeeping.rules_of(ctx.services).as_dict())


async def change(ctx: Context) -> Response:
    return json_response(housekeeping.set_rules(ctx.services, await ctx.request.json()).as_dict())


async def look(ctx: Context) -> Response:
    return json_response({"value": [_shown(one) for one in await housekeeping.look(ctx.services)]})


async def apply(ctx: Context) -> Response:
    gone = await housekeeping.apply(ctx.services, ctx.caller)
    return json_response({"value": [_shown(one) for one in gone]})


def _shown(verdict: Verdict) -> dict[str, Any]:
    one = verdict.candidate
    return {
        "kind": one.kind.value,
        "name": one.name,
        "size": one.size,
        "used_at": iso(one.used_at),
        "remove": verdict.remove,
        "why": verdict.why,
    }
