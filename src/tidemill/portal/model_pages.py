"""The models of a workspace; one version with its files, what it takes and gives, where it came from and what
answers with it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from tidemill.app.assets import model_flavors, model_sources
from tidemill.app.rows.asset_rows import MODELS
from tidemill.app.rows.codec import decode_object
from tidemill.app.serving import packages
from tidemill.app.views import asset_uses, data_preview, package_views
from tidemill.domain.errors import TidemillError
from tidemill.domain.plan import Place
from tidemill.portal import asset_pages, pages
from tidemill.wire.http import Context, Route


def routes() -> list[Route]:
    return asset_pages.routes(MODELS, list_page, model_page)


async def list_page(ctx: Context) -> Response:
    return await asset_pages.list_page(ctx, MODELS, "models")


async def model_page(ctx: Context) -> Response:
    row, values = await asset_pages.one(ctx, MODELS)
    s, scope, asset = ctx.services, ctx.scope, values["item"]
    row = await model_flavors.with_flavors(s, row)
    place, problem = await _place(ctx, asset["address"])
    uses = await asset_pages.used(
        ctx, lambda read: asset_uses.of_model(read, scope, place, asset["name"], asset["version"])
    )
    return pages.page(
        "model.html",
        **values,
        **uses,
        flavors=decode_object(row.spec).get("flavors") or {},
        packages=await _packages(ctx, asset),
        run="" if not uses["may_see_jobs"] else str(asset["properties"].get("mlflow.runId") or ""),
        **await _contents(ctx, asset, place, problem),
    )


async def _packages(ctx: Context, asset: dict[str, Any]) -> list[dict[str, Any]]:
    """As far as the caller may see them."""
    if not await asset_pages.may(ctx, f"{packages.ACTION}/read"):
        return []
    return await package_views.summaries(ctx.services, ctx.scope, f"{asset['name']}:{asset['version']}")


async def _place(ctx: Context, address: str) -> tuple[Place | None, str]:
    """-> (where its files are, why that is not known)."""
    try:
        return await data_preview.place_of(ctx.services, ctx.scope, MODELS, address), ""
    except TidemillError as error:
        return None, error.message


async def _contents(ctx: Context, asset: dict[str, Any], place: Place | None, problem: str) -> dict[str, Any]:
    """What only they see who may read the bytes: files and signature."""
    found: dict[str, Any] = {"may_read": True, "problem": problem, "seen": None, "signature": {}}
    if not await data_preview.may_read(ctx.services, ctx.caller, ctx.scope):
        return {**found, "may_read": False}
    if place is None:
        return found
    query = ctx.request.query
    try:
        found["seen"] = await data_preview.look(
            ctx.services, ctx.scope, place, query.get("path", ""), query.get("after", "")
        )
        if asset["type"] == model_flavors.MLFLOW_MODEL:
            raw = await model_sources.read_mlmodel(ctx.services, ctx.scope, asset["address"])
            found["signature"] = await asyncio.to_thread(model_flavors.read_signature, raw or b"")
    except TidemillError as error:
        found["problem"] = error.message
    return found
