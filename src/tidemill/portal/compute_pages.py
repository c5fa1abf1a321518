"""The computes of a workspace, and one compute with its nodes."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.views import compute_views
from tidemill.portal.frame import around, live
from tidemill.wire.http import Context


async def list_page(ctx: Context) -> Response:
    frame = await around(ctx, "computes")
    computes = await compute_views.summaries(ctx.services, ctx.scope, ctx.part)
    return live(ctx, frame["base"] + "/computes", "computes", {**frame, "computes": computes})


async def compute_page(ctx: Context) -> Response:
    frame = await around(ctx, "computes")
    compute = await compute_views.detail(ctx.services, ctx.scope, ctx.params["name"])
    here = f"{frame['base']}/computes/{quote(compute['name'], safe='')}"
    return live(ctx, here, "compute", {**frame, "compute": compute})
