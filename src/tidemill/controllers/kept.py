"""Nodes of failed jobs that stay for a look: released when their time is over, and then cleaned up.

What is kept is in the rows (`app/jobs/kept_nodes.py`): a restart reads it there, and releases what
has become due.
"""

from __future__ import annotations

from tidemill.app.jobs import kept_nodes
from tidemill.app.jobs.node_visits import leave
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.controllers import launching
from tidemill.controllers.cleaning import Cleaner, Leftover
from tidemill.controllers.due import Loop, seconds_until
from tidemill.domain.model import Resource
from tidemill.domain.plan import KeptNodes
from tidemill.store.api import Tx

AGAIN_S = 1.0  # after a fault of ours, or on a full disk
_OVER = "The time that they were to stay is over."


class Kept:
    def __init__(self, services: Services, cleaner: Cleaner) -> None:
        self._s = services
        self._cleaner = cleaner
        self._known: dict[str, tuple[KeptNodes, list[Leftover]]] = {}  # by job
        self._loop = Loop("kept nodes", self._look, AGAIN_S)

    async def load(self) -> set[str]:
        """-> the attempts whose files stay."""
        for row in await self._s.store.read(kept_nodes.all_kept):
            self._remember(row)
        return {kept.attempt for kept, _ in self._known.values()}

    def start(self) -> None:
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def keeps(self, attempt_id: str) -> bool:
        return any(kept.attempt == attempt_id for kept, _ in self._known.values())

    async def job_failed(self, job_uid: str) -> None:
        """Its files are left where they are if it keeps its nodes."""
        row = await self._s.store.read(lambda r: r.by_uid(job_uid))
        if row is not None and kept_nodes.of(row) is not None:
            self._remember(row)
            self._loop.wake()

    def job_changed(self, job_uid: str) -> None:
        if job_uid in self._known:
            self._loop.wake()

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
                waits.append(kept.until)
                continue
            await self._clean(uid)
        return seconds_until(min(waits), now) if waits else None

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
