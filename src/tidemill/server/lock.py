"""One server per home: an flock, which the kernel lets go of with the process however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from tidemill.domain.errors import Conflict

_DYING_S = 1.0


class HomeLock:
    """Held until `release` or the end of the process. Children do not inherit it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> HomeLock:
        """Raises Conflict naming the pid that holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        pid = _take(descriptor)
        if pid is not None:
            os.close(descriptor)
            raise in_use(path, pid)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def in_use(path: Path, pid: str) -> Conflict:
    """Of the home whose lock this is."""
    return Conflict(
        f"A server already runs on the home {path.parent}: pid {pid or 'unknown'}. "
        f"Use it, stop it (tidemill down --home {path.parent}), or give another --home.",
        "HomeInUse",
        "--home",
    )


def _take(descriptor: int) -> str | None:
    """None once the lock is ours; else the pid that has it. A killed process holds its files for a moment
    longer than it lives: that moment is waited out."""
    until = time.monotonic() + _DYING_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            if not _dying(pid) or time.monotonic() > until:
                return pid
            time.sleep(0.005)


def _dying(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return True


def holder(path: Path) -> int | None:
    """The pid that holds the lock now; None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None
