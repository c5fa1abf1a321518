"""The environments of a workspace and the curated ones; one version with its lock and its build's log."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.rows.asset_rows import ENVIRONMENTS
from tidemill.app.views import asset_uses, environment_views
from tidemill.domain.errors import NotFound
from tidemill.portal import asset_pages
from tidemill.portal.frame import is_fragment, live
from tidemill.wire.http import Context, Route


def routes() -> list[Route]:
    return asset_pages.routes(ENVIRONMENTS, list_page, environment_page)


async def list_page(ctx: Context) -> Response:
    curated = environment_views.curated(ctx.services)
    return await asset_pages.list_page(ctx, ENVIRONMENTS, "environments", curated=curated)


async def environment_page(ctx: Context) -> Response:
    """What was built of it asks for itself again: a build is followed as it goes on."""
    s, scope = ctx.services, ctx.scope
    values, version = await _one(ctx)
    item = values["item"]
    state = await environment_views.state(s, scope, item["name"], item["version"])
    if not await asset_pages.may(ctx, f"{asset_pages.ACTION}/jobs/read"):
        state["waiting"] = []
    values["state"] = state
    spec = item["spec"]
    values |= {"image": spec.get("image"), "build": spec.get("build"), "conda": spec.get("condaFile")}
    if not is_fragment(ctx.request):
        uses = await asset_pages.used(
            ctx, lambda read: asset_uses.of_environment(read, scope, item["name"], version)
        )
        values |= uses
    return live(ctx, values["here"], "environment", values)


async def _one(ctx: Context) -> tuple[dict[str, Any], str]:
    """-> (values, the version that jobs have to have; "" for any of a curated one)."""
    name = ctx.params["name"]
    try:
        row, values = await asset_pages.one(ctx, ENVIRONMENTS)
        return values, row.key.name
    except NotFound:
        known = ctx.services.curated.find(name)
        if known is None or await environment_views.is_registered(ctx.services, ctx.scope, name):
            raise
        return await asset_pages.shown(ctx, ENVIRONMENTS, environment_views.curated_detail(known)), ""
