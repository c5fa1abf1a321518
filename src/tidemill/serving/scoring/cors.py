"""Cross-origin requests: AML_CORS_ORIGINS, as flask-cors answers them for Azure's server."""

from __future__ import annotations

from typing import Sequence

from .request import Request

METHODS = "GET, POST"


class Cors:
    def __init__(self, origins: Sequence[str]) -> None:
        self._all = "*" in origins
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def headers(self, request: Request) -> str:
        """Header lines of the answer; none where no origin is allowed, or not this one."""
        if not self._origins:
            return ""
        origin = request.headers.get("origin")
        if origin is None or not (self._all or self._known(origin)):
            return "" if self._all else "Vary: Origin\r\n"
        lines = "Access-Control-Allow-Origin: {}\r\n".format("*" if self._all else origin)
        if not self._all:
            lines += "Vary: Origin\r\n"
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            lines += f"Access-Control-Allow-Methods: {METHODS}\r\n"
            wanted = request.headers.get("access-control-request-headers")
            if wanted:
                lines += f"Access-Control-Allow-Headers: {wanted}\r\n"
        return lines

    def _known(self, origin: str) -> bool:
        """With or without the scheme: users write both, "https://contoso.com" and "contoso.com"."""
        origin = origin.lower()
        return origin in self._origins or origin.partition("://")[2] in self._origins
