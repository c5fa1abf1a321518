"""Input that no honest client sends, and a client that sends it as it is."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tidemill.wire.http import UPGRADE

SEGMENTS = (
    "..",
    ".",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cwindows",
    "%252e%252e%252f",
    "a%2fb",
    "%2f",
    "%00",
    "a%00b",
    "%c0%ae%c0%ae%c0%af",  # "../" in overlong UTF-8
    "%ff%fe",
    "%ed%a0%80",  # half of a surrogate pair
    "a%0d%0aX-Evil:%201",
    "%",
    "%zz",
    "A" * 10_240,
    "%41" * 3_000,
    "%F0%9F%92%A9",
    "e%CC%81",
    "%E2%80%AE%E2%80%8B",  # right-to-left override, zero width
    "%27%20OR%201=1--",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "$%7B%7Bx%7D%7D",
    "*",
    "@",
    "~",
    "-x",
    "null",
    "0",
    "-1",
    "99999999999999999999",
    "%20",
    "%7f",
)
DEEP = b'{"properties":' * 20_000 + b"1" + b"}" * 20_000
BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"123",
    b'"x"',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    DEEP,
    b'{"a":{"b":{"c":{}}},"properties":{"properties":{"properties":{}}}}',
    b'{"properties":{},"properties":null}',
    b'{"properties":{"description":"a","description":["b"]}}',
    b'{"properties":NaN}',
    b'{"properties":{"command":Infinity}}',
    b'{"properties":1e999}',
    b'{"limit":' + b"9" * 5_000 + b"}",
    b'{"properties":"x"}',
    b'{"properties":[]}',
    b'{"properties":null}',
    b'{"properties":{}}',
    b'{"properties":{"a":"\\ud800"},"tags":{"\\ud800":"\\udfff"}}',
    b'{"tags":[],"location":{},"identity":7,"name":{"a":1}}',
    b"a=1&b=%ff&c",
    b"--x\r\nContent-Disposition: form-data\r\n\r\n",
)
TYPES = (
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "",
    "\xe9/\xe9",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**62,
    2**63,
    -(2**70),
    1e308,
    0.5,
    "",
    "x" * 20_000,
    "../../etc/passwd",
    "a\x00b",
    "\u202e\U0001f4a9",
    "${{inputs.x}}",
    "azureml:../x@latest",
    "azureml://datastores/../paths/..%2f..",
    "/subscriptions/x/resourceGroups/y",
    "http://[::1",
    "http://localhost:99999/x",
    "https://",
    "PT" + "9" * 400 + "S",
    "9999-99-99T99:99:99Z",
    [],
    [[]],
    [None],
    {},
    {"": None},
    {"a": {"a": {"a": []}}},
    {"x" * 3_000: "y"},
)
LEAKS = (
    b"Traceback (most",
    b'File "/',
    b"site-packages",
    b"/src/tidemill/",
    b"sqlite3.",
    b"SELECT ",
    b"0x7f",
)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


# RFC 6455, 4.1
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class RawClient:
    """Keeps one connection; a request line is sent exactly as given."""

    def __init__(
        self, port: int, headers: Mapping[str, str], *, tls: Any = None, timeout: float = 60.0
    ) -> None:
        self._port, self._tls, self._timeout = port, tls, timeout
        self._headers = headers
        self._socket: socket.socket | None = None

    def connect(self) -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self._port), self._timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(raw, server_hostname="localhost") if self._tls else raw

    def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Raises OSError or HTTPException where the server says nothing that is HTTP."""
        said = {"Host": f"localhost:{self._port}", **self._headers, **(headers or {})}
        if method == UPGRADE:
            method, body = "GET", None
            said |= HANDSHAKE
        if body is not None:
            said["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items())]
        raw = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
        for fresh in (False, True):
            if self._socket is None or fresh:
                self.close()
                self._socket = self.connect()
            with suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(raw)  # refused before it was read whole: the answer is there
            try:
                return self._read(method)
            except (http.client.RemoteDisconnected, ConnectionResetError):
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def _read(self, method: str) -> Reply:
        assert self._socket is not None
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        body = response.read()
        if response.will_close:
            self.close()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, body)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def problem(reply: Reply, path: str) -> str:
    """What is wrong with an answer; "" for nothing."""
    if reply.status >= 500:
        return f"status {reply.status}"
    if reply.status < 400:
        return ""
    if len(reply.body) > 100_000:
        return f"an error of {len(reply.body)} bytes"
    if any(leak in reply.body for leak in LEAKS):
        return "it shows its insides"
    if "x-evil" in reply.headers:
        return "a header was injected"
    if reply.headers.get("content-type", "").startswith("application/json") and reply.body:
        return _error_shape(reply, path)
    return ""


def _error_shape(reply: Reply, path: str) -> str:
    try:
        said = json.loads(reply.body)
    except ValueError:
        return "an error that is not JSON"
    if "error_code" in said or "OAuth" in said or isinstance(said.get("error"), str):
        return ""  # MLflow's and OAuth's own shapes
    error = said.get("error")
    if not isinstance(error, dict) or not error.get("code") or not error.get("message"):
        return f"not ARM's shape: {reply.body[:200]!r}"
    return ""


def variables(path: str) -> list[str]:
    return re.findall(r"{(\w+)(?::path)?}", path)


def filled(path: str, values: Mapping[str, str]) -> str:
    return re.sub(r"{(\w+)(?::path)?}", lambda found: values[found[1]], path)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, from the inside out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*at, index))
    yield at


def put_at(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at one place."""
    if not at:
        return new
    if not isinstance(value, dict | list):
        return value  # another change took the place away
    copied = value.copy()
    if isinstance(copied, list) and not (isinstance(at[0], int) and at[0] < len(copied)):
        return value
    if isinstance(copied, dict) and at[0] not in copied:
        return value
    copied[at[0]] = put_at(copied[at[0]], at[1:], new)
    return copied
