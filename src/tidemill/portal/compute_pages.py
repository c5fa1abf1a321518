"""The computes of a workspace, and one compute with its nodes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app import compute_views
from tidemill.portal import pages
from tidemill.portal.frame import around, is_fragment
from tidemill.wire.http import Context


async def list_page(ctx: Context) -> Response:
    frame = await around(ctx, "computes")
    computes = await compute_views.summaries(ctx.services, ctx.scope, ctx.part)
    return _live(ctx, frame["base"] + "/computes", "computes", {**frame, "computes": computes})


async def compute_page(ctx: Context) -> Response:
    frame = await around(ctx, "computes")
    compute = await compute_views.detail(ctx.services, ctx.scope, ctx.params["name"])
    here = f"{frame['base']}/computes/{quote(compute['name'], safe='')}"
    return _live(ctx, here, "compute", {**frame, "compute": compute})


def _live(ctx: Context, here: str, name: str, values: dict[str, Any]) -> Response:
    """The page `name`.html around the part `_name`.html that asks for itself again and again; nothing is sent
    while it is the same as the one before."""
    part = pages.fragment(f"_{name}.html", **values)
    mark = pages.fingerprint(part)
    if is_fragment(ctx.request) and ctx.request.query.get("seen") == mark:
        return pages.unchanged()
    template = "_live.html" if is_fragment(ctx.request) else f"{name}.html"
    return pages.page(template, **values, part=part, poll=f"{here}?seen={mark}")
