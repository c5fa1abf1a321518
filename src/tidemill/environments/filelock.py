"""An flock that a coroutine can wait for. Processes that inherit its descriptor keep it held."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.05


class FileLock:
    """`with FileLock(path) as held: await held.acquire(...)`. The file stays: removed, it locks nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1

    def __enter__(self) -> FileLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        self._handle = -1

    @property
    def descriptors(self) -> tuple[int, ...]:
        """To be handed to child processes that must not outlive the lock unnoticed."""
        return (self._handle,)

    def try_acquire(self) -> bool:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def acquire(self, on_wait: Callable[[], None]) -> None:
        """Waits without a thread, so that a cancelled waiter leaves nothing behind. `on_wait` is called once
        if it must wait."""
        if self.try_acquire():
            return
        on_wait()
        while not self.try_acquire():  # noqa: ASYNC110 - no event tells of another process
            await asyncio.sleep(POLL_S)
