"""The supervisor's side of connections: accepted, looked at, answered or handed to a worker, taken back.

The supervisor keeps its copy of every descriptor. A connection belongs to whoever reads from it: to the door
(`worker` is None) or to one worker, until that one gives it back, closes it, or dies.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from typing import Callable, Sequence

from . import health, shared
from .http import message
from .shared import Board, Channel

FIRST_BYTES_S = 20.0
LINGER_S = 5.0
HELD_S = 30.0
# Says to a gateway that no code of the user's has seen this request: it may ask another instance.
UNTOUCHED = "x-tidemill-not-ready: 1\r\n"
_ACCEPTED_AT_ONCE = 64
_PEEKED = 4096


class Connection:
    __slots__ = ("deadline", "held", "lingers", "slot", "sock", "worker")

    def __init__(self, sock: socket.socket, slot: int) -> None:
        self.sock = sock
        self.slot = slot
        self.worker: Worker | None = None
        self.deadline = 0.0  # 0: none
        self.held = False
        self.lingers = False


class Worker:
    """A worker as the door sees it."""

    def __init__(self, index: int, channel: Channel) -> None:
        self.index = index
        self.channel = channel
        self.ready = False
        self.connections: dict[int, Connection] = {}


class Door:
    """`workers` are asked for at each handover, `ask` at each question for health."""

    def __init__(
        self,
        listener: socket.socket,
        board: Board,
        poller: Poller,
        workers: Callable[[], Sequence[Worker]],
        ask: Callable[[], health.Health],
        headers: str,
    ) -> None:
        self._listener: socket.socket | None = listener
        self._board = board
        self._poller = poller
        self._workers = workers
        self._ask = ask
        self._headers = headers
        self._free = list(range(shared.MOST_CONNECTIONS - 1, -1, -1))
        self._held: deque[Connection] = deque()
        self.connections: dict[int, Connection] = {}
        poller.register(listener.fileno(), select.EPOLLIN, self._accept)

    def descriptors(self) -> list[int]:
        """What a forked worker has to close."""
        found = [connection.sock.fileno() for connection in self.connections.values()]
        return found if self._listener is None else [*found, self._listener.fileno()]

    # -- coming in

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if self._listener is None:
                return
            try:
                sock, _peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                time.sleep(0.01)  # out of descriptors: some are closed soon
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._free:
                _send(sock, message(503, f"The server holds {len(self.connections)} connections, its limit."))
                sock.close()
                continue
            connection = Connection(sock, self._free.pop())
            self._board.states[connection.slot] = shared.IDLE
            self.connections[connection.slot] = connection
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Edge-triggered: bytes that are only peeked at stay, and shall not wake us again."""
        connection.worker = None
        events = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
        self._poller.register(connection.sock.fileno(), events, lambda events: self._look(connection, events))
        self._look(connection)

    def _look(self, connection: Connection, events: int = 0) -> None:
        ended = events & (select.EPOLLRDHUP | select.EPOLLHUP)
        while not connection.held:
            try:
                data = connection.sock.recv(_PEEKED, socket.MSG_PEEK)
            except BlockingIOError:
                connection.deadline = 0.0
                return
            except OSError:
                return self.close(connection)
            if not data:
                return self.close(connection)
            length = health.look(data)
            if length == health.UNSURE and len(data) < _PEEKED and not ended:
                connection.deadline = connection.deadline or time.monotonic() + FIRST_BYTES_S
                return
            head = health.asks(data[:length]) if length > 0 else None
            if head is None:
                return self._hand_over(connection)
            connection.sock.recv(length)
            connection.deadline = 0.0
            reply = health.answer(head.target, self._ask(), head.keep_alive, self._headers)
            if not _send(connection.sock, reply) or not head.keep_alive:
                return self._linger(connection)

    # -- handing over

    def _hand_over(self, connection: Connection) -> None:
        if self._give(connection):
            return
        health_now = self._ask()
        if not health_now.ready and not health_now.soon:
            return self.refuse(connection, 503, health_now.reason, UNTOUCHED)
        connection.held = True
        # While workers are only busy, how long is worth waiting is the caller's to say.
        connection.deadline = 0.0 if health_now.ready else time.monotonic() + HELD_S
        self._held.append(connection)

    def _give(self, connection: Connection) -> bool:
        busy, slow = self._board.busy, self._board.slow
        ready = [
            w for w in self._workers() if w.ready and not (slow[w.index] and (busy[w.index] or w.connections))
        ]
        for worker in sorted(ready, key=lambda w: (busy[w.index] > 0, len(w.connections))):
            if worker.channel.send(shared.GIVE, connection.slot, descriptor=connection.sock.fileno()):
                self._poller.unregister(connection.sock.fileno())
                connection.worker = worker
                connection.deadline = 0.0
                connection.held = False
                worker.connections[connection.slot] = connection
                return True
        return False

    def hand_over_held(self) -> None:
        """Called when a worker may have room."""
        while self._held:
            connection = self._held[0]
            if connection.held and not self._give(connection):
                return
            self._held.popleft()

    # -- from workers

    def closed_by(self, worker: Worker, slot: int) -> None:
        connection = worker.connections.pop(slot, None)
        if connection is not None:
            self._forget(connection)

    def back_from(self, worker: Worker, slot: int) -> None:
        connection = worker.connections.pop(slot, None)
        if connection is not None:
            self._watch(connection)

    def linger_from(self, worker: Worker, slot: int) -> None:
        connection = worker.connections.pop(slot, None)
        if connection is not None:
            connection.worker = None
            self._linger(connection)

    def died(self, worker: Worker, status: int, reason: str) -> int:
        """Idle connections go on, those that wait for an answer get `reason`. -> how many those are."""
        connections, worker.connections = list(worker.connections.values()), {}
        lost = 0
        for connection in connections:
            state = self._board.states[connection.slot]
            self._board.states[connection.slot] = shared.IDLE
            connection.worker = None
            if state == shared.IDLE:
                self._watch(connection)
                continue
            lost += 1
            if state == shared.ASKED:
                self.refuse(connection, status, reason)
            else:
                self._forget(connection)  # an answer has begun: its end would be a lie
        return lost

    # -- going

    def refuse(self, connection: Connection, status: int, reason: str, headers: str = "") -> None:
        connection.held = False
        _send(connection.sock, message(status, reason, headers=self._headers + headers))
        self._linger(connection)

    def _linger(self, connection: Connection) -> None:
        """Closed only when the peer has read: a close with unread bytes would throw the answer away."""
        connection.lingers = True
        connection.deadline = time.monotonic() + LINGER_S
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return self.close(connection)
        self._poller.register(
            connection.sock.fileno(), select.EPOLLIN, lambda _: self._drop_bytes(connection)
        )

    def _drop_bytes(self, connection: Connection) -> None:
        try:
            for _ in range(16):  # a turn; what is left wakes us again
                if not connection.sock.recv(1 << 16):
                    return self.close(connection)
        except BlockingIOError:
            pass
        except OSError:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        self._poller.unregister(connection.sock.fileno())
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.held = False
        self.connections.pop(connection.slot, None)
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.sock.close()
        self._free.append(connection.slot)

    # -- time

    def waits(self) -> bool:
        """Whether `tick` has something to look at."""
        return any(connection.deadline or connection.worker for connection in self.connections.values())

    def tick(self, now: float) -> None:
        for connection in list(self.connections.values()):
            if not connection.deadline or now < connection.deadline:
                continue
            if connection.held:
                self.refuse(connection, 503, f"No worker took this request within {HELD_S:g} s.", UNTOUCHED)
            elif connection.lingers:
                self.close(connection)
            else:
                self.refuse(connection, 408, f"The request did not arrive within {FIRST_BYTES_S:g} s.")

    def stop_listening(self) -> None:
        """New connections are refused, idle ones closed; those that workers hold are theirs to end."""
        if self._listener is None:
            return
        self._poller.unregister(self._listener.fileno())
        self._listener.close()
        self._listener = None
        for connection in list(self.connections.values()):
            if connection.worker is None and not connection.held and not connection.lingers:
                self.close(connection)


class Poller:
    """epoll with a callback for each descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}

    def register(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def unregister(self, descriptor: int) -> None:
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def run_once(self, timeout: float | None) -> None:
        for descriptor, events in self._epoll.poll(timeout):
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(events)

    def close(self) -> None:
        self._epoll.close()


def _send(sock: socket.socket, data: bytes) -> bool:
    """Short answers only: what does not fit into an empty socket buffer has no reader."""
    try:
        return sock.send(data) == len(data)
    except OSError:
        return False
