"""Finishes the deletion of computes: the row goes once its last node is closed and its last job has ended."""

from __future__ import annotations

import asyncio
import logging

from tidemill.app.services import Services
from tidemill.domain.model import Event, JobState
from tidemill.store.api import ResourceQuery, Tx

log = logging.getLogger("tidemill.deletions")

FINAL = tuple(state.value for state in JobState if state.final)


class Deletions:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._wake = asyncio.Event()
        self._doomed: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="deletions")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def compute_changed(self) -> None:
        self._wake.set()

    def node_changed(self) -> None:
        if self._doomed:
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                self._doomed = await self._s.store.read(
                    lambda r: [row.uid for row in r.find(ResourceQuery("computes", states=("Deleting",)))]
                )
                for uid in self._doomed:
                    await self._s.store.write(lambda tx, uid=uid: self._finish(tx, uid))
            except Exception:
                log.exception("a deletion failed; again in 1 s")
                await asyncio.sleep(1)
                self._wake.set()

    def _finish(self, tx: Tx, uid: str) -> None:
        row = tx.by_uid(uid)
        if row is None or row.state != "Deleting" or tx.nodes_of(uid):
            return
        if tx.count(ResourceQuery("jobs", ref=uid, exclude_states=FINAL)):
            return
        tx.delete(row)
        tx.add_event(
            Event(uid, "compute", self._s.clock.now(), "Deleted", f"Compute {row.key.name} is deleted.")
        )
