"""What is happening now, for those who watch: wake-ups per row, and the scheduler's word on who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager

from tidemill.app.serving_metrics import Traffic
from tidemill.domain.model import Touched
from tidemill.domain.scheduling.pool import PoolState
from tidemill.domain.scheduling.types import Wait


class Live:
    """One per server. `attach` its `on_commit` to the store; `scheduler` is set by the controllers,
    `actions` by the server."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self.scheduler: Callable[[], PoolState] | None = None
        self.actions: frozenset[str] = frozenset()  # every action that a route of this server needs
        self.sign_ins_swept_at = 0  # when old sign-ins were last removed
        self.routed: Callable[[], Awaitable[None]] | None = None  # the gateway knows of all that is committed
        self.traffic: Mapping[str, Traffic] = {}  # by deployment: the gateway's last word; {} without one

    def on_commit(self, touched: frozenset[Touched]) -> None:
        if not self._watchers:
            return
        for item in touched:
            for event in self._watchers.get(item.uid, ()):
                event.set()

    @contextmanager
    def watching(self, uid: str) -> Generator[asyncio.Event]:
        """An event that is set with every commit that touches the row (or its events) of `uid`."""
        event = asyncio.Event()
        self._watchers.setdefault(uid, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[uid]
            watchers.discard(event)
            if not watchers:
                del self._watchers[uid]

    def explain(self, job_uid: str, now: int) -> Wait | None:
        """Why a job waits; None if it does not."""
        return self.scheduler().explain(job_uid, now) if self.scheduler else None
