"""Which sandbox the nodes of this host get: asked of the host once, when the first node is opened."""

from __future__ import annotations

import asyncio
from typing import Any

from tidemill.sandbox import tiers


class Isolation:
    """`mode`: "auto" (the best this host can give), "full", "rootless" or "plain" (no sandbox); `uid` is one
    that jobs get here (0: the server's own)."""

    def __init__(self, mode: str, uid: int) -> None:
        self._mode = mode
        self._uid = uid
        self._found: asyncio.Task[tiers.Sandboxing] | None = None

    async def sandbox(self) -> dict[str, Any]:
        """What a node's agent is told."""
        if self._mode == "plain":
            return tiers.Sandboxing(why_not="switched off: this server runs with isolation plain").config()
        if self._found is None:
            self._found = asyncio.create_task(asyncio.to_thread(tiers.sandboxing, self._uid))
        return (await asyncio.shield(self._found)).config()
