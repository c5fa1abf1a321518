"""Nodes of failed jobs that stay for a look: released when their time is over, and then cleaned up.

What is kept is in the rows (`app/kept_nodes.py`): a restart reads it there, and releases what has become due.
"""

from __future__ import annotations

import asyncio
import logging

from tidemill.app import kept_nodes
from tidemill.app.codec import job_status
from tidemill.app.node_visits import leave
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set
from tidemill.controllers import launching
from tidemill.controllers.cleaning import Cleaner, Leftover
from tidemill.domain.model import Resource
from tidemill.domain.plan import KeptNodes
from tidemill.store.api import Tx

log = logging.getLogger("tidemill.kept")

AGAIN_S = 1.0  # after a fault of ours, or on a full disk
LONGEST_SLEEP_S = 60.0  # a timer stands still while the host sleeps
_OVER = "The time that they were to stay is over."


class Kept:
    def __init__(self, services: Services, cleaner: Cleaner) -> None:
        self._s = services
        self._cleaner = cleaner
        self._known: dict[str, tuple[KeptNodes, list[Leftover]]] = {}  # by job
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> set[str]:
        """-> the attempts whose files stay."""
        for row in await self._s.store.read(kept_nodes.all_kept):
            self._remember(row)
        return {kept.attempt for kept, _ in self._known.values()}

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="kept nodes")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def keeps(self, attempt_id: str) -> bool:
        return any(kept.attempt == attempt_id for kept, _ in self._known.values())

    async def job_failed(self, job_uid: str) -> None:
        """Its files are left where they are if it keeps its nodes."""
        row = await self._s.store.read(lambda r: r.by_uid(job_uid))
        if row is not None and kept_nodes.of(row) is not None:
            self._remember(row)
            self._wake.set()

    def job_changed(self, job_uid: str) -> None:
        if job_uid in self._known:
            self._wake.set()

    def _remember(self, row: Resource) -> None:
        status = job_status(row.status)
        kept = status.progress.kept
        assert kept is not None
        attempt_nodes = dict.fromkeys(kept.nodes)
        ranks = launching.outline(status.plan).values()
        left = [
            Leftover(node_id, kept.attempt, tuple(r.rank for r in ranks if r.node_index == index))
            for index, node_id in enumerate(attempt_nodes)
        ]
        self._known[row.uid] = kept, left

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._look()
            except Exception:
                log.exception("kept nodes could not be looked after; again in %s s", AGAIN_S)
                delay = AGAIN_S
            await wait_set(self._wake, delay)

    async def _look(self) -> float | None:
        """Releases what is due, and cleans up after what was released -> seconds until the next."""
        now = self._s.clock.now()
        rows = await self._s.store.read(lambda r: {uid: r.by_uid(uid) for uid in self._known})
        waits: list[int] = []
        for uid, row in rows.items():
            kept = kept_nodes.of(row)
            if row is not None and kept is not None and kept.until <= now:
                await self._release(uid)
            elif kept is not None:
                waits.append(kept.until - now)
                continue
            await self._clean(uid)
        return min(min(waits) / 1e6 + 0.001, LONGEST_SLEEP_S) if waits else None

    async def _release(self, uid: str) -> None:
        at, mono = self._s.clock.now(), self._s.clock.boottime()

        def change(tx: Tx) -> None:
            row = tx.by_uid(uid)
            if row is not None:
                kept_nodes.release(tx, row, at, mono, _OVER)

        await self._s.store.write(change)

    async def _clean(self, uid: str) -> None:
        """Who looks around there leaves, then the files go."""
        kept, left = self._known.pop(uid)
        await leave(self._s, kept)
        for leftover in left:
            self._cleaner.add(leftover)
