"""The real clock and ids, and sockets to listen on."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time

from tidemill.domain.errors import Conflict, InvalidRequest

BACKLOG = 1024


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1000

    def boottime(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class SystemIds:
    """UUIDv7: 48 bits of milliseconds, then 12 bits of their fraction, always above the one before."""

    def __init__(self) -> None:
        self._last = 0

    def uid(self) -> str:
        milliseconds, rest = divmod(time.time_ns(), 1_000_000)
        stamp = (milliseconds << 12) | (rest * 4096 // 1_000_000)
        self._last = stamp = max(stamp, self._last + 1)
        tail = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
        return f"{stamp >> 12:012x}7{stamp & 0xFFF:03x}{tail:016x}"

    def short(self) -> str:
        return secrets.token_hex(3)


def listen(port: int, flag: str, *, remembered: int = 0, both: bool = True) -> list[socket.socket]:
    """Listening sockets on 127.0.0.1 and, with `both` and where there is IPv6, ::1, on one port. Port 0:
    the remembered one if it is free, else any. Raises Conflict naming the flag when the port is taken."""
    if not 0 <= port <= 65535:
        raise InvalidRequest(f"{flag} {port} is no port: use 0 (any free one) to 65535.", target=flag)
    if port == 0 and remembered:
        try:
            return _listen(remembered, both)
        except OSError:
            pass  # taken meanwhile: any other will do
    for _ in range(8):
        try:
            return _listen(port, both)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise Conflict(
                    f"{flag} {port}: not allowed for this user. Use one above 1023.", target=flag
                ) from None
            if error.errno != errno.EADDRINUSE:
                raise
            if port:
                raise Conflict(
                    f"Port {port} is taken by another program. Give another: {flag} PORT, or 0 for any.",
                    "PortInUse",
                    flag,
                ) from None
    raise Conflict(f"No free port was found for {flag}.", "PortInUse", flag)


def _listen(port: int, both: bool) -> list[socket.socket]:
    first = _socket(socket.AF_INET, "127.0.0.1", port)
    if not both:
        return [first]
    try:
        return [first, _socket(socket.AF_INET6, "::1", first.getsockname()[1])]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            first.close()
            raise
        return [first]  # no IPv6 on this machine


def _socket(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return sock
    except BaseException:
        sock.close()
        raise
