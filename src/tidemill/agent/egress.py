"""The HTTP proxy of a node's network: the only way out of it, for what the compute's policy lets through.

A thread per request that is being read and connected; then both sockets go to the relay, which moves bytes.
The name is resolved here, judged, and connected to as the address that was judged.
"""

from __future__ import annotations

import _thread
import os
import socket
import time
from collections import deque
from urllib.parse import urlsplit

from tidemill.sandbox import egress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST_ASKING = 64
HEAD_LIMIT = 32 << 10
HEAD_S, CONNECT_S = 15.0, 10.0
_DROPPED = (b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive", b"host")


class Refused(Exception):
    """`status` is an HTTP one."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Passed:
    """A request that was let through, and what each side is owed before anything else."""

    __slots__ = ("client", "server", "to_client", "to_server")

    def __init__(
        self, client: socket.socket, server: socket.socket, to_client: bytes, to_server: bytes
    ) -> None:
        self.client = client
        self.server = server
        self.to_client = to_client
        self.to_server = to_server


class Proxy:
    """`wake` is readable while `passed` holds something. `resolve` is socket.getaddrinfo, or acts as it."""

    def __init__(self, policy: egress.Policy, resolve: Callable[..., Any] = socket.getaddrinfo) -> None:
        self._policy = policy
        self._resolve = resolve
        self._asking = 0
        self._lock = _thread.allocate_lock()
        self.passed: deque[Passed] = deque()
        self.wake, self._waker = os.pipe()
        os.set_blocking(self.wake, False)

    def take(self, client: socket.socket) -> None:
        with self._lock:
            self._asking += 1
            busy = self._asking > MOST_ASKING
        if busy:
            self._answer(client, 503, "too many requests are being connected")
        else:
            _thread.start_new_thread(self._ask, (client,))

    def _ask(self, client: socket.socket) -> None:
        try:
            passed = self._pass(client)
        except Refused as error:
            self._answer(client, error.status, str(error))
        except (OSError, ValueError):
            self._answer(client, 400, "the request could not be read")
        else:
            self.passed.append(passed)
            with self._lock:
                self._asking -= 1
            os.write(self._waker, b"x")

    def _answer(self, client: socket.socket, status: int, why: str) -> None:
        """The reason stands in the status line: that is what clients show."""
        with self._lock:
            self._asking -= 1
        line = "".join(c if " " <= c <= "~" else "?" for c in why)
        head = f"HTTP/1.1 {status} {line}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        body = f"{line}\n".encode()
        try:
            client.settimeout(CONNECT_S)
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        except OSError:
            pass
        finally:
            client.close()

    def _pass(self, client: socket.socket) -> Passed:
        head, rest = _read_head(client)
        method, target, lines = _parse(head)
        if method == b"CONNECT":
            host, port = _target(target)
            return Passed(client, self._connect(host, port), b"HTTP/1.1 200 Connected\r\n\r\n", rest)
        url = urlsplit(target)
        if url.scheme != "http" or not url.hostname:
            raise Refused(400, f"{target!r} is no http address: this is a proxy (CONNECT for https)")
        request = _direct(method, url.path, url.query, url.netloc.rpartition("@")[2], lines)
        return Passed(client, self._connect(url.hostname, url.port or 80), b"", request + rest)

    def _connect(self, host: str, port: int) -> socket.socket:
        """Raises Refused."""
        why = self._policy.refuses_name(host, port)
        if why:
            raise Refused(403, why)
        try:
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Refused(502, f"{host} could not be resolved: {error.strerror}") from None
        refused = Refused(502, f"{host} has no address")
        for family, _, _, _, address in found:
            why = self._policy.refuses_address(host, port, str(address[0]), _is_own(family, address))
            if why:
                refused = Refused(403, why)
                continue
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(CONNECT_S)
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                refused = Refused(502, f"{host}:{port} cannot be reached: {error.strerror or error}")
        raise refused


def _is_own(family: int, address: tuple[object, ...]) -> bool:
    """Whether the address is this host's: only then may it be bound."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
        return True


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """The request's head, and what came after it. Raises Refused or OSError."""
    deadline = time.monotonic() + HEAD_S
    data = b""
    while b"\r\n\r\n" not in data:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Refused(408, "the request did not come in time")
        if len(data) > HEAD_LIMIT:
            raise Refused(431, "the request's head is too long")
        client.settimeout(left)
        try:
            more = client.recv(8192)
        except TimeoutError:
            continue
        if not more:
            raise Refused(400, "the request ended before its head did")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _parse(head: bytes) -> tuple[bytes, str, list[bytes]]:
    """(method, target, header lines)."""
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[0].isalpha():
        raise Refused(400, "the request line is not one of HTTP/1")
    return words[0], words[1].decode("ascii", "replace"), lines


def _target(text: str) -> tuple[str, int]:
    try:
        return egress.split_target(text)
    except ValueError as error:
        raise Refused(400, str(error)) from None


def _direct(method: bytes, path: str, query: str, authority: str, lines: list[bytes]) -> bytes:
    """The request as its server expects it. One for each connection: another may be for another host."""
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _DROPPED]
    target = (path or "/") + (f"?{query}" if query else "")
    first = b"%s %s HTTP/1.1" % (method, target.encode())
    return b"\r\n".join([first, b"Host: " + authority.encode(), *kept, b"Connection: close", b"", b""])
