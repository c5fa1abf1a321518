"""What would come of requests that are not made (docs/architecture.md)."""

from __future__ import annotations

from typing import Any, cast

from starlette.responses import Response

from tidemill.app.views import validation
from tidemill.app.views.validation import PROVIDER, Asked, Upload
from tidemill.domain.errors import InvalidRequest
from tidemill.wire.http import Context, Route, json_response
from tidemill.wire.native.routes import W


def routes() -> list[Route]:
    return [Route("POST", W + "/validate", f"{PROVIDER}/workspaces/read", validate)]


async def validate(ctx: Context) -> Response:
    body = await ctx.request.json()
    asked = [_asked(one) for one in _list(body, "requests")]
    uploads = [_upload(one) for one in _list(body, "uploads")]
    return json_response(
        {"value": await validation.validate(ctx.services, ctx.caller, ctx.scope, asked, uploads)}
    )


def _list(body: dict[str, Any], name: str) -> list[Any]:
    value = body.get(name) or []
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} must be a list.", target=name)
    return cast(list[Any], value)


def _asked(value: Any) -> Asked:
    one: dict[str, Any] = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if not isinstance(one.get("path"), str) or not isinstance(one.get("body"), dict):
        raise InvalidRequest('Each of requests is {"path": "jobs/NAME", "body": {…}}.', target="requests")
    return Asked(one["path"], one["body"])


def _upload(value: Any) -> Upload:
    one: dict[str, Any] = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    files, texts = one.get("files"), one.get("texts") or {}
    if not isinstance(one.get("uri"), str) or not isinstance(files, list) or not isinstance(texts, dict):
        raise InvalidRequest('Each of uploads is {"uri": "azureml://…/", "files": […]}.', target="uploads")
    known = {str(name): str(text) for name, text in cast(dict[str, Any], texts).items()}
    return Upload(one["uri"], tuple(str(name) for name in cast(list[Any], files)), known)
