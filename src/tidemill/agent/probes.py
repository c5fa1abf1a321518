"""Probes of a service: whether a port of its own loopback answers. One connection at a time for each, without
waiting: the agent's loop is told by an epoll of ours which of them has news.

A readiness probe that was never passed is tried every 50 ms, so that a service is ready when it says so; then
every `period_s`. A liveness probe counts from `delay_s` after the start.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from tidemill.agent.clock import boot
from tidemill.agent.probe import Probe
from tidemill.agent.refused import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tidemill.agent.task import Task

MOST_READ = 4096


class Probes:
    """Of one node. `dial` gives a socket in a task's network, not connected (raises Refused); `news` is told
    of a task's probe ("ready" or "live") whose verdict has changed."""

    def __init__(self, dial: Callable[[Task], int], news: Callable[[Task, str, Probe], None]) -> None:
        self._dial = dial
        self._news = news
        self._epoll = select.epoll()
        self._open: dict[int, tuple[Task, str, Probe]] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def begin(self, task: Task, fields: dict[str, Any]) -> None:
        """`fields`: those of the verb `start`, for the process that has just started."""
        self.end(task)
        now = boot()
        task.started = now
        task.probes = {name: Probe(m, now) for name, m in fields.items()}

    def end(self, task: Task) -> None:
        """Its process has ended, or is being ended."""
        for probe in task.probes.values():
            if probe.sock is not None:
                del self._open[probe.sock.fileno()]
                probe.close()
        task.probes = {}

    def tick(self, task: Task, now: float) -> float | None:
        """Does what is due; -> when the next thing is."""
        for name, probe in list(task.probes.items()):
            if probe.sock is not None and probe.deadline <= now:
                self._settle(task, name, probe, False, f"no answer within {probe.timeout_s:g} s")
            elif probe.sock is None and probe.due is not None and probe.due <= now:
                self._ask(task, name, probe)
        return min((p.deadline if p.sock else p.due or now for p in task.probes.values()), default=None)

    def ready(self) -> None:
        """The epoll has news."""
        for fd, _ in self._epoll.poll(0):
            if fd in self._open:
                self._go_on(*self._open[fd])

    def _ask(self, task: Task, name: str, probe: Probe) -> None:
        try:
            sock = socket.socket(fileno=self._dial(task))
        except Refused as error:
            self._settle(task, name, probe, False, str(error))
            return
        sock.setblocking(False)
        probe.sock, probe.sent, probe.answer = sock, False, b""
        probe.deadline = boot() + probe.timeout_s
        self._open[sock.fileno()] = task, name, probe
        code = sock.connect_ex(("127.0.0.1", probe.port))
        if code not in (0, errno.EINPROGRESS):
            self._settle(task, name, probe, False, f"{os.strerror(code)} at port {probe.port}")
            return
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _go_on(self, task: Task, name: str, probe: Probe) -> None:
        assert probe.sock is not None
        try:
            if not probe.sent:
                code = probe.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                if probe.kind == "tcp":
                    return self._settle(task, name, probe, True, "")
                head = f"GET {probe.path} HTTP/1.1\r\nHost: localhost:{probe.port}\r\n"
                probe.sock.send(f"{head}User-Agent: tidemill-probe\r\nConnection: close\r\n\r\n".encode())
                probe.sent = True
                self._epoll.modify(probe.sock.fileno(), select.EPOLLIN)
                return
            data = probe.sock.recv(MOST_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._settle(task, name, probe, False, f"{error.strerror} at port {probe.port}")
            return
        probe.answer += data
        if not data or b"\r\n" in probe.answer or len(probe.answer) >= MOST_READ:
            good, why = _judge(probe)
            self._settle(task, name, probe, good, why)

    def _settle(self, task: Task, name: str, probe: Probe, good: bool, why: str) -> None:
        if probe.sock is not None:
            with contextlib.suppress(OSError):  # it may not be registered yet
                self._epoll.unregister(probe.sock.fileno())
            del self._open[probe.sock.fileno()]
        if probe.result(good, why, boot(), task.started):
            self._news(task, name, probe)


def _judge(probe: Probe) -> tuple[bool, str]:
    words = probe.answer.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return False, f"port {probe.port} does not answer in HTTP/1"
    status = int(words[1])
    return 200 <= status < 400, f"GET {probe.path} answers {status}"
