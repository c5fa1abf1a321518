"""A node's own network: a namespace that holds a loopback and nothing else.

No route leads out of it, so nothing has to be forbidden: what is not listening inside cannot be reached. What
a job may reach is a listening socket made here and served by a process outside (`agent/relay.py`); a socket
belongs to the namespace it was made in, whoever holds it.

As root the namespace belongs to the host's user namespace, so that nobody inside has a capability over it.
Without root it needs a user namespace of its own, and whoever enters the one enters both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct

from tidemill.sandbox import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("16sH22x")
_BACKLOG = 128
_MOST_FDS = 64  # ports of one call, twice, and the namespaces


class NotAvailable(Exception):
    """This host gives no network namespace; the text says what it refused."""


class Namespace:
    """Descriptors. `user` is -1 where the namespace can be entered without one. `inode` tells namespaces
    apart."""

    __slots__ = ("inode", "net", "user")

    def __init__(self, net: int, user: int) -> None:
        self.net = net
        self.user = user
        self.inode = os.fstat(net).st_ino

    def enter(self) -> None:
        """Moves this (single-threaded) process; with a user namespace there is no way back."""
        if self.user >= 0:
            linux.setns(self.user, linux.CLONE_NEWUSER)
        linux.setns(self.net, linux.CLONE_NEWNET)

    def close(self) -> None:
        for fd in (self.net, self.user):
            if fd >= 0:
                os.close(fd)


def make(ports: list[int], own_user: bool) -> tuple[Namespace, dict[int, list[socket.socket]]]:
    """A new one, and sockets that listen at these ports of its loopbacks. `own_user`: in a user namespace of
    its own, which needs no root. Raises NotAvailable."""

    def inside() -> None:
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(linux.CLONE_NEWNET | (linux.CLONE_NEWUSER if own_user else 0))
        if own_user:
            for file, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                _write(f"/proc/self/{file}", text)
        _raise_loopback()

    try:
        found, spaces = _in_a_child(inside, ports)
    except OSError as error:
        raise NotAvailable(str(error)) from None
    if not own_user:
        os.close(spaces[1])
    return Namespace(spaces[0], spaces[1] if own_user else -1), found


def listen(space: Namespace, ports: list[int]) -> dict[int, list[socket.socket]]:
    """More listening sockets in a namespace. Ports that are taken there are left out. Raises OSError."""
    found, spaces = _in_a_child(space.enter, ports)
    for fd in spaces:
        os.close(fd)
    return found


def shared(pid: int, net: int, user: int, inode: int) -> Namespace:
    """The namespace that another agent holds as these descriptors. Raises OSError where it does not."""
    fds = [
        os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC) if fd >= 0 else -1 for fd in (net, user)
    ]
    space = Namespace(*fds)
    if space.inode != inode:  # the pid, or the descriptor, is another's by now
        space.close()
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return space


def _in_a_child(
    inside: Callable[[], None], ports: list[int]
) -> tuple[dict[int, list[socket.socket]], list[int]]:
    """Runs `inside` in a fork, and there makes the sockets. -> them, and its network and user namespaces."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            _serve_child(inside, ports, theirs)
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        said, fds, _, _ = socket.recv_fds(ours, 65536, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    os.waitpid(pid, 0)
    answer = json.loads(said or b'[5, "it ended without a word"]')
    if not fds:
        raise OSError(*answer)
    found: dict[int, list[socket.socket]] = {}
    for port, fd in zip(answer, fds[2:], strict=True):
        found.setdefault(port, []).append(socket.socket(fileno=fd))
    return found, list(fds[:2])


def _serve_child(inside: Callable[[], None], ports: list[int], answer: socket.socket) -> None:
    try:
        inside()
        sockets = [(port, made) for port in ports for made in _listeners(port)]
        spaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "user")]
        fds = [*spaces, *(made.fileno() for _, made in sockets)]
        socket.send_fds(answer, [json.dumps([port for port, _ in sockets]).encode()], fds)
    except OSError as error:
        answer.send(json.dumps([error.errno, error.strerror or str(error)]).encode())


def _listeners(port: int) -> list[socket.socket]:
    """On both loopbacks, as far as there are two. None where a job has taken the port."""
    made: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            made.append(sock)
    return made


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _, flags = _IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _UP))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
