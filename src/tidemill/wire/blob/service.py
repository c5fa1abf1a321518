"""What handlers share: the store, a pool for what blocks, and the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from tidemill.data.blobstore import BlobStore
from tidemill.wire.blob.auth import Authenticator

P = ParamSpec("P")
T = TypeVar("T")

WORKERS = 16  # threads that write, fsync and wait for commits; started as they are needed


@dataclass(frozen=True, slots=True)
class Service:
    store: BlobStore
    auth: Authenticator
    now: Callable[[], int]
    pool: ThreadPoolExecutor

    def in_thread(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Runs what may wait for the disk away from the event loop."""
        return asyncio.get_running_loop().run_in_executor(self.pool, lambda: fn(*args, **kwargs))
