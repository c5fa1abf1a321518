"""What the gateway itself answers: errors in ARM's shape, as Azure's clients read them."""

from __future__ import annotations

import json
from http import HTTPStatus

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


class Denied(Exception):
    """A request that is not passed on. `more`: header lines of the answer."""

    def __init__(self, status: int, code: str, message: str, more: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = more


class Told(Exception):
    """What the gateway answers by itself, with 200."""

    def __init__(self, kind: str, content: bytes) -> None:
        super().__init__(kind)
        self.kind = kind
        self.content = content

    def bytes(self) -> bytes:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {self.kind}\r\nContent-Length: {len(self.content)}\r\n"
        return head.encode() + b"Connection: close\r\n\r\n" + self.content


def answer(status: int, code: str, message: str, *, close: bool, more: str = "", body: bool = True) -> bytes:
    """`body`: False for the answer to HEAD."""
    content = json.dumps({"error": {"code": code, "message": message}}).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n{more}{'Connection: close' if close else ''}"
    )
    ending = "\r\n\r\n" if close else "\r\n"
    return (head + ending).encode("latin-1") + (content if body else b"")
