"""Tells nodes which of the host's processors they run on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidemill.agent import protocol
from tidemill.domain import cpus
from tidemill.engines.base import EngineError
from tidemill.engines.link import AgentLink


@dataclass(frozen=True, slots=True)
class Reached:
    """A node whose agent is connected. `hello` is brought up to date."""

    node_id: str
    cpu_milli: int
    hello: dict[str, Any]
    link: AgentLink


class Processors:
    def __init__(self, reached: Callable[[], list[Reached]]) -> None:
        self._reached = reached
        self._sharing = asyncio.Lock()

    async def share(self) -> None:
        """Anew, after a node came, went or got another size. One that does not answer is told when it is
        connected again."""
        async with self._sharing:
            able = {n.node_id: n for n in self._reached() if n.hello["version"] >= protocol.CPUS_SINCE}
            granted = {key: node.cpu_milli for key, node in able.items()}
            told = {key: node.hello["cpus"] for key, node in able.items() if "cpus" in node.hello}
            for key, use in cpus.changes(granted, sorted(os.sched_getaffinity(0)), told):
                with contextlib.suppress(EngineError):
                    able[key].hello.update(await able[key].link.call("cpus", cpus=use))
