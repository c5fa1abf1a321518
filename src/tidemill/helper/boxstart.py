"""The process around a tool that runs in a sandbox: `python -I -S …/boxstart.py`, its order on stdin; or a
fork of the helper (builds.py).

The order: `argv` is bubblewrap's, `env` what it is started with; `groups` are control groups to join. Where
`foreign` is true the tool runs other people's code: a network of its own with a proxy as the only way out
(`egress`, and `own`: [host, port] that the server's settings name), resource limits, and, as root, a user id
of its own (`uid`) that reaches nothing but `binds` (as view.Bind takes them). `builds`: it is root of a user
namespace that has `count` user ids from `uid` on, and may mount there. It ends with the tool's exit code, and
everything ends with it. Nothing but `tidemill.agent` and `tidemill.sandbox` is imported.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - names are resolved by a process that may not read Python's files any more
import ipaddress
import json
import os
import resource
import signal
import socket
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tidemill.agent.egress import Proxy
from tidemill.agent.network import Network
from tidemill.sandbox import bwrap, cgroups, egress, linux, seccomp, view
from tidemill.sandbox.network import Namespace, NotAvailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAILED = 70
_MOST_PROCESSES, _LARGEST_FILE = 2048, 32 << 30


def run(order: dict[str, Any]) -> int:
    """Raises network.NotAvailable, OSError."""
    for group in order["groups"]:
        cgroups.write(f"{group}/cgroup.procs", str(os.getpid()))
    network = None
    if order["foreign"]:
        _first_to_die()
        policy = _policy(order)
        network = Network({}, order["relay_uid"], lambda: Proxy(policy))
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _become_tool(order, network.of(None) if network else None, theirs)
    theirs.close()
    try:
        if order["builds"]:
            _give_ids(ours, pid, order["uid"], order["count"])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        if network is not None:
            network.close()


def _policy(order: dict[str, Any]) -> egress.Policy:
    """What the server's own settings name may be reached wherever it is, and at those ports only."""
    policy = egress.parse(order["egress"])
    for host, port in order["own"]:
        policy.names.append((host, port))
        with contextlib.suppress(OSError):
            for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                policy.networks.append((ipaddress.ip_network(found[4][0]), port))
    return policy


def _first_to_die() -> None:
    """Where the host's memory runs out, before anything that was here already."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _give_ids(tool: socket.socket, pid: int, first: int, count: int) -> None:
    """To the tool's user namespace, as soon as it is in one."""
    if tool.recv(1):
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write(f"0 {first} {count}")
        tool.send(b"x")


def _become_root_of_its_own(starter: socket.socket) -> None:
    linux.unshare(linux.CLONE_NEWUSER)
    starter.send(b"x")
    if not starter.recv(1):
        raise OSError("it was given no user ids")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _become_tool(order: dict[str, Any], space: Namespace | None, starter: socket.socket) -> None:
    try:
        if order["uid"]:
            view.enter([view.Bind(*bind) for bind in order["binds"]])
        if space is not None:
            space.enter()
            _limit(order["memory"])
        if order["builds"]:
            _become_root_of_its_own(starter)
        elif order["uid"]:
            os.setgroups([])
            os.setresgid(order["uid"], order["uid"], order["uid"])
            os.setresuid(order["uid"], order["uid"], order["uid"])
        linux.signal_on_parent_death(signal.SIGKILL)
        rules = os.memfd_create("seccomp")
        os.write(rules, seccomp.program(os.uname().machine, order["builds"]))
        os.lseek(rules, 0, os.SEEK_SET)
        os.dup2(rules, bwrap.FILTER_FD)  # not closed at exec
        os.set_inheritable(bwrap.FILTER_FD, True)
        os.closerange(bwrap.FILTER_FD + 1, 65536)  # the lock of the build among them
        with open("/dev/null") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.chdir("/")
        os.execve(order["argv"][0], order["argv"], order["env"])
    except (OSError, view.NotAllowed) as error:
        sys.stderr.write(f"the sandbox of the build could not be made: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(FAILED)


def _limit(memory: int) -> None:
    """Of each process; the number of processes counts within the namespace's own users."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, _MOST_PROCESSES),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


if __name__ == "__main__":
    try:
        sys.exit(run(json.load(sys.stdin.buffer)))
    except NotAvailable as error:
        sys.exit(f"the sandbox of the build could not be made: no network namespace ({error})")
