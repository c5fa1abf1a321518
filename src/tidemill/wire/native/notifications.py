"""How the home sends mail, and what webhooks may reach (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from starlette.responses import Response

from tidemill.app.jobs import notice_sending, notices
from tidemill.domain.errors import InvalidRequest
from tidemill.wire.http import Context, Route, json_response

# Below Microsoft.Authorization, as the home's keys are: it decides where the server connects to.
_ACTION = "Microsoft.Authorization/homeNotifications"


def routes() -> list[Route]:
    return [
        Route("GET", "/api/v1/notifications", f"{_ACTION}/read", show),
        Route("PUT", "/api/v1/notifications", f"{_ACTION}/write", change),
        Route("POST", "/api/v1/notifications/test", f"{_ACTION}/write", test),
    ]


async def show(ctx: Context) -> Response:
    return json_response(notices.shown(await notices.settings_of(ctx.services)))


async def change(ctx: Context) -> Response:
    body = _object(await ctx.request.json())
    return json_response(notices.shown(await notices.put_settings(ctx.services, ctx.caller, body)))


async def test(ctx: Context) -> Response:
    """`{"emails": [address], "url": ""}`: sends it now, and says what went wrong."""
    body = _object(await ctx.request.json())
    emails, url = body.get("emails") or [], str(body.get("url") or "")
    if not isinstance(emails, list) or not (emails or url):
        raise InvalidRequest("Give emails (a list of addresses) or url.", target="emails")
    words = [str(one) for one in cast(list[Any], emails)]
    await notice_sending.try_out(ctx.services, ctx.caller, words, url)
    return json_response({"sent": [*words, *([url] if url else [])]})


def _object(raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise InvalidRequest("The body must be an object.")
    return cast(Mapping[str, Any], raw)
