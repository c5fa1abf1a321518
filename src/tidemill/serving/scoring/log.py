"""The server's own lines, among what the user's code prints.

Lines of requests are bounded: at a full rate they would fill a disk. In each second the first ones are
written, of the others their number by status.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Callable

LINES_PER_SECOND = 50
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


class Log:
    def __init__(self, level: str) -> None:
        self._least = _LEVELS[level]

    def info(self, text: str, *values: Any) -> None:
        self._write("INFO", text, values)

    def warning(self, text: str, *values: Any) -> None:
        self._write("WARNING", text, values)

    def error(self, text: str, *values: Any) -> None:
        self._write("ERROR", text, values)

    def wants_requests(self) -> bool:
        return self._least <= _LEVELS["INFO"]

    def _write(self, level: str, text: str, values: Any) -> None:
        if _LEVELS[level] >= self._least:
            write(f"{stamp(time.time())} {level} {text % values if values else text}\n")


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # whoever read our log is gone; requests are answered all the same


class AccessLog:
    """`later` runs a callback some seconds from now (loop.call_later): lines are written once a second."""

    PERIOD_S = 0.25

    def __init__(self, later: Callable[[float, Callable[[], None]], Any]) -> None:
        self._later = later
        self._lines: list[str] = []
        self._waiting = False
        self._left = LINES_PER_SECOND
        self._second = 0.0
        self._untold: dict[int, int] = {}

    def add(
        self, method: str, target: str, status: int, milliseconds: float, size: int, request_id: str
    ) -> None:
        if self._left > 0:
            self._left -= 1
            self._lines.append(
                f"{stamp(time.time())} INFO {method} {target[:512]} {status}"
                f" {milliseconds:.3f}ms {size} {request_id}\n"
            )
        else:
            self._untold[status] = self._untold.get(status, 0) + 1
        if not self._waiting:
            self._waiting = True
            self._later(self.PERIOD_S, self.flush)

    def flush(self) -> None:
        self._waiting = False
        now = time.monotonic()
        if now - self._second >= 1:
            self._second = now
            self._left = LINES_PER_SECOND
            if self._untold:
                counts = ", ".join("{}: {}".format(*pair) for pair in sorted(self._untold.items()))
                self._lines.append(
                    f"{stamp(time.time())} INFO and {sum(self._untold.values())} more requests ({counts})\n"
                )
                self._untold = {}
        if self._untold:
            self._waiting = True
            self._later(1.0, self.flush)
        if self._lines:
            lines, self._lines = self._lines, []
            write("".join(lines))
