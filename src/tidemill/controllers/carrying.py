"""Things that are carried on one by one: each is looked at after every change of it, and at the time that it
asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tidemill.app.services import Services

log = logging.getLogger("tidemill.carrying")

AGAIN_S = 1.0  # after a fault of ours


class Carrying:
    """`look` does what is next of one thing -> when to look again at the latest (microseconds), None: not
    before it is woken. For one thing it never runs twice at once, and a change that comes while it runs is
    looked at afterwards. What it raises is logged, and it is asked again."""

    def __init__(self, s: Services, what: str, look: Callable[[str], Awaitable[int | None]]) -> None:
        self._s, self._what, self._look = s, what, look
        self._woken: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def wake(self, uid: str) -> None:
        """Something of it has changed."""
        self._woken.add(uid)
        if uid not in self._tasks:
            self._tasks[uid] = asyncio.create_task(self._carry(uid), name=f"{self._what} {uid}")

    def busy(self, uid: str) -> bool:
        """It is being looked at."""
        return uid in self._tasks

    async def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, uid: str) -> None:
        try:
            while uid in self._woken:
                self._woken.discard(uid)
                await self._once(uid)
        finally:
            # Here and not in a callback: what changes before that ran would find a task that is over.
            self._tasks.pop(uid, None)

    async def _once(self, uid: str) -> None:
        if (timer := self._timers.pop(uid, None)) is not None:
            timer.cancel()
        try:
            again_at = await self._look(uid)
        except Exception:
            log.exception("%s %s could not be carried on; again in %s s", self._what, uid, AGAIN_S)
            await asyncio.sleep(AGAIN_S)
            self._woken.add(uid)
            return
        if again_at is not None:
            delay = max((again_at - self._s.clock.now()) / 1e6, 0.0) + 0.001
            self._timers[uid] = asyncio.get_running_loop().call_later(delay, self.wake, uid)
