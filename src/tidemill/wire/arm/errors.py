"""ARM's error body: `{"error":{"code","message","target","details"}}`."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.domain.errors import TidemillError
from tidemill.wire.arm.envelope import encode


def error_body(error: TidemillError) -> dict[str, Any]:
    """The value of `error`: also what a failed long-running operation carries."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.target is not None:
        body["target"] = error.target
    if error.details:
        body["details"] = [
            {"code": d.code, "message": d.message, **({"target": d.target} if d.target else {})}
            for d in error.details
        ]
    return body


def error_response(error: TidemillError, headers: dict[str, str] | None = None) -> Response:
    all_headers = {"x-ms-error-code": error.code, **(headers or {})}
    if error.status == 401:
        all_headers.setdefault(
            "WWW-Authenticate", f'Bearer error="invalid_token", error_description="{error.code}"'
        )
    return Response(
        encode({"error": error_body(error)}), error.status, all_headers, media_type="application/json"
    )
