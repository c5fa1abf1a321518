"""Tasks in bubblewrap, as the agent sees them: what it starts, what it signals, how it ended.

The agent's child is bubblewrap's own process (`outer`); below it are the init of the job's PID namespace and
the job. A TERM is for the job alone, and what `outer` ends with has to be read back into the job's end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

from tidemill.agent import spawn
from tidemill.sandbox import bwrap, dev, etc, init, processes, seccomp, shown, view

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
        self._dev = ""  # the node's own, where it has one
        if not self.made:
            return
        self._etc = etc_folder
        etc.make(etc_folder, config["node_id"], uid or os.getuid(), uid or os.getgid())
        self._sandbox = bwrap.Sandbox(given["program"], given["options"], etc_folder, config["node_id"])
        machine = os.uname().machine
        self._filter = _held("seccomp", seccomp.program(machine))
        self._init = _held("init", init.program(machine)) if given.get("init") else -1
        if self._init >= 0:
            self._sandbox.init_is_ours()

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
            self._dev = dev_folder

    def put(self, order: spawn.Order, directory: str, spec: dict[str, Any]) -> int:
        """Makes the order one of the same command inside the sandbox. What is `handed` is to be closed, but
        for what is returned: where its init will say how the job ended (-1: it will not)."""
        job = self.job(order.cwd, directory, spec)
        if self._init >= 0:
            order.argv = found(order, job.rootfs)
        order.env, inside = bwrap.apart(order.env)
        order.argv = self._sandbox.command(order.argv, job, inside)
        order.handed[bwrap.FILTER_FD] = _anew(self._filter)
        if self._init < 0:
            return -1
        order.handed[init.INIT_FD] = _anew(self._init)
        order.handed[init.SAID_FD] = said = high(os.memfd_create("said"))
        return said

    def job(self, cwd: str, directory: str, spec: dict[str, Any]) -> shown.Job:
        return shown.Job(
            directory,
            spec.get("chdir") or cwd,
            spec.get("rootfs", ""),
            spec.get("read_only"),
            spec.get("devices"),
            shown_at=[(str(source), str(target)) for source, target in spec.get("shown_at") or ()],
            writable_at=[(str(source), str(target)) for source, target in spec.get("writable_at") or ()],
        )

    @property
    def lacking(self) -> str:
        """Why others than bubblewrap cannot show what is shown here, or ""."""
        if not self.made:
            return f"bubblewrap: {self.why_not}"
        if self._init < 0:
            return f"an init of ours for this machine ({os.uname().machine})"
        return "" if self._dev else "device files of the node's own: this host let none be made"

    def entries(self, job: shown.Job) -> list[shown.Entry]:
        """All that it is shown, but for /proc, where nothing is `lacking`."""
        root = shown.image_root(job, self._etc) if job.rootfs else shown.host_root(self._etc, whole=True)
        own_dev = [(shown.DEVICE, self._dev, "/dev"), (shown.FRESH, "", "/dev/shm")]
        return [*root, *shown.fresh(), *own_dev, *shown.files(job)]


def found(order: spawn.Order, rootfs: str) -> list[str]:
    """Its command, with the place of its program inside. Raises Failed."""
    name = order.argv[0]
    if "/" in name:
        return order.argv
    for folder in order.env.get("PATH", os.defpath).split(os.pathsep):
        if folder.startswith("/") and os.path.lexists(f"{rootfs}{folder}/{name}"):
            return [f"{folder}/{name}", *order.argv[1:]]
    raise spawn.Failed(f"could not run {name!r}: no program of that name is on its PATH")


def _held(name: str, content: bytes) -> int:
    fd = os.memfd_create(name)
    os.write(fd, content)
    return fd


def _anew(fd: int) -> int:
    """Open once more, with an offset of its own."""
    return high(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))


def high(fd: int) -> int:
    """The same, with a number that nothing is handed over as."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(fd)


def terminate(pids: list[int], outer: int, number: int = signal.SIGTERM) -> None:
    """TERM to the job's processes, given all that belong to the task. bubblewrap's own would take the job
    down without asking it; its init ignores signals, so a job that is not there yet goes with `outer`, which
    gets `number`."""
    inside = [pid for pid in pids if pid != outer]
    not_there_yet = all(processes.is_init(pid) for pid in inside)  # before it is asked: it may end at once
    processes.kill(inside, signal.SIGTERM)
    if not_there_yet:
        processes.kill([outer], number)


def decode(exit_code: int | None, number: int | None, said: int) -> tuple[int | None, int | None, str]:
    """(exit code, signal, why its program could not be run or "") of the job. Its init has said on `said`
    what killed it; without one of ours (-1), bubblewrap's reports a death by signal N as 128 + N."""
    if said < 0 and exit_code is not None and exit_code - 128 in _SIGNALS:
        return None, exit_code - 128, ""
    killed_by, problem = init.heard(said) if said >= 0 else (None, 0)
    if problem:
        return exit_code, number, os.strerror(problem)
    return (None, killed_by, "") if killed_by else (exit_code, number, "")


def failure(log_end: bytes) -> str:
    """Why bubblewrap could not run the job, if that is what the log ends with; else ""."""
    last = log_end.decode(errors="replace").rstrip("\n").rpartition("\n")[2]
    return last.removeprefix("bwrap: ") if last.startswith("bwrap: ") else ""
