"""The helper's socket: one JSON datagram is a request, one is its answer, with the descriptors that go with
it.

Only the home's user is heard, by what the kernel says of the other end. No verb takes a path or a user; the
one that takes a command runs it as a user that is nobody else's, in a box. Whatever is not exactly what a
verb takes is refused, and descriptors that come along are closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_BYTES = 64 << 10
PATIENCE_S = 2.0  # for a request to come, once somebody is at the door
_MOST_FDS = 64
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MOST = 1 << 50  # of any number


class Refused(Exception):
    """What was asked for is not done; the text says why."""


class Caller:
    """Who asks: `pid` and `uid` as of the moment that it connected."""

    __slots__ = ("pid", "uid")

    def __init__(self, link: socket.socket) -> None:
        raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        self.pid, self.uid, _ = _PEER.unpack(raw)


def receive(link: socket.socket) -> dict[str, Any]:
    """One request. Raises Refused, OSError, or EOFError where none came."""
    link.settimeout(PATIENCE_S)
    data, ancillary, flags, _ = link.recvmsg(MOST_BYTES + 1, socket.CMSG_SPACE(_MOST_FDS * 4))
    taken = _close_all(ancillary)
    if not data and not taken:
        raise EOFError
    if taken or flags & socket.MSG_CTRUNC:
        raise Refused("descriptors came with it, and no verb takes any")
    if len(data) > MOST_BYTES or flags & socket.MSG_TRUNC:
        raise Refused(f"it has more than {MOST_BYTES} bytes")
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("it is no JSON") from None
    if not isinstance(request, dict):
        raise Refused("it is no JSON object")
    return request


def answer(link: socket.socket, body: dict[str, Any], fds: list[int] | None = None) -> None:
    """Sends it and closes the descriptors. A caller that is gone needs none."""
    try:
        with contextlib.suppress(OSError):
            socket.send_fds(link, [json.dumps(body).encode()], fds or [])
    finally:
        for fd in fds or []:
            os.close(fd)


def _close_all(ancillary: list[tuple[int, int, bytes]]) -> bool:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            for (fd,) in struct.iter_unpack("i", data[: len(data) // 4 * 4]):
                os.close(fd)
    return bool(ancillary)


# --- the fields of requests: each returns what it was given, or raises Refused


def exactly(request: dict[str, Any], *names: str) -> None:
    unknown, missing = sorted(request.keys() - set(names)), sorted(set(names) - request.keys())
    if unknown or missing:
        raise Refused(f"fields {unknown} are not known, fields {missing} are missing")


def node_id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Refused("a node id has letters, digits, - _ and ., at most 200 of them")
    return value


def number(value: Any, least: int = 0, most: int = _MOST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(f"a whole number from {least} to {most} is wanted")
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused("true or false is wanted")
    return value


def text(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise Refused(f"a printable text of at most {most} characters is wanted")
    return value


def names(value: Any, most: int) -> list[str]:
    if not isinstance(value, list) or len(value) > most:  # pyright: ignore[reportUnknownArgumentType]
        raise Refused(f"a list of at most {most} names is wanted")
    found: list[Any] = value
    if not all(isinstance(name, str) and _ID.fullmatch(name) for name in found):
        raise Refused("a name has letters, digits, - _ and .")
    return found


def ports(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > 16:  # pyright: ignore[reportUnknownArgumentType]
        raise Refused("at most 16 ports by name are wanted")
    given: dict[str, Any] = value
    if not all(_NAME.fullmatch(name) for name in given):
        raise Refused("a name of a port has letters, digits, - _ and .")
    return {name: number(port, 1, 65535) for name, port in given.items()}


def words(value: Any) -> list[str]:
    """Of a command."""
    if not isinstance(value, list) or not 1 <= len(value) <= 1000:  # pyright: ignore[reportUnknownArgumentType]
        raise Refused("a command of 1 to 1000 words is wanted")
    found: list[Any] = value
    if not all(isinstance(word, str) and "\0" not in word for word in found):
        raise Refused("the words of a command are texts")
    return found


def environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 500:  # pyright: ignore[reportUnknownArgumentType]
        raise Refused("at most 500 variables are wanted")
    given: dict[str, Any] = value
    for name, text_ in given.items():
        if not name or "=" in name or "\0" in name or not isinstance(text_, str) or "\0" in text_:
            raise Refused("a variable is a text, and its name has no =")
    return given


def hosts(value: Any) -> list[tuple[str, int]]:
    if not isinstance(value, list) or len(value) > 100:  # pyright: ignore[reportUnknownArgumentType]
        raise Refused("at most 100 hosts are wanted")
    pairs: list[Any] = value
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):  # pyright: ignore[reportUnknownArgumentType]
        raise Refused("a host is its name and a port")
    return [(text(host, 255), number(port, 1, 65535)) for host, port in pairs]
