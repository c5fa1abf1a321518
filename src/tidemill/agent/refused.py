"""What a verb answers when it cannot be carried out."""

from __future__ import annotations


class Refused(Exception):
    """`code`: "stale", "busy", "invalid", "starting" (try again), "gone", …"""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
