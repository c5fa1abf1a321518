"""`/api/v1/keys`: which keys the home has, and their rotation on the running server. Never a key."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.upkeep import keys
from tidemill.wire.http import Context, Route, json_response

# Below Microsoft.Authorization, so that Contributor does not have it: whoever rotates keys decides who gets
# in.
_ACTION = "Microsoft.Authorization/homeKeys"


def routes() -> list[Route]:
    return [
        Route("GET", "/api/v1/keys", f"{_ACTION}/read", list_keys),
        Route("POST", "/api/v1/keys/rotate", f"{_ACTION}/write", rotate),
    ]


async def list_keys(ctx: Context) -> Response:
    return json_response({"value": await keys.overview(ctx.services)})


async def rotate(ctx: Context) -> Response:
    """`{"kind": "signing"|"storage"|"master"|"links", "at_once": false}` -> `{"message", "value"}`."""
    body = await ctx.request.json()
    message = await keys.rotate(ctx.services, str(body.get("kind", "")), at_once=body.get("at_once") is True)
    return json_response({"message": message, "value": await keys.overview(ctx.services)})
