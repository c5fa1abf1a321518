"""One probe of a service: what it asks, and its verdict. `probes.py` does the asking."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

EAGER_S = 0.05
KINDS = ("tcp", "http")


class Probe:
    """One probe of one task. `kind` "tcp": a connection is enough; "http": GET `path` is answered with
    200..399. `failures` and `successes` in a row change its verdict."""

    def __init__(self, m: dict[str, Any], started: float) -> None:
        self.kind = str(m["kind"])
        if self.kind not in KINDS:
            raise ValueError(f"probe {self.kind!r}: use one of {', '.join(KINDS)}")
        self.port = int(m["port"])
        self.path = str(m["path"])
        if any(character <= " " or character > "~" for character in self.path):
            raise ValueError(f"probe path {self.path!r} has characters that no request line can have")
        self.delay_s = float(m["delay_s"])
        self.period_s = max(float(m["period_s"]), EAGER_S)
        self.timeout_s = float(m["timeout_s"])
        self.failures = int(m["failures"])
        self.successes = int(m["successes"])
        self.eager = bool(m["eager"])  # of readiness: until it is passed for the first time
        self.passed = not self.eager  # the verdict; nothing is ready before it has said so
        self.why = ""  # what the last failure was
        self.in_a_row = 0  # of results against the verdict
        self.due: float | None = started if self.eager else started + self.delay_s
        self.deadline = 0.0
        self.sock: socket.socket | None = None
        self.sent = False
        self.answer = b""

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def result(self, good: bool, why: str, now: float, started: float) -> bool:
        """Counts it; -> whether the verdict has changed."""
        self.close()
        if not good:
            self.why = why
        young = now < started + self.delay_s
        self.due = now + (EAGER_S if self.eager else self.period_s)
        if good == self.passed:
            self.in_a_row = 0
            return False
        if not good and young:  # it may still be starting
            return False
        self.in_a_row += 1
        if self.in_a_row < (self.successes if good else self.failures):
            return False
        self.in_a_row, self.passed = 0, good
        self.eager = self.eager and not good
        return True
