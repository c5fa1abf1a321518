"""From what run() returned to an answer."""

from __future__ import annotations

import collections.abc
from typing import Any

from . import jsonio

JSON = "application/json"
FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."


class Answer:
    """`stream`: an iterator, or an async one, of the body's pieces (str or bytes); `body` is empty then."""

    __slots__ = ("body", "headers", "kind", "run_ms", "status", "stream")

    def __init__(
        self, status: int, body: bytes, kind: str = JSON, headers: str = "", stream: Any = None
    ) -> None:
        self.status = status
        self.body = body
        self.kind = kind
        self.headers = headers
        self.stream = stream
        self.run_ms: float | None = None


def error(status: int, text: str, headers: str = "") -> Answer:
    return Answer(status, jsonio.dumps({"message": text}), JSON, headers)


def failed(status: int, text: str = FAILED) -> Answer:
    return error(status, text, "x-ms-run-function-failed: True\r\n")


def of(result: Any) -> Answer:
    """Raises TypeError, ValueError when `result` is neither JSON, nor a response, nor a stream."""
    if result is None or type(result) in _PLAIN:
        return Answer(200, b"{}" if result is None else jsonio.dumps(result), JSON, DONE)
    if hasattr(result, "status_code") and hasattr(result, "headers"):
        return _of_response(result)
    if isinstance(result, (collections.abc.Iterator, collections.abc.AsyncIterator)):
        return Answer(200, b"", "", DONE, stream=result)
    return Answer(200, jsonio.dumps(result), JSON, DONE)


_PLAIN = frozenset((list, dict, str, int, float, bool, tuple))
DONE = "x-ms-run-function-failed: False\r\n"
# Ours to say: they describe the connection, or the body as we send it.
_OURS = frozenset(("connection", "content-length", "content-type", "keep-alive", "transfer-encoding"))


def _of_response(response: Any) -> Answer:
    """An AMLResponse: ours, or Flask's (azureml-contrib-services, azureml-inference-server-http)."""
    status = int(response.status_code)
    if not 200 <= status <= 599:
        raise ValueError(f"The response's status is {status}; it is from 200 to 599.")
    lines, kind, told = [], "", False
    for name, value in response.headers.items():
        lower, value = name.lower(), str(value)
        _check_header(name, value)
        if lower == "content-type":
            kind = value
        elif lower == "x-ms-run-function-failed":
            told = True
            lines.append(f"{name}: {True if status >= 500 else value}\r\n")
        elif lower not in _OURS:
            lines.append(f"{name}: {value}\r\n")
    if status >= 500 and not told:
        lines.append("x-ms-run-function-failed: True\r\n")
    headers = "".join(lines)
    if getattr(response, "is_streamed", False):
        pieces = response.iter_encoded() if hasattr(response, "iter_encoded") else iter(response.response)
        return Answer(status, b"", kind, headers, stream=pieces)
    return Answer(status, bytes(response.get_data()), kind, headers)


def _check_header(name: str, value: str) -> None:
    if any(c in "\r\n\0" for c in name + value) or not name or ":" in name:
        raise ValueError(f"The response's header {name!r} holds characters that no header may hold.")


def piece(value: str | bytes) -> bytes:
    """Raises TypeError."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"run() streams {type(value).__name__}; pieces are str or bytes.")
