"""One look at a time for each thing, and none missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.controllers import carrying
from tidemill.controllers.carrying import Carrying


class Looks:
    """`late`: said in the very moment in which the first look is over."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.under_way = 0
        self.most = 0
        self.raises = 0
        self.again: list[int | None] = []
        self.late: Any = None

    async def __call__(self, uid: str) -> int | None:
        self.seen.append(uid)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if self.late is not None:
            asyncio.get_running_loop().call_soon(self.late)
            self.late = None
        if self.raises:
            self.raises -= 1
            raise RuntimeError("a fault of ours")
        return self.again.pop(0) if self.again else None


def made(looks: Looks, now: int = 0) -> Carrying:
    services: Any = SimpleNamespace(clock=SimpleNamespace(now=lambda: now))
    return Carrying(services, "thing", looks)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - of what tells nobody
            await asyncio.sleep(0)


async def until_quiet(found: Carrying, uid: str) -> None:
    await until(lambda: not found.busy(uid))


async def test_what_changes_while_it_is_looked_at_is_looked_at_again_and_never_twice_at_once() -> None:
    looks = Looks()
    found = made(looks)
    found.wake("a")
    await asyncio.sleep(0)  # it has begun
    for _ in range(5):
        found.wake("a")
    await until_quiet(found, "a")
    assert (looks.seen, looks.most) == (["a", "a"], 1)


async def test_a_change_in_the_moment_in_which_a_look_is_over_is_not_lost() -> None:
    looks = Looks()
    found = made(looks)
    looks.late = lambda: found.wake("a")
    found.wake("a")
    await until(lambda: len(looks.seen) == 2)
    await until_quiet(found, "a")


async def test_a_fault_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "AGAIN_S", 0.0)
    looks = Looks()
    looks.raises = 2
    found = made(looks)
    found.wake("a")
    await until_quiet(found, "a")
    assert looks.seen == ["a", "a", "a"]


async def test_it_is_looked_at_when_it_asked_for_it_or_before_when_it_changes() -> None:
    looks = Looks()
    looks.again = [500, None]  # microseconds from now
    found = made(looks)
    found.wake("a")
    await until(lambda: len(looks.seen) == 2)
    looks.again = [3_600_000_000, None]
    found.wake("a")
    await until_quiet(found, "a")
    found.wake("a")
    await until_quiet(found, "a")
    assert len(looks.seen) == 4
    await found.stop()
