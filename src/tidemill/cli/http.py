"""HTTP to the server over its loopback listener: JSON, ARM's errors, lists, long operations, event streams.

One kept connection. A request that finds its connection closed is sent once more: every call here is
idempotent (the same PUT twice is one resource).
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tidemill.cli.errors import FAILED, CliError, ServerGone, exit_code_of
from tidemill.cli.urls import Query, with_query

LOST = (http.client.HTTPException, ConnectionError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    id: str
    name: str
    data: Any


class Client:
    """`base`: "http://127.0.0.1:8440"; `token`: gives the bearer token, asked once and again after a 401."""

    def __init__(
        self, base: str, token: Callable[[Client], str] | None, hint: str, timeout: float = 60.0
    ) -> None:
        parts = urlsplit(base)
        self.base = base
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._ask_token = token
        self._token = ""
        self._hint = hint
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Query | None = None,
        headers: dict[str, str] | None = None,
        signed_in: bool = True,
    ) -> Reply:
        """Any status comes back. Raises ServerGone when nothing answers."""
        target = with_query(path, query)
        raw = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        reply = self._exchange(method, target, raw, self._headers(raw, headers, signed_in))
        if reply.status == 401 and signed_in and self._token:
            self._token = ""
            reply = self._exchange(method, target, raw, self._headers(raw, headers, signed_in))
        return reply

    def call(self, method: str, path: str, body: Any = None, query: Query | None = None) -> Any:
        """The reply's JSON. Raises CliError with ARM's message for an error status."""
        return checked(self.request(method, path, body, query)).json()

    def get(self, path: str, query: Query | None = None) -> Any:
        return self.call("GET", path, None, query)

    def find(self, path: str, query: Query | None = None) -> Any | None:
        """GET that answers None for a 404."""
        reply = self.request("GET", path, None, query)
        return None if reply.status == 404 else checked(reply).json()

    def pages(self, path: str, query: Query | None = None) -> Iterator[dict[str, Any]]:
        """Every item of an ARM list, following `nextLink`."""
        answer = self.get(path, query)
        while True:
            yield from answer.get("value") or []
            link = answer.get("nextLink")
            if not link:
                return
            parts = urlsplit(link)
            answer = self.get(parts.path + (f"?{parts.query}" if parts.query else ""))

    def begin(
        self, method: str, path: str, body: Any, query: Query, wait: bool = True, deadline_s: float = 300
    ) -> Any:
        """A call that may be long-running: follows Azure-AsyncOperation (or Location) until it has ended.
        Raises CliError when the operation failed or the deadline passed."""
        reply = checked(self.request(method, path, body, query))
        operation = reply.headers.get("azure-asyncoperation") or reply.headers.get("location")
        if not wait or not operation or reply.status not in (200, 201, 202, 204):
            return reply.json()
        until = time.monotonic() + deadline_s
        while True:
            parts = urlsplit(operation)
            status = checked(self.request("GET", parts.path + (f"?{parts.query}" if parts.query else "")))
            answer = status.json() if status.body else None
            state = (answer or {}).get("status", "Succeeded") if isinstance(answer, dict) else "Succeeded"
            if status.status == 202 and not isinstance(answer, dict):
                state = "InProgress"
            if state == "Succeeded":
                return reply.json()
            if state in ("Failed", "Canceled"):
                error = (answer or {}).get("error") or {}
                raise CliError(
                    error.get("message") or f"The operation ended as {state}.",
                    FAILED,
                    error.get("code", state),
                )
            if time.monotonic() > until:
                raise CliError(
                    f"The operation is still {state} after {deadline_s:.0f} s. It goes on at the server; "
                    "look again with the `show` command.",
                    FAILED,
                    "OperationTimeout",
                )
            # One of the few places where the interval is the server's to choose.
            time.sleep(float(status.headers.get("x-ms-retry-after-ms", "200")) / 1000)

    def events(
        self, path: str, query: Query | None, last_id: str, timeout: float = 60.0
    ) -> Iterator[StreamEvent]:
        """Server-sent events until the server ends the stream. Raises one of LOST when the line breaks,
        CliError for an error status. Uses a connection of its own."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            extra = (
                {"Accept": "text/event-stream", "Last-Event-ID": last_id}
                if last_id
                else {"Accept": "text/event-stream"}
            )
            connection.request("GET", with_query(path, query), headers=self._headers(None, extra, True))
            response = connection.getresponse()
            if response.status != 200:
                checked(Reply(response.status, _lower(response), response.read()))
            yield from parse_events(response)
        finally:
            connection.close()

    def authorization(self) -> str:
        """For a line that is not opened here."""
        return self._headers(None, None, True)["Authorization"]

    def _headers(self, raw: bytes | None, extra: dict[str, str] | None, signed_in: bool) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if raw is not None:
            headers["Content-Type"] = "application/json"
        if signed_in and self._ask_token is not None:
            self._token = self._token or self._ask_token(self)
            headers["Authorization"] = f"Bearer {self._token}"
        headers.update(extra or {})
        return headers

    def _exchange(self, method: str, target: str, raw: bytes | None, headers: dict[str, str]) -> Reply:
        fresh = self._connection is None
        while True:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
            try:
                self._connection.request(method, target, body=raw, headers=headers)
                response = self._connection.getresponse()
                return Reply(response.status, _lower(response), response.read())
            except LOST as error:
                self._connection.close()
                self._connection = None
                if fresh or isinstance(error, TimeoutError):
                    raise ServerGone(f"No answer from {self.base} ({_why(error)}). {self._hint}") from error
                fresh = True


def parse_events(lines: Any) -> Iterator[StreamEvent]:
    """`text/event-stream` lines (bytes) -> events. A stream that ends inside an event drops that event."""
    event_id, name, data = "", "message", []
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        if not line:
            if data:
                yield StreamEvent(event_id, name, json.loads("\n".join(data)))
            name, data = "message", []
            continue
        if line.startswith(":"):
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "id":
            event_id = value
        elif key == "event":
            name = value
        elif key == "data":
            data.append(value)


def checked(reply: Reply) -> Reply:
    """The reply, or its error as CliError (404 -> exit code 3, other 4xx -> 4, 5xx -> 1)."""
    if reply.status < 400:
        return reply
    code, message, target, details = f"Http{reply.status}", f"The server answered {reply.status}.", None, []
    try:
        body = reply.json() or {}
        # MLflow's routes have MLflow's shape.
        error = body.get("error") or {"code": body.get("error_code"), "message": body.get("message")}
        code, message = error.get("code") or code, error.get("message") or message
        target, details = error.get("target"), error.get("details") or []
    except (ValueError, AttributeError):
        text = reply.body.decode("utf-8", "replace").strip()
        message = f"{message} {text[:300]}".strip()
    raise CliError(message, exit_code_of(reply.status), code, target, details)


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
