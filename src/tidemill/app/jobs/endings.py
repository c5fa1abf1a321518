"""Ending jobs before their time, and removing what is left of ended ones: with all that they started."""

from __future__ import annotations

from dataclasses import replace

from tidemill.app.computes import implicit_computes
from tidemill.app.jobs import families, kept_nodes, notices
from tidemill.app.jobs.jobs import find, key_of
from tidemill.app.jobs.transitions import stopping
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.services import Services
from tidemill.domain.errors import Conflict, NotFound
from tidemill.domain.model import Caller, Event, JobState, Resource, Scope
from tidemill.domain.plan import COMMAND, JobError
from tidemill.domain.states import cancel_target, cancel_timetable
from tidemill.store.api import Tx


async def cancel(s: Services, caller: Caller, scope: Scope, name: str) -> Resource:
    """Asks for the end of a job: at once if nothing runs, else by the published timetable (TERM, then KILL
    after the grace period, then its node is closed). Of a job that started others, they all end; it is
    Canceled when the last of them has. Cancelling an ended job changes nothing. Raises NotFound."""
    now = s.clock.now()
    timetable = cancel_timetable(s.settings.cancel_grace_s, s.settings.close_grace_s).sentence

    def change(tx: Tx) -> Resource:
        row = tx.get(key_of(scope, name))
        if row is None:
            raise NotFound(f"Job {name!r} was not found in workspace {scope.workspace!r}.", target=name)
        return cancel_in(tx, row, now, caller.name, timetable)

    return await s.store.write(change)


def cancel_in(tx: Tx, row: Resource, now: int, by: str, timetable: str) -> Resource:
    """The cancel of one job and of all that it started. `by`: who, or what, for sentences; `timetable`: a
    sentence for what runs."""
    if cancel_target(JobState(row.state)) is None:
        return row
    for child in families.children(tx, row, live=True):
        cancel_in(tx, child, now, by, timetable)
    status = job_status(row.status)
    live = [attempt for attempt in tx.attempts_of(row.uid) if attempt.ended_at is None]
    for attempt in live:
        stopping(tx, attempt.id, now, "cancel")
    if live or status.kind != COMMAND:
        text = f"Cancel requested by {by}. {timetable}"
        tx.add_event(Event(row.uid, "job", now, "CancelRequested", text, by))
        return tx.update(replace(row, state=JobState.CANCEL_REQUESTED, modified_at=now))
    text = f"Canceled by {by} before it started."
    tx.add_event(Event(row.uid, "job", now, "Canceled", text, by))
    progress = replace(status.progress, ended_at=now, error=JobError("Canceled", text))
    canceled = encode(replace(status, progress=progress))
    notices.post(tx, row, status.plan, progress, JobState.CANCELED, status.kind)
    if status.plan.serverless:
        implicit_computes.remove(tx, row, now)
    return tx.update(replace(row, state=JobState.CANCELED, status=canceled, modified_at=now))


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> bool:
    """Deletes an ended job's row, those of the jobs it started, and what they logged. -> False if there was
    none. A job that has not ended is a Conflict, and so is one that another started while that is there.
    Its events and ledger stay: what was spent stays on the bill."""
    now, mono = s.clock.now(), s.clock.boottime()

    def change(tx: Tx) -> list[str]:
        row = tx.get(key_of(scope, name))
        if row is None:
            return []
        if not JobState(row.state).final:
            raise Conflict(f"Job {name!r} is {row.state}. Cancel it first.", "JobNotFinal", name)
        if row.parent_uid and (parent := tx.by_uid(row.parent_uid)) is not None:
            raise Conflict(
                f"Job {name!r} is a part of job {parent.key.name!r}. Delete that one.", "JobHasParent", name
            )
        family = [row, *families.descendants(tx, row)]
        for one in family:
            tx.delete(kept_nodes.release(tx, one, now, mono, f"Deleted by {caller.name}.", caller.name))
            tx.add_event(Event(one.uid, "job", now, "Deleted", f"Deleted by {caller.name}.", caller.name))
        return [one.key.name for one in family]

    row = await s.store.read(lambda r: find(r, scope, name))
    deleted = await s.store.write(change) if row is not None else []
    for gone in deleted:
        # A later job of that name must not go on where this one ended.
        await s.tracking.drop_run(scope.arm_id, gone)
    return bool(deleted)
