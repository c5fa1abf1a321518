"""What is left of instances and runs that have ended: their rows, and the logs that they stored.

Logs go before the rows by which they are found: whatever interrupts it, what is left is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.domain.model import JobState, Resource
from tidemill.store.api import Tx


async def remove(s: Services, rows: Sequence[Resource]) -> None:
    """Those that nobody needs any more, with their logs. Raises what the storage raises."""

    def change(tx: Tx) -> None:
        for row in rows:
            current = tx.by_uid(row.uid)
            if current is not None and JobState(current.state).final:
                tx.delete(current)

    await remove_logs(s, rows)
    await s.store.write(change)


async def remove_logs(s: Services, rows: Sequence[Resource]) -> None:
    """Of rows that are about to go."""
    for row in rows:
        place = job_status(row.status).plan.artifacts
        if place is not None:
            await asyncio.to_thread(s.blobs.delete_prefix, place.account, place.container, place.path)
