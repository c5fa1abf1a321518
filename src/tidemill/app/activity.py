"""Writing the activity log: records wait a moment, and go to the store together, in a commit that costs no
request its time.

Bounded loss: a killed server loses the records of the last `DELAY_S` and of the commit under way. What gives
a secret away is on disk before the secret is given out (`flush`). A store that cannot be written to (a full
disk) is tried again; beyond `MOST_WAITING` records the newest are only counted, and the count is recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tidemill.app import refusal_spool
from tidemill.app.checkpoints import Checkpoints
from tidemill.app.refusal_spool import Taken
from tidemill.domain.activity import Head, Outcome, Pace, Record, more, paced

if TYPE_CHECKING:
    from pathlib import Path

    from tidemill.store.api import Store, Tx

DELAY_S = 0.05
RETRY_S = 1.0
MOST_WAITING = 10_000
MORE_S = 10.0  # records that are only counted are one for so long
_log = logging.getLogger("tidemill.activity")


class ActivityLog:
    """Until `start` nothing is written; records wait."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._waiting: list[Record] = []
        self._refusals: dict[tuple[object, ...], int] = {}  # -> place in _waiting
        self._pace = Pace()
        self._more: dict[Outcome, Record] = {}  # count those that are not kept
        self._more_timer: asyncio.TimerHandle | None = None
        self._lost = 0
        self._writing: asyncio.Task[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._spool: Path | None = None
        self.checkpoints: Checkpoints | None = None

    def start(self, store: Store, checkpoints: Checkpoints | None = None, spool: Path | None = None) -> None:
        """`spool`: where the data process leaves what it refused."""
        self._store, self.checkpoints, self._spool = store, checkpoints, spool
        if self._waiting:
            self._plan(DELAY_S)
        if self._more:
            self._plan_more()

    async def stop(self) -> None:
        """Puts what waits on disk, once."""
        if self._timer is not None:
            self._timer.cancel()
        await self.flush()
        if self.checkpoints is not None:
            self.checkpoints.write()
        self._store = None

    @property
    def waiting(self) -> Sequence[Record]:
        return tuple(self._waiting)

    def record(self, record: Record) -> None:
        """Takes a record. The same refusal again, while the first waits, is counted on it."""
        if not paced(record):
            self._append(record)
            return
        if record.outcome is not Outcome.REFUSED:
            if self._pace.keeps(record):
                self._append(record)
            else:
                self._count(record)
            return
        key = (record.actor, record.address, record.action, record.scope, record.resource, record.code)
        place = self._refusals.get(key)
        if place is not None:
            known = self._waiting[place]
            self._waiting[place] = replace(known, count=known.count + record.count)
        elif not self._pace.keeps(record):
            self._count(record)
        elif self._append(record):
            self._refusals[key] = len(self._waiting) - 1

    def system(self, at: int, action: str, scope: str, resource: str, reason: str) -> None:
        """What the server does by itself."""
        self.record(
            Record(
                at,
                action,
                Outcome.SUCCEEDED,
                actor_name="system",
                actor_kind="system",
                scope=scope,
                resource=resource,
                reason=reason,
            )
        )

    async def flush(self) -> bool:
        """Returns once everything recorded so far is on disk; False: it could not be put there."""
        self._take_more()
        return await self.write_some()

    async def write_some(self) -> bool:
        """`flush`, without what is only counted and still grows."""
        while self._writing is not None:
            await asyncio.shield(self._writing)
        spooled = self._spool is not None and refusal_spool.waits(self._spool)
        if self._store is None or not (self._waiting or spooled):
            return not self._waiting
        return await asyncio.shield(self._begin())

    def _append(self, record: Record) -> bool:
        if len(self._waiting) >= MOST_WAITING:
            self._lost += record.count
            return False
        self._waiting.append(record)
        self._plan(DELAY_S)
        return True

    def _count(self, record: Record) -> None:
        known = self._more.get(record.outcome)
        counted = more(record) if known is None else replace(known, count=known.count + record.count)
        self._more[record.outcome] = counted
        if self._store is not None:
            self._plan_more()

    def _plan_more(self) -> None:
        if self._more_timer is None:
            self._more_timer = asyncio.get_running_loop().call_later(MORE_S, self._take_more)

    def _take_more(self) -> None:
        if self._more_timer is not None:
            self._more_timer.cancel()
            self._more_timer = None
        counted, self._more = self._more, {}
        for record in counted.values():
            self._append(record)

    def _plan(self, delay: float) -> None:
        if self._timer is None and self._writing is None and self._store is not None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._begin)

    def _begin(self) -> asyncio.Task[bool]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writing = asyncio.create_task(self._write(), name="activity log")
        return self._writing

    async def _write(self) -> bool:
        batch, self._waiting, self._refusals = self._waiting, [], {}
        lost, self._lost = self._lost, 0
        store = self._store
        assert store is not None
        try:
            taken = None if self._spool is None else refusal_spool.take(self._spool)
            head = await store.write(lambda tx: _put(tx, taken, [*batch, *_lost(batch, lost)]))
            if taken is not None:
                taken.done()
        except Exception as error:
            _log.error("%d records of the activity log wait: %s", len(batch), error)
            self._waiting, self._refusals = batch + self._waiting, {}
            self._lost += lost
            self._writing = None
            self._plan(RETRY_S)
            return False
        self._writing = None
        if self._waiting:
            self._plan(DELAY_S)
        if self.checkpoints is not None:
            self.checkpoints.note(head)
        return True


def _put(tx: Tx, taken: Taken | None, batch: Sequence[Record]) -> Head:
    if taken is None:
        return tx.append_activity(batch)
    # Of a file that is here again after a kill, the records are in the log.
    fresh = () if tx.meta(refusal_spool.META) == taken.digest else taken.records
    tx.set_meta(refusal_spool.META, taken.digest)
    return tx.append_activity([*fresh, *batch])


def _lost(batch: Sequence[Record], count: int) -> list[Record]:
    if not count:
        return []
    why = "The log could not be written for a while; this many records were not kept."
    action = "Tidemill.Server/activity/lost/action"
    return [Record(batch[-1].at, action, Outcome.FAILED, actor_kind="system", reason=why, count=count)]
