"""The net under everything that carries itself on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from world import World

from tidemill.controllers.watchdog import Watchdog


class Net:
    def __init__(self, answer: bool | None = None, fails: bool = False) -> None:
        self.answer, self.fails, self.looked = answer, fails, 0

    async def look_again(self) -> bool | None:
        self.looked += 1
        if self.fails:
            raise RuntimeError("no")
        return self.answer


def made(world: World, *nets: Net) -> Watchdog:
    deletions, *carried, composites = nets
    nothing: Any = SimpleNamespace()
    parts: tuple[Any, ...] = (nothing, nothing, nothing, nothing, composites, deletions, carried)
    return Watchdog(world.services, *parts)


async def test_a_fault_of_one_keeps_no_other_from_its_look(world: World) -> None:
    nets = Net(), Net(fails=True), Net(), Net(False)
    assert await made(world, *nets).sweep(), "it is looked at again"
    assert [net.looked for net in nets] == [1, 1, 1, 1]


async def test_nothing_live_is_nothing_to_look_at(world: World) -> None:
    assert not await made(world, Net(), Net(), Net(False)).sweep()
    assert await made(world, Net(), Net(), Net(True)).sweep()
