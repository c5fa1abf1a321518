"""The schedules of a workspace, and one schedule with its next times and its history."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.views import schedule_views
from tidemill.portal.frame import W, around, live
from tidemill.wire.http import Context, Route

READ = "Microsoft.MachineLearningServices/workspaces/schedules/read"


def routes() -> list[Route]:
    return [
        Route("GET", f"{W}/schedules", READ, list_page),
        Route("GET", f"{W}/schedules/{{name}}", READ, schedule_page),
    ]


async def list_page(ctx: Context) -> Response:
    frame = await around(ctx, "schedules")
    found = await schedule_views.summaries(ctx.services, ctx.scope)
    return live(ctx, frame["base"] + "/schedules", "schedules", {**frame, "schedules": found})


async def schedule_page(ctx: Context) -> Response:
    frame = await around(ctx, "schedules")
    found = await schedule_views.detail(ctx.services, ctx.scope, ctx.params["name"])
    here = f"{frame['base']}/schedules/{quote(found['name'], safe='')}"
    return live(ctx, here, "schedule", {**frame, "schedule": found})
