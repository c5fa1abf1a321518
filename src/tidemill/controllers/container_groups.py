"""From what a container group is to be to a run of it, and back: `domain.containers.deciding` decides.

One group is carried by one task at a time, woken by commits on its row or on one of its runs. All that a
decision changes is one commit, made of the rows as they then are; a kill at any instant loses nothing and
starts nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidemill.app.containers import container_runs
from tidemill.app.containers.container_groups import finish_deletion
from tidemill.app.jobs.owned_rows import Told
from tidemill.app.jobs.transitions import job_event
from tidemill.app.rows.codec import encode
from tidemill.app.rows.container_rows import GROUPS, as_seen, event, group_status, runs_of
from tidemill.app.services import Services
from tidemill.controllers import ended_children
from tidemill.controllers.carrying import Carrying
from tidemill.domain.containers import deciding
from tidemill.domain.containers.deciding import Decided, Start, Stop
from tidemill.domain.model import Resource
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.settling import Fail, Finish, Gone
from tidemill.store.api import Read, ResourceQuery, Tx


class ContainerGroups:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._owner: dict[str, str] = {}  # group by run: whose commits are ours to look at
        self._carrying = Carrying(services, "container group", self._look)

    async def start(self) -> None:
        await self.look_again()

    async def stop(self) -> None:
        await self._carrying.stop()

    async def look_again(self) -> None:
        """At the start, and a net under the wake-ups."""
        for row in await self._s.store.read(lambda read: read.find(ResourceQuery(GROUPS))):
            self.wake(row.uid)

    def job_changed(self, uid: str) -> None:
        """A job that may be a run of a group."""
        owner = self._owner.get(uid)
        if owner is not None:
            self.wake(owner)

    def wake(self, uid: str) -> None:
        """Something of this group has changed."""
        self._carrying.wake(uid)

    async def _look(self, uid: str) -> int | None:
        """Decides until nothing is to be done -> when to look again at the latest."""
        while True:
            now = self._s.clock.now()
            seen = await self._s.store.read(lambda read: _see(read, uid))
            if seen is None:
                return None
            self._owner.update({row.uid: uid for row in seen.runs})
            decided = deciding.decide(seen.view, now)
            if not decided.decisions:
                await self._prune(seen)
                return decided.again_at
            starts = [one for one in decided.decisions if isinstance(one, Start)]
            draft = container_runs.new_row(self._s, seen.row, starts[0].why, now) if starts else None
            if draft is not None:
                self._owner[draft[0].uid] = uid
            if Gone() in decided.decisions:
                await ended_children.remove_logs(self._s, seen.runs)
            gone = await self._s.store.write(
                lambda tx: _carry_out(tx, uid, decided, draft, now)  # noqa: B023
            )
            if gone:
                self._forget(gone)
                return None

    async def _prune(self, seen: Seen) -> None:
        """Ended runs whose logs nobody needs any more, with their logs."""
        uids = deciding.superseded(seen.view)
        if not uids:
            return
        gone = [row for row in seen.runs if row.uid in uids]
        await ended_children.remove(self._s, gone)
        self._forget(gone)

    def _forget(self, gone: Sequence[Resource]) -> None:
        for row in gone:
            self._owner.pop(row.uid, None)


@dataclass(frozen=True, slots=True)
class Seen:
    """One reading of a group and its runs."""

    row: Resource
    runs: Sequence[Resource]
    view: deciding.Group


def _see(read: Read, uid: str) -> Seen | None:
    row = read.by_uid(uid)
    if row is None:
        return None
    runs, status = runs_of(read, row), group_status(row)
    view = deciding.Group(row.state, status.wanted, status.generation, [as_seen(run) for run in runs])
    return Seen(row, runs, view)


def _carry_out(
    tx: Tx, uid: str, decided: Decided, draft: tuple[Resource, Told] | None, now: int
) -> Sequence[Resource]:
    """If it is still what the rows ask for. -> the runs of a group that is gone."""
    seen = _see(tx, uid)
    if seen is None or deciding.decide(seen.view, now) != decided:
        return ()
    row, by_uid = seen.row, {run.uid: run for run in seen.runs}
    status = group_status(row)
    for one in decided.decisions:
        match one:
            case Start():
                assert draft is not None
                run, told = draft
                tx.insert(run)
                for code, message in told:
                    tx.add_event(job_event(run, now, code, message))
            case Stop():
                container_runs.stop(tx, by_uid[one.uid], one.why, now)
            case Finish():
                tx.add_event(event(row, now, Provisioning.SUCCEEDED, one.message))
                row = tx.update(replace(row, state=Provisioning.SUCCEEDED, status=encode(status.settled)))
            case Fail():
                tx.add_event(event(row, now, Provisioning.FAILED, one.error.message))
                row = tx.update(
                    replace(row, state=Provisioning.FAILED, status=encode(replace(status, error=one.error)))
                )
            case Gone():
                for run in seen.runs:
                    tx.delete(run)
                finish_deletion(tx, row, now)
                return seen.runs
    return ()
