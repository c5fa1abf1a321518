"""The access log: a line for each request, written in batches. Keys, tokens and queries are never in it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.serving.gateway.exchange import Exchange
    from tidemill.serving.gateway.http1 import Request

MOST_BYTES = 10 << 20  # then it is moved to .1, as often as it takes
MOST_LINES = 512  # that wait to be written
_log = logging.getLogger("tidemill.gateway")


class AccessLog:
    """`path`: None keeps none. Lines: time, caller, method, target without its query, status, bytes of the
    answer, milliseconds, deployment, request id."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = -1
        self._size = 0
        self._lines: list[bytes] = []
        self._stamp = b""
        self.tick()
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        self._file = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self._size = os.fstat(self._file).st_size

    def ended(self, exchange: Exchange, us: int) -> None:
        if self._file < 0:
            return
        self._lines.append(
            b"%b%b %b %d %d %d.%03d %b %b\n"
            % (
                self._stamp,
                exchange.caller.peer,
                exchange.request.logged,
                exchange.status,
                exchange.size,
                us // 1000,
                us % 1000,
                exchange.deployment.label,
                exchange.request_id,
            )
        )
        if len(self._lines) >= MOST_LINES:
            self.flush()

    def denied(self, peer: bytes, request: Request | None, status: int) -> None:
        if self._file < 0:
            return
        self.tick()
        what = b"- -" if request is None else request.logged
        self._lines.append(b"%b%b %b %d 0 0 - -\n" % (self._stamp, peer, what, status))
        if len(self._lines) >= MOST_LINES:
            self.flush()

    def tick(self) -> None:
        """The time of the lines that come; called often while there are requests."""
        self._stamp = time.strftime("%FT%TZ ", time.gmtime()).encode()

    def failed(self, what: str) -> None:
        _log.exception(what)

    def flush(self) -> None:
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        data = b"".join(lines)
        with contextlib.suppress(OSError):  # a full disk must not end anybody's request
            os.write(self._file, data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            self._turn()

    def _turn(self) -> None:
        assert self._path is not None
        try:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            os.close(self._file)
            self._open(self._path)
        except OSError:
            _log.exception("the access log could not be turned over")
            self._size = 0

    def close(self) -> None:
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
