"""Who is on which node: the shells that people have open there (`app/jobs/node_visits.py`), in memory.

They end with the server: the line to each does, and what is left of it on its node is stopped by the next
server as a task that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from tidemill.domain.model import Caller
from tidemill.engines.base import EngineEvent, TaskKey


@dataclass(slots=True)
class Visit:
    """A shell on a node is a task of its own there; `ended` says why the server ends it. `attempt` and
    `rank`: it is among the files of that ended attempt, as one more of its ranks."""

    id: str
    node_id: str
    caller: Caller
    since: int  # microseconds
    attempt: str = ""
    rank: int = 0
    ended: str = ""
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # all of its processes are

    @property
    def task(self) -> TaskKey:
        return TaskKey(self.attempt or self.id, self.rank)


class Visits:
    """One per server."""

    def __init__(self) -> None:
        self._visits: dict[str, Visit] = {}

    def add(self, visit: Visit) -> None:
        self._visits[visit.id] = visit

    def remove(self, visit: Visit) -> None:
        self._visits.pop(visit.id, None)
        visit.gone.set()

    def knows(self, task: TaskKey) -> bool:
        return any(visit.task == task for visit in self._visits.values())

    def on(self, nodes: Collection[str]) -> list[Visit]:
        """Those on any of these nodes, the oldest first."""
        return [visit for visit in self._visits.values() if visit.node_id in nodes]

    def on_engine_event(self, event: EngineEvent) -> None:
        if event.kind == "task_exited" and event.task is not None:
            for visit in self.on((event.node_id,)):
                if visit.task == event.task:
                    self.remove(visit)
        elif event.kind == "node_closed":
            for visit in self.on((event.node_id,)):
                self.remove(visit)
