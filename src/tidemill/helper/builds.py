"""Builds of a server without rights: tools that run other people's code, each in a box (boxstart.py) whose
user is nobody else's.

A build is a folder `.tmp-NAME` of the server's in the home's envs/ or images/, and has ids, which are claimed
for it, and control groups `tidemill-build-NAME`. A worker, which is a fork of the helper, gives the folder to
the build's user, runs the tool, ends everything of it, and takes the folder back (not between the tools of
one build, where what they leave has owners). It says how that went on the socket that it has in common with
the server, and ends at once when the server closes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from tidemill.agent import spawn
from tidemill.helper import boxstart, forks, owners
from tidemill.helper.door import Refused
from tidemill.sandbox import cgroups, processes, uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

GROUPS = "tidemill-build-"
PLACES = ("envs", "images")
NAME = re.compile(r"\.tmp-([0-9a-f]{8,64}-[0-9]{1,10})")
_OURS = ("in", "etc")  # of the folder: the build reads them
_MEASURED_S, _DYING_S = 5.0, 20.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Builds:
    """`home` is an absolute path without links, `user` the server's; `reads` what tools must be able to read
    although a folder above it is closed."""

    def __init__(self, home: Path, user: int, reads: list[str]) -> None:
        self._home = home
        self._user = user
        self._reads = reads

    def run(self, place: str, name: str, image: str, order: dict[str, Any]) -> list[int]:
        """One tool. `order` is boxstart's, but for what is decided here, and `keeps`: its folder stays the
        build's; `most_bytes`: that it may hold at a time (0: any). -> descriptors: what the tool says, and
        where the end is told. Raises Refused, OSError."""
        folder, label = self._folder(place, name)
        try:
            ids = uids.claim(f"{self._home}/{place}/{name}")
        except uids.Full as error:
            os.close(folder)
            raise Refused(str(error)) from None
        # What lies in the home belongs to the server: a link there is not followed.
        binds = [(f"{self._home}/{place}/{name}", True, True), (f"{self._home}/envs/.python", False, True)]
        binds += [(path, False, False) for path in self._reads]
        if image:
            binds.append((f"{self._home}/images/{image}", False, True))
        keeps, most = order.pop("keeps"), order.pop("most_bytes")
        whole = {
            **order,
            "foreign": True,
            "uid": ids.first,
            "count": ids.count,
            "relay_uid": ids.relay,
            "binds": binds,
        }
        heard, says = os.pipe()
        work = _Work(folder, label, ids, self._user, says)
        try:
            return [heard, _fork(lambda link: work.run(link, whole, keeps, most), folder, says)]
        finally:
            os.close(says)
            os.close(folder)

    def end(self, place: str, name: str) -> list[int]:
        """What is left of a build: ended, and its folder taken back. -> where the end is told."""
        folder, label = self._folder(place, name)
        ids = uids.claimed(f"{self._home}/{place}/{name}")
        work = _Work(folder, label, ids, self._user, -1)
        try:
            return [_fork(work.end, folder)]
        finally:
            os.close(folder)

    def _folder(self, place: str, name: str) -> tuple[int, str]:
        found = NAME.fullmatch(name)
        if place not in PLACES or not found:
            raise Refused(f"a build is .tmp-NAME in {' or '.join(PLACES)}")
        parent = os.open(f"{self._home}/{place}", _FOLDER)
        try:
            return os.open(name, _FOLDER, dir_fd=parent), f"{GROUPS}{found[1]}"
        finally:
            os.close(parent)


class _Work:
    """In the worker."""

    def __init__(self, folder: int, label: str, ids: uids.Range | None, user: int, says: int) -> None:
        self._folder = folder
        self._label = label
        self._ids = ids
        self._user = user
        self._says = says

    def run(self, link: socket.socket, order: dict[str, Any], keeps: bool, most: int) -> dict[str, Any]:
        assert self._ids is not None
        groups, missing = cgroups.create(self._label)
        cgroups.limit(groups, 0, order["memory"], missing)
        owners.give(self._folder, self._user, self._ids.first, _OURS)
        pid = os.fork()
        if pid == 0:
            self._become_box({**order, "groups": groups.directories()}, link)
        os.close(self._says)
        meter = cgroups.MemoryMeter(groups.paths["memory"]) if "memory" in groups.paths else None
        full = self._watch(pid, link, most)
        code = self._ended(pid)
        oom = meter is not None and meter.oom_kills() > 0
        self._end_groups()
        if not keeps:
            owners.take(self._folder, self._ids, self._user)
        return {"code": code, "oom": oom, "full": full}

    def end(self, link: socket.socket) -> dict[str, Any]:
        self._end_groups()
        if self._ids is not None:
            owners.take(self._folder, self._ids, self._user)
        return {}

    def _become_box(self, order: dict[str, Any], link: socket.socket) -> None:
        code = boxstart.FAILED
        try:
            os.setsid()
            os.dup2(self._says, 1)
            os.dup2(self._says, 2)
            link.close()
            os.close(self._says)
            os.close(self._folder)
            code = boxstart.run(order)
        except Exception as error:
            sys.stderr.write(f"the sandbox of the build could not be made: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _watch(self, pid: int, link: socket.socket, most: int) -> bool:
        """Until the tool ends, or the server is gone. -> whether it was ended for its disk."""
        ended = os.pidfd_open(pid)
        look_at = time.monotonic() + _MEASURED_S
        try:
            while True:
                left = max(0.0, look_at - time.monotonic()) if most else None
                ready, _, _ = select.select([ended, link], [], [], left)
                if ready:
                    return False
                with contextlib.suppress(OSError):
                    if owners.size(self._folder) > most:
                        return True
                look_at = time.monotonic() + _MEASURED_S
        finally:
            os.close(ended)

    def _ended(self, pid: int) -> int:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _end_groups(self) -> None:
        """Nothing of the build runs after this."""
        until = time.monotonic() + _DYING_S
        for directory in cgroups.named(self._label):
            cgroups.kill(directory)
            while not cgroups.remove(directory):
                if time.monotonic() > until:
                    raise TimeoutError(f"{directory} still has processes")
                time.sleep(0.005)
                cgroups.kill(directory)


def _fork(work: Callable[[socket.socket], dict[str, Any]], *keep: int) -> int:
    """Forks a worker away. -> the server's end of the socket on which it will tell how it went."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        if os.fork():
            os._exit(0)
        _become_worker(work, theirs, {theirs.fileno(), *keep})
    theirs.close()
    os.waitpid(pid, 0)  # the worker is a fork of that
    return ours.detach()


def _become_worker(
    work: Callable[[socket.socket], dict[str, Any]], link: socket.socket, keep: set[int]
) -> None:
    try:
        os.setsid()
        spawn.keep_only(keep)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
        forks.rename(["tidemill-build"], {processes.VARIABLE: "-", "PATH": "/usr/bin:/bin"})
        answer = work(link)
    except Exception as error:
        traceback.print_exc()
        answer = {"failed": str(error)}
    try:
        link.send(json.dumps(answer).encode())
    finally:
        os._exit(0)
