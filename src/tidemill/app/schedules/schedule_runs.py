"""Submitting the jobs of schedules: of a time that has come, or by hand.

A job's name is made of the schedule and the time, and the schedule goes on to its next time in the commit
that makes the job: whatever is killed when, a time is run once. Each job is submitted in the name of the
schedule's owner, whose rights are decided again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.jobs import jobs
from tidemill.app.people import access
from tidemill.app.people.on_behalf import SUBMIT, in_name_of
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.schedules.schedules import (
    DISABLED,
    ENABLED,
    ScheduleStatus,
    event,
    find,
    job_of,
    next_words,
    short,
    status_of,
    trigger_of,
)
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest, OutOfSpace, TidemillError
from tidemill.domain.model import Caller, Event, Resource, Scope
from tidemill.domain.schedules import MOST_COUNTED, MOST_FAILURES, Due, catch_up_of, due, run_name
from tidemill.domain.timezones import micros
from tidemill.domain.units import human_duration, plural
from tidemill.store.api import Tx


class Moved(Exception):
    """The schedule was changed, or run by somebody else, meanwhile: look again."""


async def run_due(s: Services, uid: str) -> None:
    """Does what a schedule's time that has come asks for; nothing where there is none. What its owner is told
    is an event of the schedule. Raises OutOfSpace, and what is a fault of ours."""
    row = await s.store.read(lambda read: read.by_uid(uid))
    now = s.clock.now()
    if row is None or row.state != ENABLED or row.next_at is None or row.next_at > now:
        return
    catch_up = catch_up_of(decode_object(row.tags))
    found = due(trigger_of(row), status_of(row).anchor, row.next_at, now, catch_up)
    try:
        if found.run is None:
            await s.store.write(lambda tx: _skipped(tx, row, found, now))
        else:
            await _run(s, row, found, found.run, now)
    except Moved:
        return  # the change woke whoever looks


async def _run(s: Services, row: Resource, found: Due, at: int, now: int) -> None:
    name = run_name(row.key.name, at)
    late = f", {human_duration(now - at)} late" if found.late else ""

    def recorded(tx: Tx, job: Resource) -> None:
        tx.add_event(_origin(job, now, f"Submitted by schedule {row.key.name} for {short(at)}{late}."))
        _submitted(tx, row, found, at, name, f"Job {name} submitted for {short(at)}{late}.", now)

    try:
        owner = await owner_of(s, row)
        _, created = await jobs.submit(s, owner, row.key.scope, name, body_of(row, name, at), also=recorded)
    except OutOfSpace:
        raise
    except TidemillError as error:
        reason = error.message
        await s.store.write(lambda tx: _failed(tx, row, found, at, reason, now))
        return
    if not created:
        said = f"Job {name} for {short(at)} was there already."
        await s.store.write(lambda tx: _submitted(tx, row, found, at, name, said, now))
    _tell_activity(s, row, name, now)


async def trigger(s: Services, caller: Caller, scope: Scope, name: str, time_text: str) -> str:
    """Submits its job now, also while it is disabled -> the job's name. The same `time_text` (ISO 8601; "" is
    now) is the same job. Raises what a submit raises."""
    row = await s.store.read(lambda read: find(read, scope, name))
    await access.authorise(s, caller, SUBMIT, scope)
    now = s.clock.now()
    at = _asked(time_text) if time_text else now
    job = run_name(row.key.name, at)

    def recorded(tx: Tx, made: Resource) -> None:
        tx.add_event(_origin(made, now, f"Submitted by schedule {name}, triggered by {caller.name}."))
        said = f"Triggered by {caller.name}: job {job} submitted."
        tx.add_event(event(row, now, "Triggered", said, caller.name, job=job, due_at=at))

    owner = await owner_of(s, row)
    await jobs.submit(s, owner, scope, job, body_of(row, job, at), also=recorded)
    return job


def _asked(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return micros(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"scheduleTime {text[:80]!r} is no time: write it as 2026-03-01T06:00:00Z.", target="scheduleTime"
        ) from None


async def owner_of(s: Services, row: Resource) -> Caller:
    """The schedule's owner, with the rights it has now. Raises Forbidden where it may not submit any more."""
    status = status_of(row)
    whose = f"Schedule {row.key.name!r} submits in the name of {status.owner_name}"
    return await in_name_of(s, status.owner, row.key.scope, whose)


def body_of(row: Resource, name: str, at: int) -> dict[str, Any]:
    """The job of one time, as ARM has it. Its display name is its name, as in Azure."""
    action: Mapping[str, Any] = decode_object(row.spec)["action"]
    definition = job_of(action["jobDefinition"])
    marks = {"tidemill.schedule": row.key.name, "tidemill.scheduled_for": short(at)}
    properties = {**object_at(definition, "properties", "properties"), **marks}
    return {"properties": {**definition, "displayName": name, "properties": properties}}


def _origin(job: Resource, now: int, message: str) -> Event:
    return Event(job.uid, "job", now, "Scheduled", message)


def _tell_activity(s: Services, row: Resource, job: str, now: int) -> None:
    scope, name = row.key.scope, row.key.name
    why = f"Schedule {name} submitted it in the name of {status_of(row).owner_name}."
    s.activity.system(now, SUBMIT, scope.arm_id, f"{scope.arm_id}/jobs/{job}", why)


def _submitted(tx: Tx, row: Resource, found: Due, at: int, job: str, said: str, now: int) -> None:
    def change(status: ScheduleStatus) -> ScheduleStatus:
        return replace(status, failures=0, last_at=at, last_job=job, last_error="")

    fresh = _go_on(tx, row, found, now, change)
    tx.add_event(event(fresh, now, "JobSubmitted", f"{said} {next_words(fresh)}", job=job, due_at=at))


def _failed(tx: Tx, row: Resource, found: Due, at: int, reason: str, now: int) -> None:
    def change(status: ScheduleStatus) -> ScheduleStatus:
        return replace(status, failures=status.failures + 1, last_at=at, last_job="", last_error=reason)

    fresh = _go_on(tx, row, found, now, change)
    said = f"No job for {short(at)}: {reason} {next_words(fresh)}"
    tx.add_event(event(fresh, now, "JobNotSubmitted", said, due_at=at))
    if status_of(fresh).failures >= MOST_FAILURES:
        spec = {**decode_object(fresh.spec), "isEnabled": False}
        tx.update(replace(fresh, state=DISABLED, spec=encode(spec), next_at=None))
        said = (
            f"{plural(MOST_FAILURES, 'job')} in a row could not be submitted, so it is disabled. Mend what "
        )
        said += f"the last one says, then: tidemill schedule enable --name {row.key.name}"
        tx.add_event(event(fresh, now, "Disabled", said))


def _skipped(tx: Tx, row: Resource, found: Due, now: int) -> None:
    fresh = _go_on(tx, row, found, now, lambda status: status)
    if found.next_at is None:
        tx.add_event(event(fresh, now, "Ended", "It has no time to come."))


def _go_on(
    tx: Tx, row: Resource, found: Due, now: int, change: Callable[[ScheduleStatus], ScheduleStatus]
) -> Resource:
    """To its next time, and a word about those that are skipped. Raises Moved."""
    fresh = tx.by_uid(row.uid)
    if fresh is None or (fresh.state, fresh.next_at, fresh.digest) != (row.state, row.next_at, row.digest):
        raise Moved
    if found.skipped and found.skipped_from is not None:
        more = " or more" if found.skipped >= MOST_COUNTED else ""
        count = f"{found.skipped}{more} times" if found.skipped > 1 else "1 time"
        said = f"{count} skipped, from {short(found.skipped_from)} on: the server did not run, or was asleep."
        tx.add_event(event(fresh, now, "Skipped", said, due_at=found.skipped_from))
    status = encode(change(status_of(fresh)))
    return tx.update(replace(fresh, status=status, next_at=found.next_at))
