"""Finishes the deletion of computes: the row goes once its last node is closed and its last job has ended.

And a net: of the computes that exist for one purpose, those that nobody needs any more are removed, at the
start and with each sweep of the watchdog. The commit that ends the purpose does it, so there should be none.
"""

from __future__ import annotations

import asyncio
import logging

from tidemill.app.computes import implicit_computes
from tidemill.app.computes.computes import TYPE as COMPUTES
from tidemill.app.services import Services
from tidemill.domain.model import Event, JobState
from tidemill.store.api import Read, ResourceQuery, Tx

log = logging.getLogger("tidemill.deletions")

FINAL = tuple(state.value for state in JobState if state.final)


class Deletions:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._wake = asyncio.Event()
        self._doomed: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.look_again()
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="deletions")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look_again(self) -> None:
        """Removes what is there for nobody."""
        now = self._s.clock.now()

        def sweep(tx: Tx) -> int:
            found = implicit_computes.unwanted(tx)
            for row in found:
                implicit_computes.remove_row(tx, row, now)
            return len(found)

        if await self._s.store.read(implicit_computes.unwanted):
            log.warning("%d computes were there for nobody: removed", await self._s.store.write(sweep))

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
                self._doomed = await self._s.store.read(_doomed)
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


def _doomed(read: Read) -> list[str]:
    kinds = (COMPUTES, implicit_computes.TYPE)
    return [row.uid for kind in kinds for row in read.find(ResourceQuery(kind, states=("Deleting",)))]
