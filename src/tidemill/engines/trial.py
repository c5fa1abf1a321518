"""What this host gives a node, found by opening one and closing it again: the report of a real node is the
only one that cannot be wrong. `tidemill doctor` shows it; a required isolation is judged by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tidemill.domain.isolation import Limit
from tidemill.domain.model import Vector
from tidemill.engines.base import Engine, EngineError, EngineEvent, NodeSpec

_NODE = NodeSpec("trial", Vector(1000, 256 << 20))
_PATIENCE_S = 30.0


async def trial(engine: Engine, node_id: str) -> dict[str, Limit]:
    """Limits by name, of a node of an engine that is made for this and let go of. Raises EngineError when it
    could not be opened."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await engine.open_node(replace(_NODE, node_id=node_id))
            opened = await _until(engine, "node_ready", "node_lost")
            await engine.close_node(node_id)
            await _until(engine, "node_closed")
    except TimeoutError:
        raise EngineError(f"No node could be opened here within {_PATIENCE_S:g} s.") from None
    finally:
        await engine.detach()
    if opened.kind == "node_lost":
        raise EngineError(f"No node could be opened here: {opened.message}.")
    return opened.limits


async def _until(engine: Engine, *kinds: str) -> EngineEvent:
    async for event in engine.events():
        if event.kind in kinds:
            return event
    raise EngineError("The engine tells nothing any more.")
