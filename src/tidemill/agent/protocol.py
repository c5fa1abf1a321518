"""The agent's wire: a 4-byte big-endian length, then JSON.

Request  {"id": n, "verb": "...", ...}     Answer {"id": n, "ok": {...}} or {"id": n, "error": {"code",
"message"}} Push     {"event": {"seq", "kind", ...}}   after `watch`.
`hello` carries `version`; an agent of version N serves clients of N and N+1, which may not need what N lacks.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 8
IMAGES_SINCE = 2  # `start` has `rootfs` and `read_only`
NETWORKS_SINCE = 3  # the verb `serve`; `start` has `network`
SESSIONS_SINCE = 4  # the verbs `exec` and `dial`, each on a connection of its own: see sessions.py
CPUS_SINCE = 5  # the verb `cpus`
SERVICES_SINCE = 6  # `start` has `service`: see restarts.py and probes.py
PARKS_SINCE = 7  # the verbs `park` and `wake`
RUNTIMES_SINCE = 8  # `start` has `runtime`: see contained.py
MAX_FRAME = 64 * 1024 * 1024

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class ProtocolError(Exception):
    """The other side does not speak this protocol; the connection is of no more use."""


def encode(message: dict[str, Any]) -> bytes:
    body = _encode(message).encode()
    return len(body).to_bytes(4, "big") + body


class Decoder:
    """Bytes in, whole messages out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        self._buffer += data
        messages: list[dict[str, Any]] = []
        start = 0
        while len(self._buffer) - start >= 4:
            size = int.from_bytes(self._buffer[start : start + 4], "big")
            if size > MAX_FRAME:
                raise ProtocolError(f"a frame of {size} bytes; at most {MAX_FRAME} are allowed")
            if len(self._buffer) - start - 4 < size:
                break
            messages.append(_parse(bytes(self._buffer[start + 4 : start + 4 + size])))
            start += 4 + size
        del self._buffer[:start]
        return messages


def _parse(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise ProtocolError(f"a frame is no JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a frame is no JSON object")
    return message
