"""The data plane the SDK asks where a job's outputs lie: `/data/v1.0{workspace}/dataversion/…`."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.locations import Location, Storage, locate
from tidemill.app.registries import check_usable
from tidemill.app.storage import account_for
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import PROVIDER
from tidemill.store.api import Read
from tidemill.wire.http import Context, Route, json_response

BASE = f"/data/v1.0/subscriptions/{{sub}}/resourceGroups/{{rg}}/providers/{PROVIDER}/workspaces/{{ws}}"
MAX_VALUES = 1000


def routes() -> list[Route]:
    action = f"{PROVIDER}/workspaces/data/versions/read"
    return [Route("POST", BASE + "/dataversion/batchGetResolvedUris", action, resolved_uris)]


async def resolved_uris(ctx: Context) -> Response:
    """`{"values":[id, …]}` -> `{"values":{id:{"uri","type"}}}`. An id is an asset's, or an address."""
    values = (await ctx.request.json()).get("values")
    if not isinstance(values, list) or len(values) > MAX_VALUES:
        raise InvalidRequest(f"'values' must be a list of at most {MAX_VALUES} ids.", target="values")
    ids = [str(value) for value in values]
    await check_usable(ctx.services, ctx.caller, ids)

    def look(read: Read) -> dict[str, Location]:
        account = account_for(read, ctx.scope)
        storage = Storage(ctx.scope, account, ctx.services.addresses.data_netloc)
        return {given: locate(read, storage, given) for given in ids}

    found = await ctx.services.store.read(look)
    return json_response({"values": {given: _reply(where) for given, where in found.items()}})


def _reply(where: Location) -> dict[str, str]:
    uri = where.uri or where.url
    return {"uri": uri, "type": "uri_folder" if uri.endswith("/") else "uri_file"}
