"""Lines into a container that a password opens, as Azure's `exec` and `attach` give them.

One is asked for with a role and taken up once, within a minute, by whoever has its password. Those that
wait are in memory: a restart of the server forgets them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.domain.errors import Conflict, Forbidden, NotFound
from tidemill.domain.model import Caller, Scope
from tidemill.domain.roles import Decision

LINE_US = 60 * 1_000_000  # that a line waits to be taken up
MOST_LINES = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """What was asked for, and by whom. `command` None: only its output, from `offset` of its log on."""

    caller: Caller
    decision: Decision
    scope: Scope
    group: str
    container: str
    command: tuple[str, ...] | None
    size: tuple[int, int]
    digest: bytes  # of its password
    until: int
    offset: int = 0


class Lines:
    def __init__(self) -> None:
        self._waiting: dict[str, Line] = {}

    def add(self, now: int, make: Callable[[bytes, int], Line]) -> tuple[str, str]:
        """-> (id, password). Raises Conflict where too many wait."""
        self._waiting = {id: line for id, line in self._waiting.items() if line.until > now}
        if len(self._waiting) >= MOST_LINES:
            raise Conflict("Too many sessions wait to be taken up. Try again in a minute.", "TooManySessions")
        id, password = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        self._waiting[id] = make(_digest(password), now + LINE_US)
        return id, password

    def take(self, id: str, now: int) -> Line:
        """Once. Raises NotFound."""
        line = self._waiting.pop(id, None)
        if line is None or line.until <= now:
            raise NotFound(
                "There is no such session, or it was taken up, or its minute is over: ask for a new one.",
                "SessionNotFound",
            )
        return line


def check_password(line: Line, given: str) -> None:
    """Raises Forbidden."""
    if not hmac.compare_digest(_digest(given), line.digest):
        raise Forbidden("The password of this session is wrong. Ask for a new session.", "WrongPassword")


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()
