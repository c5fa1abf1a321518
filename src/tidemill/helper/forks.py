"""Agents as forks of the helper, which has loaded their modules already: that is most of an agent's start.

A fork has the helper's command line and environment, as `ps` and /proc show them. Both are written over in
place, because what a node left running is found by the marker in its environment (sandbox/processes.py).
"""

from __future__ import annotations

import ctypes
import os
import signal

from tidemill.agent import main as agent
from tidemill.sandbox import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Room for what agents are called: a node's directory, and the marker.
ROOM = 600
_AGENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment() -> dict[str, str]:
    """What the helper is to be started with."""
    return {processes.VARIABLE: "-" * ROOM, "PATH": _AGENT_PATH}


def start_agent(node_dir: str, marker: str, log: int) -> int:
    """Forks it away. -> the descriptor from which its word comes: the line `ready`, or why not."""
    said, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_agent(node_dir, marker, log, says)
    os.close(says)
    os.waitpid(pid, 0)  # the agent is a fork of that
    return said


def _become_agent(node_dir: str, marker: str, log: int, says: int) -> NoReturn:
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        for fd, number in ((null, 0), (says, 1), (log, 2)):
            os.dup2(fd, number)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
        os.chdir("/")
        rename(["tidemill-agent", node_dir], {processes.VARIABLE: marker, "PATH": _AGENT_PATH})
        agent.main(node_dir)
    finally:
        os._exit(1)


def rename(argv: list[str], env: dict[str, str]) -> None:
    """Writes over this process's command line and environment, as they were at its exec. Too long a text is
    cut off."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end, env_start, env_end = (int(field) for field in fields[45:49])  # proc_pid_stat(5): 48 to 51
    _write(start, end, [os.fsencode(word) for word in argv])
    _write(env_start, env_end, [os.fsencode(f"{name}={value}") for name, value in env.items()])


def _write(start: int, end: int, words: list[bytes]) -> None:
    room = end - start
    text = b"".join(word + b"\0" for word in words)[: room - 1]
    ctypes.memmove(start, text + bytes(room - len(text)), room)
