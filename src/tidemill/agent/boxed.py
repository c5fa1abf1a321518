"""Tasks in bubblewrap, as the agent sees them: what it starts, what it signals, how it ended.

The agent's child is bubblewrap's own process (`outer`); below it are the init of the job's PID namespace and
the job. A TERM is for the job alone, and what `outer` ends with has to be read back into the job's end.
"""

from __future__ import annotations

import contextlib
import os
import signal

from tidemill.agent import spawn
from tidemill.sandbox import bwrap, dev, etc, processes, seccomp, view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIGNALS = range(1, 32)  # of those that mean something; a code above is a code
TAIL = 2000  # bytes of a log that hold its last line, if that is one of bubblewrap


class Box:
    """One node's sandbox. `made` is False where there is none; `why_not` then says why."""

    def __init__(self, config: dict[str, Any], etc_folder: str, uid: int) -> None:
        given: dict[str, Any] = config.get("sandbox") or {
            "program": "",
            "why_not": "its server is of an earlier version",
        }
        self.why_not: str = given["why_not"]
        self.made = bool(given["program"])
        if not self.made:
            return
        self._etc = etc_folder
        etc.make(etc_folder, config["node_id"], uid or os.getuid(), uid or os.getgid())
        self._sandbox = bwrap.Sandbox(given["program"], given["options"], etc_folder, config["node_id"])
        self._filter = os.memfd_create("seccomp")
        os.write(self._filter, seccomp.program(os.uname().machine))

    def lay(self, dev_folder: str) -> None:
        """In the agent's own view, as root: what every job is shown of the host's /etc, and its /dev, are
        mounted once."""
        if not self.made:
            return
        for name in etc.folders():
            view.lay(f"/etc/{name}", f"{self._etc}/{name}")
        self._sandbox.etc_is_whole()
        with contextlib.suppress(OSError):  # no device files here: bubblewrap binds the host's for each job
            dev.make(dev_folder)
            self._sandbox.dev_is_made(dev_folder)

    def put(self, order: spawn.Order, directory: str, spec: dict[str, Any]) -> None:
        """Makes the order one of the same command inside the sandbox. Its `filter` is to be closed."""
        job = bwrap.Job(
            directory, order.cwd, spec.get("rootfs", ""), spec.get("read_only"), spec.get("devices")
        )
        order.env, inside = bwrap.apart(order.env)
        order.argv = self._sandbox.command(order.argv, job, inside)
        order.filter = os.open(f"/proc/self/fd/{self._filter}", os.O_RDONLY)  # an offset of its own


def terminate(pids: list[int], outer: int) -> None:
    """TERM to the job's processes, given all that belong to the task. bubblewrap's own would take the job
    down without asking it; its init ignores signals, so a job that is not there yet goes with `outer`."""
    inside = [pid for pid in pids if pid != outer]
    processes.kill(inside, signal.SIGTERM)
    if all(processes.is_init(pid) for pid in inside):
        processes.kill([outer], signal.SIGTERM)


def decode(exit_code: int | None, number: int | None) -> tuple[int | None, int | None]:
    """(exit code, signal) of the job: bubblewrap reports a death by signal N as 128 + N, as shells do."""
    if exit_code is not None and exit_code - 128 in _SIGNALS:
        return None, exit_code - 128
    return exit_code, number


def failure(log_end: bytes) -> str:
    """Why bubblewrap could not run the job, if that is what the log ends with; else ""."""
    last = log_end.decode(errors="replace").rstrip("\n").rpartition("\n")[2]
    return last.removeprefix("bwrap: ") if last.startswith("bwrap: ") else ""
