"""What is parked stands still, within bounds: the engine is told, and the oldest goes when memory is short.

The rows say what is parked (`app/serving/parked.py`); this brings their nodes to that, after a restart too.
What has been woken is let go in the same line as it was held, so that a late word of the one never undoes
the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from tidemill.app.services import Services
from tidemill.app.serving import instances, parked
from tidemill.app.waiting import wait_set
from tidemill.domain.model import JobState, Node, NodeState
from tidemill.domain.serving.parking import Parked, excess
from tidemill.engines.base import EngineError
from tidemill.store.api import Read, Tx

log = logging.getLogger("tidemill.parking")

LOOK_S = 10.0  # at the memory of what is parked, while something is
AGAIN_S = 1.0  # after a fault of ours


class Parking:
    def __init__(self, services: Services, close: Callable[[str], None]) -> None:
        self._s = services
        self._close = close
        self._still: set[str] = set()  # nodes that were told, or whose instances were
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="parking")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def node_changed(self) -> None:
        self._wake.set()

    async def wake(self, node_id: str) -> None:
        """After the commit that makes it a node again. Raises EngineError."""
        async with self._locks[node_id]:
            self._still.discard(node_id)
            await self._s.engine.wake(node_id)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause = LOOK_S if await self._look() else None
            except Exception:
                log.exception("parked instances could not be looked after; again in %s s", AGAIN_S)
                pause = AGAIN_S
            await wait_set(self._wake, pause)

    async def _look(self) -> bool:
        """-> whether anything is parked."""
        nodes = await self._s.store.read(_nodes)
        held = [node for node in nodes if node.state is NodeState.PARKED]
        for node in nodes:  # its instance has ended, and nobody else would close it
            if node.state is NodeState.CLOSING and node.id in self._still:
                self._close(node.id)
        for node in held:
            if node.id not in self._still:
                await self._hold(node.id)
        self._still &= {node.id for node in held}
        for gone in self._locks.keys() - {node.id for node in nodes}:
            if not self._locks[gone].locked():
                del self._locks[gone]
        await self._bound(held)
        return bool(held)

    async def _hold(self, node_id: str) -> None:
        async with self._locks[node_id]:
            node = await self._s.store.read(lambda read: read.node(node_id))
            if node is None or node.state is not NodeState.PARKED:
                return
            try:
                await self._s.engine.park(node_id)
            except EngineError as error:
                await self._drop(node_id, f"it cannot stand still: {error}")
            self._still.add(node_id)

    async def _bound(self, nodes: list[Node]) -> None:
        rows = await self._s.store.read(lambda read: {n.id: _since(read, n) for n in nodes})
        known = [
            Parked(node.id, since, self._s.engine.memory_used(node.id))
            for node in nodes
            if (since := rows[node.id]) is not None
        ]
        for node_id, why in excess(known, self._s.settings.parked_memory, self._s.engine.free_memory()):
            await self._drop(node_id, why)

    async def _drop(self, node_id: str, why: str) -> None:
        now = self._s.clock.now()

        def change(tx: Tx) -> None:
            node = tx.node(node_id)
            row = parked.job_on(tx, node) if node is not None else None
            if row is not None and parked.is_parked(row):
                log.info("parked instance %s is ended: %s", row.key.name, why)
                instances.stop(tx, row, why, now)

        await self._s.store.write(change)


def _nodes(read: Read) -> list[Node]:
    return list(read.live_nodes())


def _since(read: Read, node: Node) -> int | None:
    """When it was parked; None of one that is not any more."""
    row = parked.job_on(read, node)
    if row is None or row.state != JobState.RUNNING:
        return None
    return parked.parked_at(row)
