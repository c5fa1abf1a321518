"""The agent's loop: one epoll over the socket, its clients and SIGCHLD; it sleeps until one of them
speaks."""

from __future__ import annotations

import binascii
import contextlib
import os
import select
import signal
import socket
import time

from tidemill.agent import protocol
from tidemill.agent.files import read_beneath, shorten_beneath
from tidemill.agent.journal import Journal
from tidemill.agent.refused import Refused
from tidemill.agent.tasks import Tasks
from tidemill.sandbox import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tidemill.agent.place import Place
    from tidemill.sandbox.cpuset import CpuSet

MAX_UNREAD = 8 << 20  # of one client that does not read: it is dropped and may come back
READ_LIMIT = 4 << 20
LOG_MOST, LOG_KEPT = 64 << 20, 8 << 20  # bytes of a service's log: it may run for years


class Client:
    __slots__ = ("decoder", "full", "out", "sock", "watching")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = protocol.Decoder()
        self.out = bytearray()
        self.watching = False
        self.full = False  # its socket took no more: we wait until it does


class AgentServer:
    """`hello` is what every client is told: node id, limits, uid. Returns from `serve` after `shutdown`, or
    once its directory has been deleted (`homeless`): it looks every `look_s` seconds. `cpus`: its set of
    processors, None without control groups."""

    def __init__(
        self,
        listener: socket.socket,
        place: Place,
        journal: Journal,
        hello: dict[str, Any],
        look_s: float,
        cpus: CpuSet | None,
    ) -> None:
        self._cpus = cpus
        self._look_s = look_s
        self._looked = time.monotonic()
        self._ending = False
        self.homeless = False
        self._listener = listener
        self._place = place
        self._journal = journal
        self._hello = hello
        self._tasks = Tasks(place, journal, self._broadcast)
        self._clients: dict[int, Client] = {}
        self._unsent: set[Client] = set()
        self._epoll = select.epoll()
        self._closers: list[tuple[Client, Any]] = []  # clients that wait for the answer to shutdown
        self._verbs: dict[str, Callable[[Client, dict[str, Any]], dict[str, Any] | None]] = {
            "hello": lambda client, m: self._hello,
            "start": self._start,
            "stop": self._stop,
            "status": lambda client, m: {"tasks": self._tasks.status()},
            "watch": self._watch,
            "forget": self._forget,
            "read_log": self._read_log,
            "resize": self._resize,
            "park": self._park,
            "wake": self._wake,
            "cpus": self._use_cpus,
            "serve": self._serve,
            "exec": self._exec,
            "dial": self._dial,
            "start_beside": self._start_beside,
            "beside": self._beside,
            "shutdown": self._shutdown,
        }

    def serve(self) -> None:
        wake_reader, wake_writer = os.pipe()
        os.set_blocking(wake_reader, False)
        os.set_blocking(wake_writer, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(wake_reader, select.EPOLLIN)
        self._epoll.register(self._tasks.probes.fileno(), select.EPOLLIN)
        while True:
            pause = self._tasks.tick()
            if not self._ending and self._deleted():
                self.homeless = True
                self._end()
            if self._ending and not self._tasks.busy:
                if self._gone():
                    return self._say_goodbye()
                pause = min(pause or 0.01, 0.01)
            if self._journal.long and self._tasks.quiet:
                with contextlib.suppress(OSError):  # no space: the long one serves as well
                    self._journal.compact([("node", self._hello), *self._tasks.records()])
            for client in self._unsent:
                self._flush(client)
            self._unsent.clear()
            for fd, events in self._epoll.poll(
                (self._look_s if pause is None else min(pause, self._look_s)) + 0.0005
            ):
                if fd == wake_reader:
                    os.read(wake_reader, 4096)
                    self._reap()
                elif fd == self._listener.fileno():
                    self._accept()
                elif fd == self._tasks.probes.fileno():
                    self._tasks.probes.ready()
                elif fd in self._clients:
                    self._client_ready(self._clients[fd], events)

    # --- clients

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        self._clients[sock.fileno()] = Client(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _client_ready(self, client: Client, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush(client)
        if not events & ~select.EPOLLOUT or client.sock.fileno() < 0:
            return
        try:
            data = client.sock.recv(1 << 18)
            messages = client.decoder.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, protocol.ProtocolError):
            messages = None
        if messages is None:
            self._drop(client)
            return
        for message in messages:
            self._serve_one(client, message)

    def _serve_one(self, client: Client, message: dict[str, Any]) -> None:
        verb = self._verbs.get(str(message.get("verb")))
        try:
            if verb is None:
                raise Refused("unknown_verb", f"this agent (protocol {protocol.VERSION}) has no such verb")
            answer = verb(client, message)
        except Refused as error:
            self._send(
                client, {"id": message.get("id"), "error": {"code": error.code, "message": str(error)}}
            )
            return
        except (KeyError, TypeError, ValueError) as error:
            text = f"a malformed {message.get('verb')}: {type(error).__name__} {error}"
            self._send(client, {"id": message.get("id"), "error": {"code": "invalid", "message": text}})
            return
        if answer is not None:
            self._send(client, {"id": message.get("id"), "ok": answer})

    def _send(self, client: Client, message: dict[str, Any]) -> None:
        client.out += protocol.encode(message)
        self._unsent.add(client)  # written at the end of the turn: several messages, one write

    def _flush(self, client: Client) -> None:
        if client.sock.fileno() < 0:
            return
        try:
            while client.out:
                del client.out[: client.sock.send(client.out)]
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(client)
        if len(client.out) > MAX_UNREAD:
            return self._drop(client)
        if client.full != bool(client.out):
            client.full = bool(client.out)
            wanted = select.EPOLLIN | (select.EPOLLOUT if client.full else 0)
            self._epoll.modify(client.sock.fileno(), wanted)

    def _drop(self, client: Client) -> None:
        if client.sock.fileno() >= 0:
            self._tasks.sessions.left(client.sock.fileno())
            del self._clients[client.sock.fileno()]
            client.sock.close()

    def _broadcast(self, event: dict[str, Any]) -> None:
        for client in [c for c in self._clients.values() if c.watching]:
            self._send(client, {"event": event})

    # --- verbs

    def _start(self, client: Client, m: dict[str, Any]) -> dict[str, Any] | None:
        if self._ending:
            raise Refused("closing", f"node {self._place.node_id} is being closed")
        answer = self._tasks.check_start(m)
        if answer is not None:
            return answer
        task, log = self._tasks.intend(m)
        self._send(client, {"id": m.get("id"), "ok": {"state": "running"}})  # the intent is on disk
        self._tasks.launch(task, m, log)
        return None

    def _stop(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        self._tasks.stop(str(m["attempt"]), int(m["rank"]), int(m["epoch"]), str(m["reason"]))
        return {}

    def _watch(self, client: Client, m: dict[str, Any]) -> None:
        self._send(client, {"id": m.get("id"), "ok": {}})
        for event in self._tasks.since(int(m["since"])):
            self._send(client, {"event": event})
        client.watching = True

    def _forget(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        self._tasks.forget(str(m["attempt"]), int(m["rank"]))
        return {}

    def _read_log(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        try:
            limit = min(int(m["limit"]), READ_LIMIT)
            data = read_beneath(self._place.work, str(m["path"]), int(m["offset"]), limit)
        except OSError as error:
            raise Refused("invalid", f"{m['path']!r} cannot be read: {error.strerror}") from None
        return {"data": binascii.b2a_base64(data, newline=False).decode()}

    def _resize(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        missing = {use: line["why_not"] for use, line in self._hello["limits"].items()}
        cpu, memory = int(m["cpu_milli"]), int(m["memory"])
        self._hello["limits"].update(cgroups.limit(self._place.groups, cpu, memory, missing))
        self._tasks.memory = memory
        return {"limits": self._hello["limits"]}

    def _park(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        self._tasks.park()
        return {}

    def _wake(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        self._tasks.wake()
        return {}

    def _use_cpus(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        cpus = sorted(int(cpu) for cpu in m["cpus"])
        if self._cpus is not None:
            self._hello["limits"]["cpus"] = self._cpus.use(cpus)
        self._hello["cpus"] = cpus
        return {"limits": self._hello["limits"], "cpus": cpus}

    def _serve(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        if self._place.network is not None:
            self._place.network.serve({str(name): int(port) for name, port in m["services"].items()})
        return {}

    def _exec(self, client: Client, m: dict[str, Any]) -> None:
        task = self._tasks.running(str(m["attempt"]), int(m["rank"]))
        self._hand_over(client, m, self._tasks.sessions.start(task, m, client.sock.fileno()))

    def _dial(self, client: Client, m: dict[str, Any]) -> None:
        task = self._tasks.running(str(m["attempt"]), int(m["rank"]))
        self._hand_over(client, m, [self._tasks.sessions.dial(task)])

    def _start_beside(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        task = self._tasks.running(str(m["attempt"]), int(m["rank"]))
        if str(m["name"]) not in task.beside:
            self._tasks.sessions.start_beside(task, m, self._tasks.starts.open_log)
        return {}

    def _beside(self, client: Client, m: dict[str, Any]) -> dict[str, Any]:
        return self._tasks.running(str(m["attempt"]), int(m["rank"])).beside

    def _hand_over(self, client: Client, m: dict[str, Any], fds: list[int]) -> None:
        """Answers with descriptors, on a connection that has nothing else to be told."""
        try:
            socket.send_fds(client.sock, [protocol.encode({"id": m.get("id"), "ok": {}})], fds)
        except OSError:
            self._drop(client)
        finally:
            for fd in fds:
                os.close(fd)

    def _shutdown(self, client: Client, m: dict[str, Any]) -> None:
        self._closers.append((client, m.get("id")))
        self._end()

    def _end(self) -> None:
        self._ending = True
        self._tasks.kill_all()

    def _deleted(self) -> bool:
        """Whether the node's directory was deleted: nobody can reach this agent, or read what it writes.
        Looked at now and then, and so are the logs of services."""
        now = time.monotonic()
        if now - self._looked < self._look_s:
            return False
        self._looked = now
        for path in self._tasks.service_logs():
            shorten_beneath(self._place.work, path, LOG_MOST, LOG_KEPT)
        return self._journal.deleted

    # --- children

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._place.network is not None and not self._ending:
                self._place.network.reaped(pid)
            self._tasks.sessions.reaped(pid, status)
            self._tasks.reaped(pid, status)

    def _gone(self) -> bool:
        """Every process of this node is gone, and its groups are removed."""
        if self._place.network is not None:
            self._place.network.close()
        kill = self._place.groups.kill
        if kill and cgroups.populated(kill):
            cgroups.kill(kill)
            return False
        if self._cpus is not None and not self._cpus.remove():
            return False
        if not self._place.runc.close():
            return False
        return all(cgroups.remove(directory) for directory in self._place.groups.directories())

    def _say_goodbye(self) -> None:
        for client, number in self._closers:
            client.sock.setblocking(True)
            self._send(client, {"id": number, "ok": {"gone": True}})
            self._flush(client)
