"""The agent's side of a node's network: the namespace, its listening sockets, and the relay that serves them.

The relay is a fork of the agent that stays outside the namespace. When it dies it is started anew on the same
sockets; what was connected is lost, what waits to be accepted is not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time

from tidemill.agent import relay
from tidemill.sandbox import linux, network, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tidemill.agent.egress import Proxy


QUICK_S, MOST_QUICK_ENDS = 1.0, 20


class Network:
    """`services`: name -> port of the service now; jobs are told these ports. `uid`: the relay's own (0: the
    agent's). `proxy` makes the way out, in the relay (None: there is none). `home_id`: of whose nodes the
    networks may be used, too. `node_id`: what comes from here has an address of its own. Raises
    network.NotAvailable."""

    def __init__(
        self,
        services: dict[str, int],
        uid: int,
        proxy: Callable[[], Proxy] | None = None,
        home_id: str = "",
        node_id: str = "",
    ) -> None:
        self._uid = uid
        self._source = relay.source_of(home_id, node_id)
        self._home = f"{home_id}/"
        self._proxy = proxy
        self._names = {port: name for name, port in services.items()}  # every port that jobs were ever told
        self._targets = dict(services)
        if proxy is not None:
            self._names[relay.PROXY_PORT] = relay.PROXY
        self._own, self._sockets = network.make(list(self._names), own_user=os.geteuid() != 0)
        self._control: socket.socket | None = None
        self._started = 0.0
        self._quick_ends = 0  # in a row
        self.pid = 0  # of the relay
        if self._names:
            self._start()

    def variables(self) -> dict[str, str]:
        """What tells a job's programs of the way out, if there is one."""
        if self._proxy is None:
            return {}
        address = f"http://127.0.0.1:{relay.PROXY_PORT}"
        found = {"http_proxy": address, "https_proxy": address, "all_proxy": address}
        found["no_proxy"] = "localhost,127.0.0.1,::1"
        return {**found, **{name.upper(): value for name, value in found.items()}}

    def entry(self) -> dict[str, Any]:
        """What another agent needs to start something here."""
        own = self._own
        return {"pid": os.getpid(), "net": own.net, "user": own.user, "inode": own.inode}

    def of(self, entry: dict[str, Any] | None) -> network.Namespace:
        """This node's namespace, or that of another node whose `entry` is given. Raises OSError."""
        if entry is None:
            return self._own
        try:
            if not processes.is_marked(int(entry["pid"]), self._home):
                raise ProcessLookupError
            space = network.shared(**entry)
        except OSError as error:
            raise OSError(error.errno, "the network of the attempt's first node is gone") from None
        if space.inode == os.stat("/proc/self/ns/net").st_ino:
            space.close()
            raise OSError(errno.EPERM, "the host's own network is no node's")
        return space

    def done(self, space: network.Namespace) -> None:
        """What `of` gave is not needed any more."""
        if space is not self._own:
            space.close()

    def serve(self, services: dict[str, int]) -> None:
        """The service listens there now. Ports that jobs were told before keep leading to it."""
        self._targets.update(services)
        new = {port: name for name, port in services.items() if port not in self._names}
        with contextlib.suppress(OSError):  # of what cannot be had now the jobs to come are told the same
            made = network.listen(self._own, list(new)) if new else {}
            for port, sockets in made.items():
                self._names[port] = new[port]
                self._sockets[port] = sockets
                self._tell({"listen": [new[port]] * len(sockets)}, sockets)
        self._tell({"targets": self._targets})

    def reaped(self, pid: int) -> None:
        """A child has ended: was it the relay?"""
        if pid != self.pid:
            return
        quick = time.monotonic() - self._started < QUICK_S
        self._quick_ends = self._quick_ends + 1 if quick else 0
        if self._quick_ends < MOST_QUICK_ENDS:
            return self._start()
        self.pid = 0
        sys.stderr.write("the relay ends as soon as it starts: jobs of this node do not reach the service\n")

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        if self.pid:
            pid, self.pid = self.pid, 0
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _tell(self, order: dict[str, Any], sockets: list[socket.socket] | None = None) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):  # it has just died, and starts again with all of this
                fds = [sock.fileno() for sock in sockets or []]
                socket.send_fds(self._control, [json.dumps(order).encode()], fds)

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listeners = [(sock, self._names[port]) for port, found in self._sockets.items() for sock in found]
        self._started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _become_relay(self._uid, [theirs, *(sock for sock, _ in listeners)])
                made = self._proxy() if self._proxy else None
                relay.main(theirs, listeners, self._targets, made, self._source)
            finally:
                os._exit(70)
        theirs.close()


def _become_relay(uid: int, keep: list[socket.socket]) -> None:
    """In the fork: nothing of the agent's but these sockets."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    lowest = 3
    for fd in sorted(sock.fileno() for sock in keep):
        os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, 65536)
    linux.no_new_privileges()
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.signal_on_parent_death(signal.SIGKILL)
