"""Joining a sandbox that runs: the namespaces of a process inside it, from a process outside.

Each namespace belongs to a user namespace, and only who has capabilities there may join it. So user
namespaces are walked through from the outermost in, and in each the namespaces that belong to it are joined.
Works for root and for the user that made them.
"""

from __future__ import annotations

import errno
import fcntl
import os

from tidemill.sandbox import linux

_NS_GET_USERNS, _NS_GET_PARENT = 0xB701, 0xB702  # linux/nsfs.h
# The files last: with them /proc becomes that of the sandbox.
_KINDS = {
    "net": linux.CLONE_NEWNET,
    "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS,
    "cgroup": linux.CLONE_NEWCGROUP,
    "pid": linux.CLONE_NEWPID,
    "mnt": linux.CLONE_NEWNS,
}


class Spaces:
    """Descriptors of the namespaces of one process, as far as they are not our own. Raises OSError (it is
    gone)."""

    __slots__ = ("_levels", "_spaces")

    def __init__(self, pid: int, kinds: tuple[str, ...] = tuple(_KINDS)) -> None:
        self._levels: list[int] = []  # user namespaces, the outermost first
        self._spaces: list[tuple[int, int]] = []  # (descriptor, kind)
        try:
            self._open_levels(pid)
            for kind in kinds:
                fd = _open(pid, kind)
                if _same(fd, kind):
                    os.close(fd)
                else:
                    self._spaces.append((fd, _KINDS[kind]))
        except OSError:
            self.close()
            raise

    @property
    def descriptors(self) -> set[int]:
        return {*self._levels, *(fd for fd, _ in self._spaces)}

    def join(self) -> None:
        """Moves this single-threaded process in; a PID namespace counts for its children. It has every
        capability in the innermost user namespace then, if that is not our own."""
        own = os.stat("/proc/self/ns/user").st_ino
        owners = {fd: _inode_of_owner(fd) for fd, _ in self._spaces}
        for level, inode in [(-1, own), *((fd, os.fstat(fd).st_ino) for fd in self._levels)]:
            if level >= 0:
                linux.setns(level, linux.CLONE_NEWUSER)
            for fd, kind in self._spaces:
                if owners[fd] == inode:
                    linux.setns(fd, kind)

    def close(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
        self._levels, self._spaces = [], []

    def _open_levels(self, pid: int) -> None:
        level = _open(pid, "user")
        while not _same(level, "user"):
            self._levels.insert(0, level)
            level = fcntl.ioctl(level, _NS_GET_PARENT)
        os.close(level)


def _open(pid: int, kind: str) -> int:
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def _same(fd: int, kind: str) -> bool:
    return os.fstat(fd).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino


def _inode_of_owner(space: int) -> int:
    """0 where it belongs to a user namespace above ours."""
    try:
        owner = fcntl.ioctl(space, _NS_GET_USERNS)
    except OSError as error:
        if error.errno == errno.EPERM:
            return 0
        raise
    try:
        return os.fstat(owner).st_ino
    finally:
        os.close(owner)
