"""The data plane the SDK asks where a job's outputs lie: `/data/v1.0{workspace}/dataversion/…` of data, and
`/modelregistry/v1.0{workspace}/models/…` of models."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from tidemill.app.assets.locations import Location, Storage, locate
from tidemill.app.assets.registries import check_usable
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.asset_rows import DATA, MODELS, AssetKind
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.store.api import Read
from tidemill.wire.http import Context, Route, json_response

WORKSPACE = f"/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}"
MAX_VALUES = 1000


def routes() -> list[Route]:
    action = f"{PROVIDER}/workspaces"
    data = f"/data/v1.0{WORKSPACE}/dataversion/batchGetResolvedUris"
    models = f"/modelregistry/v1.0{WORKSPACE}/models/batchGetResolvedUris"
    return [
        Route("POST", data, f"{action}/data/versions/read", partial(resolved_uris, DATA, "uri"), reads=True),
        Route(
            "POST",
            models,
            f"{action}/models/versions/read",
            partial(resolved_uris, MODELS, "path"),
            reads=True,
        ),
    ]


async def resolved_uris(kind: AssetKind, field: str, ctx: Context) -> Response:
    """`{"values":[id, …]}` -> `{"values":{id:{field,"type"}}}`. An id is an asset's, or an address."""
    values = (await ctx.request.json()).get("values")
    if not isinstance(values, list) or len(values) > MAX_VALUES:
        raise InvalidRequest(f"'values' must be a list of at most {MAX_VALUES} ids.", target="values")
    ids = [str(value) for value in values]
    await check_usable(ctx.services, ctx.caller, ids)

    def look(read: Read) -> dict[str, Location]:
        account = account_for(read, ctx.scope)
        storage = Storage(ctx.scope, account, ctx.services.addresses.data_netloc)
        return {given: locate(read, storage, given, kind) for given in ids}

    found = await ctx.services.store.read(look)
    return json_response({"values": {given: _reply(where, field) for given, where in found.items()}})


def _reply(where: Location, field: str) -> dict[str, str]:
    uri = where.uri or where.url
    return {field: uri, "type": "uri_folder" if uri.endswith("/") else "uri_file"}
