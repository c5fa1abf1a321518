"""Requests that the supervisor answers itself, seen before a connection is handed to a worker."""

from __future__ import annotations

import json
from typing import NamedTuple

from .http import HEAD_LIMIT, Head, Refused, message, parse_head, status_line

PATHS = ("/", "/v2/health/live", "/v2/health/ready")
_STARTS = tuple(f"GET {path} ".encode() for path in PATHS) + tuple(f"GET {path}?".encode() for path in PATHS)

OTHER, UNSURE = 0, -1


class Health(NamedTuple):
    """`soon`: not ready, but expected to be again in a moment, so that requests are held."""

    ready: bool
    soon: bool
    reason: str


def look(data: bytes) -> int:
    """What these first bytes are: the length of a whole question for health, OTHER or UNSURE."""
    if not data.startswith(_STARTS):
        return UNSURE if any(start.startswith(data) for start in _STARTS) else OTHER
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return UNSURE if len(data) < HEAD_LIMIT else OTHER
    return end + 4


def asks(data: bytes) -> Head | None:
    """The head of a question, None where it is one for a worker to refuse (malformed, or with a body)."""
    try:
        head = parse_head(data)
    except Refused:
        return None
    return None if head.length != 0 or head.expects else head


def answer(target: str, health: Health, keep_alive: bool, headers: str = "") -> bytes:
    path = target.partition("?")[0]
    if not health.ready and path != "/v2/health/live":
        return message(503, health.reason, keep_alive, headers)
    if path == "/":
        kind, body = "text/html; charset=utf-8", b"Healthy"
    else:
        kind, body = "application/json", json.dumps({path.rpartition("/")[2]: True}).encode()
    return (
        status_line(200)
        + headers
        + f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        + ("\r\n" if keep_alive else "Connection: close\r\n\r\n")
    ).encode("latin-1") + body
