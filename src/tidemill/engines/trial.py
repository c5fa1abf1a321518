"""What this host gives a node, found by opening one and closing it again: the report of a real node is the
only one that cannot be wrong. `tidemill doctor` shows it; a required isolation is judged by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tidemill.domain.isolation import Limit
from tidemill.domain.model import Vector
from tidemill.engines.base import Engine, EngineError, EngineEvent, NodeSpec, TaskSpec

_NODE = NodeSpec("trial", Vector(1000, 256 << 20))
_PATIENCE_S = 30.0


async def trial(engine: Engine, node_id: str) -> dict[str, Limit]:
    """Limits by name, of a node of an engine that is made for this and let go of. Raises EngineError when it
    could not be opened."""
    async with _opened(engine, node_id) as ready:
        return ready.limits


async def trial_of_runtime(engine: Engine, node_id: str, runtime: str) -> str:
    """Has it run a program on such a node -> why it could not, or "". Raises EngineError as `trial`."""
    async with _opened(engine, node_id):
        work = await engine.prepare_dir(node_id, node_id)
        task = TaskSpec(node_id, 1, 0, ("/bin/true",), {}, work, f"{work}/log.txt", runtime=runtime)
        try:
            await engine.start(node_id, task)
            ended = await _until(engine, "task_exited")
        except EngineError as error:
            return str(error)
        finally:
            await engine.remove_dir(node_id, node_id)
    return "" if ended.exit_code == 0 and not ended.reason else ended.message or "it ran nothing"


@asynccontextmanager
async def _opened(engine: Engine, node_id: str) -> AsyncIterator[EngineEvent]:
    """It is closed when it is left."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await engine.open_node(replace(_NODE, node_id=node_id))
            opened = await _until(engine, "node_ready", "node_lost")
            try:
                if opened.kind == "node_lost":
                    raise EngineError(f"No node could be opened here: {opened.message}.")
                yield opened
            finally:
                await engine.close_node(node_id)
                await _until(engine, "node_closed")
    except TimeoutError:
        raise EngineError(f"No node could be opened here within {_PATIENCE_S:g} s.") from None
    finally:
        await engine.detach()


async def _until(engine: Engine, *kinds: str) -> EngineEvent:
    async for event in engine.events():
        if event.kind in kinds:
            return event
    raise EngineError("The engine tells nothing any more.")
