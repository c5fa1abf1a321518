"""A whole request, as the application sees it, and the headers that follow it around."""

from __future__ import annotations

import os
from urllib.parse import unquote

from .http import Head, Refused

ID_LIMIT = 100


class Request:
    """`path` is decoded, `query` is not. `headers`: lower-case names."""

    __slots__ = ("body", "head", "headers", "method", "path", "query", "request_id")

    def __init__(self, head: Head, body: bytes) -> None:
        self.head = head
        self.method = head.method
        self.headers = head.headers
        self.body = body
        self.request_id = ""
        path, _, self.query = head.target.partition("?")
        if path[:1] != "/":
            path = _path_of_url(path)
        self.path = unquote(path) if "%" in path else path


def _path_of_url(target: str) -> str:
    """Absolute form (`GET http://host/path`); everything else is no resource of ours."""
    scheme, found, rest = target.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        raise Refused(400, f"The request target {target[:80]!r} is no path.")
    return "/" + rest.partition("/")[2]


def _new_id() -> str:
    """A random UUID (version 4)."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def identity_headers(request: Request) -> str:
    """Header lines that name request and client, as Azure's server answers them. Raises Refused (431).

    x-ms-request-id is an old name that clients sent, so it counts as the client's id, and is always answered.
    """
    headers = request.headers
    ours = headers.get("x-request-id")
    if ours is None:
        ours = _new_id()
    elif len(ours) > ID_LIMIT:
        raise Refused(431, f"x-request-id must not exceed {ID_LIMIT} characters")
    legacy = headers.get("x-ms-request-id", "")
    client = headers.get("x-ms-client-request-id", "") or legacy
    legacy = legacy or client or ours
    if len(legacy) > ID_LIMIT or len(client) > ID_LIMIT:
        limit = "x-ms-request-id and x-ms-client-request-id must not exceed {} characters"
        raise Refused(431, limit.format(ID_LIMIT))
    request.request_id = ours
    lines = f"x-request-id: {ours}\r\nx-ms-request-id: {legacy}\r\n"
    if client:
        lines += f"x-ms-client-request-id: {client}\r\n"
    if "traceid" in headers:
        lines += "TraceId: {}\r\n".format(headers["traceid"])
    return lines
