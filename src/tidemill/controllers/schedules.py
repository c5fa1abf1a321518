"""Runs schedules when they are due: woken by their commits and by one timer for the next time of all."""

from __future__ import annotations

import asyncio
import logging

from tidemill.app import schedule_runs, schedules
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set

log = logging.getLogger("tidemill.schedules")

AGAIN_S = 5.0  # after a fault of ours, or on a full disk
# A timer stands still while the host sleeps, and wall clocks are set: it looks again after this much.
LONGEST_SLEEP_S = 60.0
AT_ONCE = 50  # schedules begun with one look; the end of each is the next look
_FAR = 2**62


class Schedules:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._wake = asyncio.Event()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="schedules")

    async def stop(self) -> None:
        tasks = [*self._runs.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self) -> None:
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._look()
            except Exception:
                log.exception("schedules could not be read; again in %s s", AGAIN_S)
                delay = AGAIN_S
            await wait_set(self._wake, delay)

    async def _look(self) -> float | None:
        """Begins what is due -> seconds until the next time; None: no schedule has one."""
        now = self._s.clock.now()
        rows = await self._s.store.read(
            lambda read: read.due(schedules.TYPE, _FAR, len(self._runs) + AT_ONCE)
        )
        for row in rows:
            assert row.next_at is not None
            if row.uid in self._runs:
                continue
            if row.next_at > now:
                return min((row.next_at - now) / 1e6 + 0.001, LONGEST_SLEEP_S)
            self._begin(row.uid)
        return None

    def _begin(self, uid: str) -> None:
        task = asyncio.create_task(self._carry_out(uid), name=f"schedule {uid}")
        self._runs[uid] = task
        task.add_done_callback(lambda _: self._ended(uid))

    def _ended(self, uid: str) -> None:
        self._runs.pop(uid, None)
        self._wake.set()

    async def _carry_out(self, uid: str) -> None:
        try:
            await schedule_runs.run_due(self._s, uid)
        except Exception:
            log.exception("schedule %s could not be run; again in %s s", uid, AGAIN_S)
            await asyncio.sleep(AGAIN_S)
