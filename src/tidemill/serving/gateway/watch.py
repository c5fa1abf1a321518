"""Tells when a file in a folder was replaced, without asking again and again (inotify)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_IN_CLOSE_WRITE, _IN_MOVED_TO = 0x8, 0x80
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class Watch:
    """Calls `changed` on the loop when files of `folder` were written or moved there; whoever is called looks
    at what it is interested in. Raises OSError."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, changed: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._loop = loop
        self._changed = changed
        self._fd = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._fd < 0 or (
            libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_CLOSE_WRITE | _IN_MOVED_TO) < 0
        ):
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), str(folder))
        loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 64 << 10)
        self._changed()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
