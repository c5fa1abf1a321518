"""The slow sweep, a net under the wake-ups: whatever is past its deadline is shown to its owner again.

Every state that is not final has an owner and a deadline (domain.states.deadline). Owners act by themselves,
woken by commits and by the engine; should one ever have missed something, it is told here. Nothing is due
when nothing is live: an idle server does not wake up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidemill.app.services import Services
from tidemill.controllers.attempts import Attempts
from tidemill.controllers.composites import Composites
from tidemill.controllers.deletions import Deletions
from tidemill.controllers.environments import Environments
from tidemill.controllers.nodes import Nodes
from tidemill.controllers.pool import Pool
from tidemill.domain.model import Attempt, JobState, Node, NodeState, Resource
from tidemill.domain.states import State, deadline
from tidemill.store.api import Read, ResourceQuery

log = logging.getLogger("tidemill.watchdog")

SWEEP_S = 30.0
_ANSWERING = (NodeState.IDLE, NodeState.RUNNING, NodeState.PARKED)
_WAITING = (JobState.QUEUED, JobState.PROVISIONING, JobState.PREPARING)


@dataclass(frozen=True, slots=True)
class Overdue:
    """What is past its deadline."""

    jobs: tuple[Resource, ...]
    attempts: tuple[Attempt, ...]
    nodes: tuple[Node, ...]
    held: tuple[Node, ...]  # their agents are asked whether they still answer


class Carried(Protocol):
    """What brings rows of a kind to what they ask for (deployments, container groups). -> whether some of
    them are live."""

    async def look_again(self) -> bool | None: ...


class Watchdog:
    def __init__(
        self,
        services: Services,
        pool: Pool,
        attempts: Attempts,
        nodes: Nodes,
        environments: Environments,
        composites: Composites,
        deletions: Deletions,
        carried: Sequence[Carried],
    ) -> None:
        self._s = services
        self._pool, self._attempts, self._nodes, self._environments = pool, attempts, nodes, environments
        self._composites, self._deletions, self._carried = composites, deletions, carried
        self._live = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._live.set()
        self._task = asyncio.create_task(self._run(), name="watchdog")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """Something is live, or may be."""
        self._live.set()

    async def _run(self) -> None:
        while True:
            await self._live.wait()
            self._live.clear()
            await asyncio.sleep(SWEEP_S)
            try:
                if await self.sweep():
                    self._live.set()
            except Exception:
                log.exception("the sweep failed")
                self._live.set()

    async def sweep(self) -> bool:
        """Shows what is overdue to its owner. -> whether anything is live."""
        now = self._s.clock.now()
        live, overdue = await self._s.store.read(lambda r: _look(r, now))
        for row in overdue.jobs:
            self._pool.touched("resource:jobs", row.uid)
            self._environments.follow(row)
        for attempt in overdue.attempts:
            self._attempts.take(attempt)
        for node in overdue.nodes:
            self._pool.touched("node", node.id)
            if node.state in (NodeState.CLOSING, NodeState.LOST):
                self._nodes.close(node.id)
        for node in overdue.held:
            self._nodes.check(node)
        return await self._show_all() or live

    async def _show_all(self) -> bool:
        """To those that look for themselves; a fault of one keeps it from no other. -> whether to go on."""
        again = False
        everybody: tuple[Carried, ...] = (self._deletions, *self._carried, self._composites)
        for carried in everybody:
            try:
                again = bool(await carried.look_again()) or again
            except Exception:
                log.exception("the sweep of %s failed", type(carried).__name__)
                again = True
        return again


def _look(read: Read, now: int) -> tuple[bool, Overdue]:
    jobs = read.find(ResourceQuery("jobs", states=_WAITING))
    attempts, nodes = read.live_attempts(), read.live_nodes()
    late_jobs = tuple(row for row in jobs if _late(JobState(row.state), row.modified_at, now))
    late_attempts = tuple(
        a for a in attempts if _late(a.state, a.stop_requested_at or a.started_at or a.created_at, now)
    )
    late_nodes = tuple(
        n
        for n in nodes
        # An idle node's deadline is its cluster's, which the scheduler keeps.
        if n.state is not NodeState.IDLE and _late(n.state, n.ready_at or n.created_at, now)
    )
    held = tuple(
        n for n in nodes if n.state in _ANSWERING and _late(n.state, n.ready_at or n.created_at, now)
    )
    return bool(jobs or attempts or nodes), Overdue(late_jobs, late_attempts, late_nodes, held)


def _late(state: State, entered_at: int, now: int) -> bool:
    due = deadline(state, entered_at)
    return due is not None and now >= due.at
