"""Packages of models in the native API: what there is, and how it is fetched (docs/architecture.md)."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.assets.storage_access import signer_of
from tidemill.app.serving import packages
from tidemill.app.serving.packages import ACTION
from tidemill.app.views import package_views
from tidemill.data.bloburls import blob_url
from tidemill.domain.errors import NotFound
from tidemill.wire.blob.sas import make_sas
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W

ONE = W + "/packages/{name}/versions/{version}"
HOURS = 2


def routes() -> list[Route]:
    return [
        Route("GET", W + "/packages", f"{ACTION}/read", _list),
        Route("GET", ONE, f"{ACTION}/read", _get),
        Route("POST", ONE + "/download", f"{ACTION}/download/action", _download, reads=True),
        Route("DELETE", ONE, f"{ACTION}/delete", _delete),
    ]


async def _list(ctx: Context) -> Response:
    model = ctx.request.query.get("model", "")
    return json_response({"value": await package_views.summaries(ctx.services, ctx.scope, model)})


async def _get(ctx: Context) -> Response:
    return json_response(await package_views.detail(ctx.services, ctx.scope, *_names(ctx)))


async def _download(ctx: Context) -> Response:
    """An address that opens this package's files and nothing else, for a while."""
    s = ctx.services
    place = await packages.place(s, ctx.scope, *_names(ctx))
    holder = signer_of(ctx.caller, ctx.decision)
    key = s.storage_keys.key(place.account, holder)
    expiry = s.clock.now() + HOURS * 3_600_000_000
    sas = make_sas(key, place.account, place.container, None, "rl", expiry, holder=holder)
    address = blob_url(s.addresses.data, place.account, place.container)
    return json_response({"sasUri": f"{address}?{sas}"}, headers={"Cache-Control": "no-store"})


async def _delete(ctx: Context) -> Response:
    name, version = _names(ctx)
    if not await packages.delete(ctx.services, ctx.caller, ctx.scope, name, version):
        raise NotFound(f"There is no package {name}:{version}.", "PackageNotFound")
    return Response(status_code=204)


def _names(ctx: Context) -> tuple[str, str]:
    return ctx.params["name"], ctx.params["version"]
