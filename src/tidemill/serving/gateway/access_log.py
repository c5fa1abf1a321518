"""The access log: a line for each request, written in batches. Keys, tokens and queries are never in it.

A thread writes them: a write may wait for the disk, and no request is to wait with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.serving.gateway.exchange import Exchange
    from tidemill.serving.gateway.http1 import Request

MOST_BYTES = 10 << 20  # then it is moved to .1, as often as it takes
MOST_LINES = 512  # of a batch
MOST_BATCHES = 64  # that wait to be written; requests wait for a disk that is slower than that
_log = logging.getLogger("tidemill.gateway")


class AccessLog:
    """`path`: None keeps none. Lines: time, caller, method, target without its query, status, bytes of the
    answer, milliseconds, deployment, request id."""

    def __init__(self, path: Path | None) -> None:
        self._lines: list[bytes] = []
        self._stamp = b""
        self.tick()
        self._file = None if path is None else _File(path)

    def ended(self, exchange: Exchange, us: int) -> None:
        if self._file is None:
            return
        self._lines.append(
            b"%b%b %b %d %d %d.%03d %b %.256b\n"
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
        if self._file is None:
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
        """What there is goes to the file soon."""
        if self._lines and self._file is not None:
            lines, self._lines = self._lines, []
            self._file.batches.put(lines)

    def close(self) -> None:
        """Everything is written."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


class _File:
    """Written by a thread of its own. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.batches: queue.Queue[list[bytes] | None] = queue.Queue(MOST_BATCHES)
        self._path = path
        self._open()
        # A daemon: a gateway that fails must end.
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.batches.put(None)
        self._thread.join()
        os.close(self._file)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _run(self) -> None:
        while (lines := self.batches.get()) is not None:
            data = b"".join(lines)
            with contextlib.suppress(OSError):  # a full disk must not end anybody's request
                os.write(self._file, data)
            self._size += len(data)
            if self._size > MOST_BYTES:
                self._turn()

    def _turn(self) -> None:
        try:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            before = self._file
            self._open()
            os.close(before)
        except OSError:
            _log.exception("the access log could not be turned over")
            self._size = 0
