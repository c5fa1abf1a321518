"""The real clock and ids, and sockets to listen on."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Sequence

from tidemill.domain.errors import Conflict, InvalidRequest

BACKLOG = 1024
ANY_IPV4, ANY_IPV6 = "0.0.0.0", "::"


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


def listen(
    port: int, flag: str, *, remembered: int = 0, both: bool = True, others: Sequence[str] = ()
) -> list[socket.socket]:
    """Listening sockets on one port of 127.0.0.1, with `both` and where there is IPv6 of ::1, and of the
    addresses in `others`. Port 0: the remembered one if it is free, else any. Raises Conflict naming the flag
    when the port is taken."""
    if not 0 <= port <= 65535:
        raise InvalidRequest(f"{flag} {port} is no port: use 0 (any free one) to 65535.", target=flag)
    if port == 0 and remembered:
        try:
            return _listen(remembered, both, others)
        except OSError:
            pass  # taken meanwhile: any other will do
    for _ in range(8):
        try:
            return _listen(port, both, others)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise Conflict(
                    f"{flag} {port}: not allowed for this user. Use one above 1023 (or, if root starts the "
                    "server, --keep-root).",
                    target=flag,
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


def check_addresses(addresses: Sequence[str]) -> None:
    """Raises Conflict for an address that this machine does not have."""
    for host in addresses:
        try:
            _socket(host, 0).close()
        except OSError as error:
            raise Conflict(
                f"--listen {host}: this machine cannot listen there ({error.strerror}). `ip address` "
                "shows the addresses it has.",
                target="--listen",
            ) from None


def _listen(port: int, both: bool, others: Sequence[str]) -> list[socket.socket]:
    """A wildcard takes the place of the loopback address that it covers."""
    local = ["127.0.0.1"] if ANY_IPV4 not in others else []
    if both and ANY_IPV6 not in others:
        local.append("::1")
    sockets: list[socket.socket] = []
    try:
        for host in (*others, *local):
            try:
                sockets.append(_socket(host, port or (sockets[0].getsockname()[1] if sockets else 0)))
            except OSError as error:
                if host == "::1" and error.errno != errno.EADDRINUSE:
                    continue  # no IPv6 on this machine
                raise
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
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
