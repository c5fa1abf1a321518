"""Work that several wait for is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
LogLine = Callable[[str], None]


@dataclass(slots=True)
class _Work(Generic[T]):
    listeners: list[LogLine] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    task: asyncio.Task[T] | None = None

    def say(self, line: str) -> None:
        self.lines.append(line)
        for listener in self.listeners:
            listener(line)


class Shared(Generic[T]):
    """One piece of work per key at a time, in this process, for everyone who asks for it meanwhile."""

    def __init__(self) -> None:
        self._works: dict[str, _Work[T]] = {}

    async def join(self, key: str, log: LogLine, start: Callable[[LogLine], Awaitable[T]]) -> T:
        """What `start` gives; it is called if nothing goes on for `key`, with what takes its lines. `log`
        gets every line, earlier ones too. Cancelling the last one who waits stops the work."""
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work[T]()
            work.task = asyncio.ensure_future(start(work.say))
        assert work.task is not None
        for line in work.lines:
            log(line)
        work.listeners.append(log)
        try:
            return await asyncio.shield(work.task)
        except asyncio.CancelledError:
            if len(work.listeners) == 1 and not work.task.done():
                work.task.cancel()
                await asyncio.gather(work.task, return_exceptions=True)
            raise
        finally:
            work.listeners.remove(log)
            if work.task.done() and self._works.get(key) is work:
                del self._works[key]
