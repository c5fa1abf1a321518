"""Sends what waits in the outbox: at once, a few at a time, again by a timetable; no job waits for it."""

from __future__ import annotations

import asyncio
import logging

from tidemill.app import notice_sending, notices
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set

log = logging.getLogger("tidemill.notices")

AGAIN_S = 5.0  # after a fault of ours, or on a full disk
LONGEST_SLEEP_S = 60.0  # a timer stands still while the host sleeps
AT_ONCE = 4
_FAR = 2**62


class Notices:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="notices")

    async def stop(self) -> None:
        tasks = [*self._sending.values(), *([self._task] if self._task is not None else [])]
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
                log.exception("the outbox could not be read; again in %s s", AGAIN_S)
                delay = AGAIN_S
            await wait_set(self._wake, delay)

    async def _look(self) -> float | None:
        """Begins what is due -> seconds until the next; None: whoever ends or comes wakes us."""
        now = self._s.clock.now()
        rows = await self._s.store.read(lambda r: r.due(notices.TYPE, _FAR, 2 * AT_ONCE))
        for row in rows:
            assert row.next_at is not None
            if row.uid in self._sending:
                continue
            if row.next_at > now:
                return min((row.next_at - now) / 1e6 + 0.001, LONGEST_SLEEP_S)
            if len(self._sending) >= AT_ONCE:
                return None
            task = asyncio.create_task(self._send(row.uid), name=f"notice {row.uid}")
            self._sending[row.uid] = task
            task.add_done_callback(lambda _, uid=row.uid: self._done(uid))
        return None

    def _done(self, uid: str) -> None:
        self._sending.pop(uid, None)
        self._wake.set()

    async def _send(self, uid: str) -> None:
        row = await self._s.store.read(lambda r: r.by_uid(uid))
        if row is None:
            return
        try:
            await notice_sending.send(self._s, row)
        except Exception:
            log.exception("message %s could not be sent; again in %s s", uid, AGAIN_S)
            await asyncio.sleep(AGAIN_S)
