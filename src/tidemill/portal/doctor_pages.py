"""What this host has and lacks to keep jobs apart, with the way to get it."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.views import compute_views, doctor
from tidemill.portal import pages
from tidemill.portal.frame import READ_COMPUTES, W, around
from tidemill.wire.http import Context, Route


def routes() -> list[Route]:
    return [Route("GET", f"{W}/doctor", READ_COMPUTES, show)]


async def show(ctx: Context) -> Response:
    return pages.page(
        "doctor.html",
        **await around(ctx, "doctor"),
        host=await doctor.host(ctx.services),
        nodes=await compute_views.nodes_of(ctx.services, ctx.scope),
    )
