"""Messages between a node and whoever hands out batches: a JSON object a line, over a socket."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
from typing import Any


class Lines:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def read(self) -> dict[str, Any] | None:
        """None: the other side is gone."""
        line = self._file.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        # The file holds the socket open: both end here.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._socket.close()


def word_of(token: str) -> str:
    """What a node of this job says to be let in: others may reach the port where networks are not apart."""
    return hmac.new(token.encode(), b"batches", hashlib.sha256).hexdigest()
