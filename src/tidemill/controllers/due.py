"""Work that has a time: a loop that looks when it is woken or when the next time has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tidemill.app.services import Services
from tidemill.app.waiting import wait_set

log = logging.getLogger("tidemill.due")

AGAIN_S = 5.0  # after a fault of ours, or on a full disk
LONGEST_SLEEP_S = 60.0  # a timer stands still while the host sleeps, and wall clocks are set
_FAR = 2**62


def seconds_until(at: int, now: int) -> float:
    """What a look returns for its next time (both in microseconds)."""
    return min((at - now) / 1e6 + 0.001, LONGEST_SLEEP_S)


class Loop:
    """`look` does what is due -> seconds until the next of it; None: whoever changes something wakes us."""

    def __init__(
        self, name: str, look: Callable[[], Awaitable[float | None]], again_s: float = AGAIN_S
    ) -> None:
        self._name, self._look, self._again_s = name, look, again_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._look()
            except Exception:
                log.exception("%s: looking failed; again in %s s", self._name, self._again_s)
                delay = self._again_s
            await wait_set(self._wake, delay)


class DueRows:
    """Does `work` with the uid of each row of a type whose `next_at` has come, `at_once` of them at a time.

    Each row has one at most; that it comes up again afterwards, or does not, is what `work` writes.
    """

    def __init__(
        self, s: Services, kind: str, at_once: int, work: Callable[[Services, str], Awaitable[None]]
    ) -> None:
        self._s, self._kind, self._at_once, self._work = s, kind, at_once, work
        self._loop = Loop(kind, self._look)
        self._working: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self) -> None:
        self._loop.wake()

    async def _look(self) -> float | None:
        now = self._s.clock.now()
        rows = await self._s.store.read(lambda r: r.due(self._kind, _FAR, 2 * self._at_once))
        for row in rows:
            assert row.next_at is not None
            if row.uid in self._working:
                continue
            if row.next_at > now:
                return seconds_until(row.next_at, now)
            if len(self._working) >= self._at_once:
                return None
            self._begin(row.uid)
        return None

    def _begin(self, uid: str) -> None:
        task = asyncio.create_task(self._carry_out(uid), name=f"{self._kind} {uid}")
        self._working[uid] = task
        task.add_done_callback(lambda _: self._ended(uid))

    def _ended(self, uid: str) -> None:
        self._working.pop(uid, None)
        self._loop.wake()

    async def _carry_out(self, uid: str) -> None:
        try:
            await self._work(self._s, uid)
        except Exception:
            log.exception("%s %s failed; again in %s s", self._kind, uid, AGAIN_S)
            await asyncio.sleep(AGAIN_S)
