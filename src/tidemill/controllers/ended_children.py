"""What is left of instances and runs that have ended: their rows, and the logs that they stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.domain.model import JobState, Resource
from tidemill.domain.plan import Place
from tidemill.store.api import Tx

log = logging.getLogger("tidemill.ended")


class EndedChildren:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._removing: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        for task in self._removing:
            task.cancel()
        await asyncio.gather(*self._removing, return_exceptions=True)

    async def remove(self, rows: Sequence[Resource]) -> None:
        """Those that nobody needs any more, with their logs."""

        def change(tx: Tx) -> None:
            for row in rows:
                current = tx.by_uid(row.uid)
                if current is not None and JobState(current.state).final:
                    tx.delete(current)

        await self._s.store.write(change)
        self.remove_logs(rows)

    def remove_logs(self, rows: Sequence[Resource]) -> None:
        """Of rows that are no more; in the background."""
        places = [place for row in rows if (place := job_status(row.status).plan.artifacts) is not None]
        task = asyncio.create_task(asyncio.to_thread(self._remove, places))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    def _remove(self, places: Sequence[Place]) -> None:
        for place in places:
            try:
                self._s.blobs.delete_prefix(place.account, place.container, place.path)
            except Exception:
                log.exception("the logs below %s were not removed", place.path)
