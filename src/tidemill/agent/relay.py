"""The process that serves a node's listening sockets from outside its network: bytes to the service and back.

One epoll, no thread; it sleeps until a socket speaks. A connection for which the service is not there yet (it
restarts) is held and tried again for HOLD_S seconds. A slow reader stops the other side's reading; an end of
one direction is passed on while the other goes on. It ends when its agent does.

Its connections come from an address of the node's own in 127.64.0.0/10, so that the service can tell nodes
from each other and from whoever else is on this host.

Orders come as datagrams on `control`: {"targets": {name: port}} says where the service listens now;
{"listen": [name, ...]} brings as many listening sockets along.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import os
import resource
import select
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tidemill.agent.egress import Proxy

HOLD_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
CHUNK = 256 << 10  # bytes held for one direction at most, twice
PROXY, PROXY_PORT = "proxy", 3128  # no name of the service's
MOST = 1000  # connections at once; more wait to be accepted

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_HERE = "127.0.0.1"
_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen at connect, so all nodes have all of them


class End:
    """One socket of a pair. `out` is what it has not taken yet; `eof` that it says no more; `shut` that it
    was told the other says no more. `plan` (of a client whose service is not connected yet): its name, and
    since when it is tried."""

    __slots__ = ("connecting", "eof", "events", "out", "peer", "plan", "shut", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.peer: End | None = None
        self.plan: tuple[str, float] = ("", 0.0)
        self.out = bytearray()
        self.eof = False
        self.shut = False
        self.connecting = False
        self.events = 0


class Relay:
    """`listeners`: (socket, name of what is reached through it). What comes in under the name PROXY is left
    to `proxy`, until it is connected. `source`: the address that connections to the service come from."""

    def __init__(
        self,
        control: socket.socket,
        listeners: list[tuple[socket.socket, str]],
        targets: dict[str, int],
        proxy: Proxy | None = None,
        source: str = _HERE,
    ) -> None:
        self._proxy = proxy
        self._source = source
        self._control = control
        self._control.setblocking(False)
        self._targets = targets
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, str]] = {}
        self._accepting = True
        self._ends: dict[int, End] = {}
        self._waiting: list[tuple[float, int, End]] = []  # when to try again, tie-break, client
        self._number = 0
        self._most = min(MOST, (_raise_descriptors() - 64) // 2)
        self._epoll.register(control.fileno(), select.EPOLLIN)
        if proxy is not None:
            self._epoll.register(proxy.wake, select.EPOLLIN)
        for listener in listeners:
            self._add(*listener)

    def serve(self) -> None:
        """Until the other end of `control` is closed."""
        while True:
            pause = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            for fd, events in self._epoll.poll(pause):
                if fd == self._control.fileno():
                    if not self._obey():
                        return
                elif self._proxy is not None and fd == self._proxy.wake:
                    self._join(self._proxy)
                elif fd in self._listeners:
                    self._accept(*self._listeners[fd])
                elif fd in self._ends:
                    self._ready(self._ends[fd], events)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._connect(heapq.heappop(self._waiting)[2])
            self._pace()

    # --- orders

    def _obey(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, 65536, 64, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        order: dict[str, Any] = json.loads(data)
        self._targets.update(order.get("targets", {}))
        for name, fd in zip(order.get("listen", []), fds, strict=True):
            self._add(socket.socket(fileno=fd), name)
        return True

    def _add(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        self._listeners[sock.fileno()] = (sock, name)
        if self._accepting:
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    # --- connections

    def _accept(self, listener: socket.socket, name: str) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # it is gone again; or we have no descriptor left: `_pace` waits for one
            return
        if self._proxy is not None and name == PROXY:
            return self._proxy.take(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = End(sock)
        self._ends[sock.fileno()] = client
        client.plan = (name, time.monotonic())
        self._connect(client)

    def _connect(self, client: End) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._source, 0))
        sock.connect_ex((_HERE, self._targets[client.plan[0]]))
        server = End(sock)
        server.connecting = True
        server.peer, client.peer = client, server
        self._ends[sock.fileno()] = server
        self._watch(server)

    def _join(self, proxy: Proxy) -> None:
        """Takes over what the proxy has connected."""
        with contextlib.suppress(BlockingIOError):
            os.read(proxy.wake, 4096)
        while proxy.passed:
            passed = proxy.passed.popleft()
            client, server = End(passed.client), End(passed.server)
            client.peer, server.peer = server, client
            client.out += passed.to_client
            server.out += passed.to_server
            for end in (client, server):
                end.sock.setblocking(False)
                self._ends[end.sock.fileno()] = end
            self._watch(client)
            self._watch(server)

    def _ready(self, end: End, events: int) -> None:
        if end.connecting:
            return self._connected(end)
        if events & select.EPOLLOUT and not self._flush(end):
            return
        if events & ~select.EPOLLOUT:
            self._read(end)

    def _connected(self, server: End) -> None:
        client = server.peer
        assert client is not None
        if server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            server.connecting = False
            self._watch(server)
            self._watch(client)
            return
        self._forget(server)
        server.sock.close()
        client.peer = None
        now = time.monotonic()
        tried = now - client.plan[1]
        if tried >= HOLD_S:
            return self._abort(client)
        self._number += 1
        pause = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, tried))
        heapq.heappush(self._waiting, (now + pause, self._number, client))

    def _read(self, end: End) -> None:
        peer = end.peer
        assert peer is not None
        try:
            data = end.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            return self._abort(end)
        if not data:
            end.eof = True
        elif peer.out:
            peer.out += data
        else:
            try:
                sent = peer.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return self._abort(peer)
            if sent == len(data):
                return  # nothing is held, and nothing changes
            peer.out += memoryview(data)[sent:]
        self._flush(peer)

    def _flush(self, end: End) -> bool:
        """Writes what it takes. False when the pair is gone."""
        peer = end.peer
        assert peer is not None
        try:
            while end.out:
                del end.out[: end.sock.send(end.out)]
            if peer.eof and not end.shut:
                end.shut = True
                end.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._abort(end)
            return False
        if end.shut and peer.shut:
            self._close(end)
            return False
        self._watch(end)
        self._watch(peer)
        return True

    # --- pieces

    def _watch(self, end: End) -> None:
        """Asks epoll for what this end can act on only: the rest would be told again and again."""
        peer = end.peer
        wanted = 0
        if end.connecting or end.out:
            wanted |= select.EPOLLOUT
        if not end.connecting and not end.eof and peer and not peer.connecting and len(peer.out) < CHUNK:
            wanted |= select.EPOLLIN
        if wanted == end.events:
            return
        fd = end.sock.fileno()
        if not end.events:
            self._epoll.register(fd, wanted)
        elif wanted:
            self._epoll.modify(fd, wanted)
        else:
            self._epoll.unregister(fd)
        end.events = wanted

    def _forget(self, end: End) -> None:
        if end.events:
            self._epoll.unregister(end.sock.fileno())
            end.events = 0
        self._ends.pop(end.sock.fileno(), None)

    def _abort(self, end: End) -> None:
        """Both ends, with a reset: neither may take what came so far for the whole."""
        for one in (end, end.peer):
            if one is not None and one.sock.fileno() >= 0:
                one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close(end)

    def _close(self, end: End) -> None:
        for one in (end, end.peer):
            if one is not None and one.sock.fileno() >= 0:
                self._forget(one)
                one.sock.close()

    def _pace(self) -> None:
        """Stops accepting while there are too many connections."""
        wanted = len(self._ends) < 2 * self._most
        if wanted != self._accepting:
            self._accepting = wanted
            for fd in self._listeners:
                if wanted:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)


def source_of(home_id: str, node_id: str) -> str:
    """A node's own loopback address, in 127.64.0.0/10 (domain/signin.py knows the range)."""
    number = int.from_bytes(hashlib.sha256(f"{home_id}/{node_id}".encode()).digest()[:3], "big") % (1 << 22)
    return socket.inet_ntoa(struct.pack("!I", (127 << 24 | 64 << 16) + number))


def _raise_descriptors() -> int:
    """To what this process may have at most -> that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def main(
    control: socket.socket,
    listeners: list[tuple[socket.socket, str]],
    targets: dict[str, int],
    proxy: Proxy | None,
    source: str,
) -> None:
    """In a fork of the agent, which never returns."""
    try:
        Relay(control, listeners, targets, proxy, source).serve()
    finally:
        os._exit(0)
