"""Schedules in the native API: what comes next and what came of the last times (docs/architecture.md)."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.views import schedule_views
from tidemill.wire.azure.schedules import ACTION
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W


def routes() -> list[Route]:
    return [
        Route("GET", W + "/schedules", f"{ACTION}/read", list_schedules),
        Route("GET", W + "/schedules/{name}", f"{ACTION}/read", get_schedule),
    ]


async def list_schedules(ctx: Context) -> Response:
    return json_response({"value": await schedule_views.summaries(ctx.services, ctx.scope)})


async def get_schedule(ctx: Context) -> Response:
    return json_response(await schedule_views.detail(ctx.services, ctx.scope, ctx.params["name"]))
