"""Jobs that start others (pipelines, sweeps): who is told when one of them, or one of its children, changed.

A kind of job gives a `Carrier`, which decides and acts. For one job it is never called twice at once; it is
called again after each commit on the job or on a child, and at the time it asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from tidemill.app.jobs import families
from tidemill.app.rows.codec import job_kind
from tidemill.app.services import Services
from tidemill.controllers.carrying import AGAIN_S, Carrying
from tidemill.domain.model import JobState, Resource
from tidemill.domain.plan import COMMAND
from tidemill.store.api import Read, ResourceQuery

log = logging.getLogger("tidemill.composites")

LIVE = (JobState.RUNNING, JobState.CANCEL_REQUESTED)


class Carrier(Protocol):
    async def carry(self, row: Resource, changed: frozenset[str]) -> int | None:
        """Looks at a job that has not ended and does what is next. `changed`: uids of the children that
        changed since the last call; all is to be read anew with the first call for a job. Called again with
        nothing new it changes nothing. -> when to be called at the latest (microseconds), None: not before
        something changes."""
        ...

    def forget(self, uid: str) -> None:
        """The job has ended, or this server does."""
        ...


class Composites:
    def __init__(self, services: Services, carriers: Mapping[str, Carrier]) -> None:
        self._s = services
        self._carriers = carriers
        self._news: set[str] = set()
        self._wake = asyncio.Event()
        self._changed: dict[str, set[str]] = {}  # by job: which children, since it was looked at
        self._carrying = Carrying(services, "composite", self._look)
        self._carried: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for row in await self._s.store.read(_live):
            self._take(row.uid)
        self._task = asyncio.create_task(self._run(), name="composites")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._carrying.stop()
        for uid in self._carried:
            self._forget(uid)

    async def look_again(self) -> bool:
        """A net under the wake-ups: a job that runs while nothing of its own does, and nobody looks at
        it, is looked at from the beginning. -> whether any runs."""
        rows = await self._s.store.read(_live)
        idle = await self._s.store.read(
            lambda r: [row.uid for row in rows if not families.children(r, row, live=True)]
        )
        for uid in idle:
            if not self._carrying.busy(uid):
                for carrier in self._carriers.values():
                    carrier.forget(uid)
                self._take(uid)
        return bool(rows)

    def job_changed(self, uid: str) -> None:
        self._news.add(uid)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            uids, self._news = self._news, set()
            try:
                rows = await self._s.store.read(lambda r: [r.by_uid(uid) for uid in uids])  # noqa: B023
            except Exception:
                log.exception("the jobs that changed could not be read; again in %s s", AGAIN_S)
                self._news |= uids
                await asyncio.sleep(AGAIN_S)
                self._wake.set()
                continue
            for row in rows:
                if row is None:
                    continue
                if row.parent_uid:
                    self._take(row.parent_uid, row.uid)
                if job_kind(row.status) != COMMAND:
                    self._take(row.uid)

    def _take(self, uid: str, child: str = "") -> None:
        if child:
            self._changed.setdefault(uid, set()).add(child)
        self._carrying.wake(uid)

    async def _look(self, uid: str) -> int | None:
        changed = self._changed.pop(uid, set())
        try:
            return await self._carry(uid, frozenset(changed))
        except Exception:
            self._changed.setdefault(uid, set()).update(changed)
            raise

    async def _carry(self, uid: str, changed: frozenset[str]) -> int | None:
        row = await self._s.store.read(lambda r: r.by_uid(uid))
        # A deployment is the parent of its instances, and no job: another controller's.
        if row is None or row.key.type != "jobs" or JobState(row.state).final:
            self._carried.discard(uid)
            self._forget(uid)
            return None
        self._carried.add(uid)
        carrier = self._carriers.get(job_kind(row.status))
        return await carrier.carry(row, changed) if carrier is not None else None

    def _forget(self, uid: str) -> None:
        for carrier in self._carriers.values():
            carrier.forget(uid)


def _live(read: Read) -> list[Resource]:
    rows = read.find(ResourceQuery("jobs", states=LIVE, ascending=True))
    return [row for row in rows if job_kind(row.status) != COMMAND]
