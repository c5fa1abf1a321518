"""A node's files for the server of its home: in the server's own mount namespace, at the path that the node's
jobs know them by, lies an idmapped clone of the node's work directory, on which what is the job's on disk is
the server's.

So a server without rights stages, collects and removes as one that runs as its jobs do, and no root walks a
tree that a job may be changing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tidemill.helper.door import Caller, Refused
from tidemill.sandbox import idmap, linux
from tidemill.sandbox.uids import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def show(work: Path, claimed: Range | None, user: int, caller: Caller) -> None:
    """Nothing where it is there already. Raises Refused, OSError."""
    if claimed is None:
        raise Refused("the node has no user ids of its own")
    directory = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _keep(directory, claimed)
        with _Place(caller, user) as place:
            if place.enter_and_look(str(work), directory):
                return
            pairs = [(claimed.first, user), (claimed.keeper, user + 1)]
            mount = idmap.clone(directory, pairs)
            try:
                place.enter_and_mount(mount, str(work))
            finally:
                os.close(mount)
    finally:
        os.close(directory)


def _keep(directory: int, claimed: Range) -> None:
    """The directories of attempts are made in it by its group, which the server belongs to by the clone."""
    info = os.fstat(directory)
    if info.st_uid != claimed.keeper or info.st_gid != claimed.keeper:
        os.fchown(directory, claimed.keeper, claimed.keeper)
    mode = stat.S_IMODE(info.st_mode) | 0o770  # others may pass while the node is open
    if stat.S_IMODE(info.st_mode) != mode:
        os.fchmod(directory, mode)


class _Place:
    """The mount namespace of who asks. Only a namespace is entered, for a few system calls: no path of its
    own is read there but the node's, and what is mounted there is seen by nobody else."""

    def __init__(self, caller: Caller, user: int) -> None:
        self._own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._theirs = os.open(f"/proc/{caller.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._own)
            raise Refused("who asked is gone") from None
        try:
            # After it was opened: a pid that is another's by now is told by its user.
            if _user_of(caller.pid) != user:
                raise Refused("who asked is gone")
            if os.fstat(self._theirs).st_ino == os.fstat(self._own).st_ino:
                raise Refused("the server has no mount namespace of its own")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._own)
        os.close(self._theirs)

    def enter_and_look(self, path: str, directory: int) -> bool:
        """Whether the clone lies there: the same directory, with another owner."""

        def look() -> bool:
            try:
                seen = os.stat(path, follow_symlinks=False)
            except OSError:
                return False
            here = os.fstat(directory)
            return (seen.st_dev, seen.st_ino) == (here.st_dev, here.st_ino) and seen.st_uid != here.st_uid

        return self._there(look)

    def enter_and_mount(self, mount: int, path: str) -> None:
        self._there(lambda: linux.move_mount(mount, path))

    def _there(self, work: Callable[[], Any]) -> Any:
        linux.setns(self._theirs, linux.CLONE_NEWNS)
        try:
            return work()
        finally:
            try:
                linux.setns(self._own, linux.CLONE_NEWNS)
            except OSError:
                os._exit(70)  # never go on among the server's mounts
            os.chdir("/")


def _user_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as file:
            line = next(line for line in file if line.startswith("Uid:"))
    except (OSError, StopIteration):
        return -1
    real, effective, saved = (int(word) for word in line.split()[1:4])
    return real if real == effective == saved else -1
