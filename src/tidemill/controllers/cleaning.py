"""Removes what ended attempts leave on their nodes, when nothing more urgent is to be done.

Nobody waits for it, so it keeps out of the way of jobs that do: it works once no attempt has ended for a
moment, or when much has gathered. What is not cleaned when the server dies is repeated by the agent as an
event of an attempt that has ended, and comes here again; what is not cleaned when a node closes goes with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.engines.base import Engine, EngineError, TaskKey

log = logging.getLogger("tidemill.cleaning")

QUIET_S = 0.25
MOST = 2000


@dataclass(frozen=True, slots=True)
class Leftover:
    """One attempt's tasks and directory on one node."""

    node_id: str
    attempt_id: str
    ranks: tuple[int, ...]


class Cleaner:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left: list[Leftover] = []
        self._added = asyncio.Event()
        self._soon = False
        self._one = asyncio.Lock()  # held while one is cleaned
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="cleaning")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, leftover: Leftover, soon: bool = False) -> None:
        """`soon`: also where others keep ending. The disk of a node that closes goes with what is left on it,
        and nodes for one job each would pile them up."""
        self._left.append(leftover)
        self._soon = self._soon or soon
        self._added.set()

    async def make_room(self, nodes: Sequence[str]) -> None:
        """Before an attempt is staged on these nodes: what earlier ones left on a crowded disk goes first."""
        for node_id in nodes:
            if not await self._engine.crowded(node_id):
                continue
            mine = [leftover for leftover in self._left if leftover.node_id == node_id]
            self._left = [leftover for leftover in self._left if leftover.node_id != node_id]
            for leftover in mine:
                await self._clean(leftover)
            async with self._one:  # or one of this node's is just being cleaned
                pass

    async def _run(self) -> None:
        while True:
            await self._added.wait()
            before = -1
            while before != len(self._left) and len(self._left) < MOST:
                before = len(self._left)
                await asyncio.sleep(QUIET_S)
                if self._soon:
                    break
            self._soon = False
            self._added.clear()
            while self._left:
                await self._clean(self._left.pop(0))

    async def _clean(self, leftover: Leftover) -> None:
        async with self._one:
            await self._remove(leftover)

    async def _remove(self, leftover: Leftover) -> None:
        try:
            for rank in leftover.ranks:
                await self._engine.forget(leftover.node_id, TaskKey(leftover.attempt_id, rank))
            await self._engine.remove_dir(leftover.node_id, leftover.attempt_id)
        except EngineError:
            log.debug("attempt %s on %s: the node is gone", leftover.attempt_id, leftover.node_id)
        except Exception:
            log.exception("attempt %s on %s could not be cleaned up", leftover.attempt_id, leftover.node_id)
