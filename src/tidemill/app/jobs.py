"""Jobs: submit, find, cancel, archive, tag. The one door for ARM, the native API, the portal and the CLI."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tidemill.app import computes, images, isolation, job_planning
from tidemill.app.codec import decode_object, encode, job_status
from tidemill.app.compute_rules import object_at
from tidemill.app.services import Services
from tidemill.app.teams import tags_of
from tidemill.app.transitions import stopping
from tidemill.app.waiting import wait_set
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tidemill.domain.ids import check_name
from tidemill.domain.jobservices import asked_for, read_services
from tidemill.domain.jobspec import read_command_job
from tidemill.domain.model import Caller, Event, JobState, Key, Resource, Scope
from tidemill.domain.plan import JobError, JobProgress, JobStatus, PlannedEnvironment
from tidemill.domain.states import cancel_target, cancel_timetable
from tidemill.store.api import AlreadyExists, Granted, Read, ResourceQuery, Tx

TYPE = "jobs"

# Set by the server; a body that carries them (a fetched job sent back) means the same without them.
SERVER_SET = ("status", "services", "provisioningState", "parentJobName")


def key_of(scope: Scope, name: str) -> Key:
    return Key(scope, TYPE, name)


async def submit(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """-> (row, created). The same name and body again is the same job; another body is a Conflict.

    Nothing is written when anything is refused. Raises InvalidRequest, NotFound (a compute, environment or
    input that does not exist, naming those that do), NotOffered, Conflict.
    """
    check_name(name, "Job")
    properties = _properties(body)
    digest = _digest(properties)
    existing = await s.store.read(lambda r: r.get(key_of(scope, name)))
    if existing is not None:
        return _same_or_conflict(existing, digest), False
    job = read_command_job(name, properties)
    tags = tags_of(properties)
    plan = await job_planning.plan_job(s, caller, scope, name, job, tags)
    services = read_services(properties.get("services"))
    level = await isolation.required_of(s, plan.compute_uid, tags)
    plan = replace(plan, services=services, isolation=level)
    ready = images.is_ready(s, plan.environment)
    now = s.clock.now()
    stored = {
        **properties,
        "displayName": job.display_name,
        "experimentName": job.experiment,
        "isArchived": bool(properties.get("isArchived", False)),
        "jobType": "Command",
    }
    for field in ("inputs", "outputs", "tags", "properties", "environmentVariables"):
        stored[field] = object_at(stored, field, f"properties.{field}")
    row = Resource(
        uid=s.ids.uid(),
        key=key_of(scope, name),
        state=JobState.QUEUED if ready else JobState.PREPARING,
        spec=encode(stored),
        status=encode(JobStatus(plan, JobProgress(built_environment=not ready))),
        tags=encode(stored["tags"]),
        ref=plan.compute_uid,
        digest=digest,
        archived=bool(stored["isArchived"]),
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )

    def insert(tx: Tx) -> Resource:
        computes.check_there(tx, plan.compute_uid, plan.compute_name or computes.LOCAL)
        inserted = tx.insert(row)
        where = f"compute {plan.compute_name}" if plan.compute_name else "this host"
        if job.instance_type and not job.compute_id:
            where += f", which stands in for serverless {job.instance_type}"
        tx.add_event(
            Event(row.uid, "job", now, "Submitted", f"Submitted by {caller.name} to {where}.", caller.name)
        )
        for note in plan.environment.notes:
            tx.add_event(Event(row.uid, "job", now, "Note", note))
        if not ready:
            tx.add_event(Event(row.uid, "job", now, "Preparing", _preparing(plan.environment)))
        return inserted

    try:
        return await s.store.write(insert), True
    except AlreadyExists:
        other = await s.store.read(lambda r: r.get(key_of(scope, name)))
        if other is None:
            raise
        return _same_or_conflict(other, digest), False


def _preparing(planned: PlannedEnvironment) -> str:
    if not planned.in_image:
        return f"Environment {planned.label} is being built."
    also = ", and its packages are built in it" if planned.packages else ""
    return (
        f"Image {planned.image} of environment {planned.label} is looked up, and fetched if it is new{also}."
    )


def _properties(body: Mapping[str, Any]) -> dict[str, Any]:
    raw = body.get("properties")
    if not isinstance(raw, Mapping):
        raise InvalidRequest("The body has no 'properties' object.", "InvalidRequestContent", "properties")
    values = cast(Mapping[str, Any], raw)
    services = asked_for(values.get("services"))
    found = {k: v for k, v in values.items() if k not in SERVER_SET}
    return {**found, "services": services} if services else found


def _digest(properties: Mapping[str, Any]) -> str:
    # Fields that may change after the submit do not make it another job.
    fixed = {
        k: v for k, v in properties.items() if k not in ("tags", "isArchived", "displayName", "description")
    }
    return hashlib.sha256(encode(_ordered(fixed))).hexdigest()


def _ordered(value: Any) -> Any:
    """Keys sorted, empty and absent alike: how a client spells 'nothing' makes no difference."""
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value).items()
        return {k: _ordered(v) for k, v in sorted(items) if v not in (None, {}, [])}
    if isinstance(value, list):
        return [_ordered(v) for v in cast(list[Any], value)]
    return value


def _same_or_conflict(existing: Resource, digest: str) -> Resource:
    if existing.digest == digest:
        return existing
    raise Conflict(
        f"Job {existing.key.name!r} exists with another definition. Jobs cannot be changed once submitted: "
        "use another name (tags, display name and description can be updated).",
        "JobAlreadyExists",
        existing.key.name,
    )


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound."""
    row = await s.store.read(lambda r: r.get(key_of(scope, name)))
    if row is None:
        raise NotFound(
            f"Job {name!r} was not found in workspace {scope.workspace!r}.", "ResourceNotFound", name
        )
    return row


async def list_jobs(
    s: Services,
    scope: Scope,
    *,
    archived: bool | None = False,
    states: Sequence[str] | None = None,
    limit: int = 100,
    after: str | None = None,
    compute_uid: str | None = None,
    granted: Granted | None = None,
) -> Sequence[Resource]:
    """Newest first. `granted`: only those with a role of their own (`access.Part`)."""
    query = ResourceQuery(
        TYPE,
        scope,
        states=tuple(states) if states else None,
        archived=archived,
        limit=limit,
        after=after,
        ref=compute_uid,
        granted=granted,
    )
    return await s.store.read(lambda r: r.find(query))


async def cancel(s: Services, caller: Caller, scope: Scope, name: str) -> Resource:
    """Asks for the end of a job: at once if nothing runs, else by the published timetable (TERM, then KILL
    after the grace period, then its node is closed). Cancelling an ended job changes nothing."""
    now = s.clock.now()
    timetable = cancel_timetable(s.settings.cancel_grace_s, s.settings.close_grace_s)

    def change(tx: Tx) -> Resource:
        row = tx.get(key_of(scope, name))
        if row is None:
            raise NotFound(f"Job {name!r} was not found in workspace {scope.workspace!r}.", target=name)
        if cancel_target(JobState(row.state)) is None:
            return row
        status = job_status(row.status)
        progress = status.progress
        live = [a for a in tx.attempts_of(row.uid) if a.ended_at is None]
        if live:
            for attempt in live:
                stopping(tx, attempt.id, now, "cancel")
            state = JobState.CANCEL_REQUESTED
            tx.add_event(
                Event(
                    row.uid,
                    "job",
                    now,
                    "CancelRequested",
                    f"Cancel requested by {caller.name}. {timetable.sentence}",
                    caller.name,
                )
            )
        else:
            state = JobState.CANCELED
            progress = replace(
                progress,
                ended_at=now,
                error=JobError("Canceled", f"Canceled by {caller.name} before it started."),
            )
            tx.add_event(
                Event(
                    row.uid,
                    "job",
                    now,
                    "Canceled",
                    f"Canceled by {caller.name} before it started.",
                    caller.name,
                )
            )
        return tx.update(
            replace(row, state=state, status=encode(replace(status, progress=progress)), modified_at=now)
        )

    return await s.store.write(change)


async def patch(s: Services, caller: Caller, scope: Scope, name: str, changes: Mapping[str, Any]) -> Resource:
    """Changes what may change: `tags` and `properties` (merged; null removes), `displayName`, `description`,
    `hidden` or `isArchived`."""
    now = s.clock.now()

    def change(tx: Tx) -> Resource:
        row = tx.get(key_of(scope, name))
        if row is None:
            raise NotFound(f"Job {name!r} was not found in workspace {scope.workspace!r}.", target=name)
        if caller.only_own and caller.oid != row.uid:
            raise Forbidden(f"Job {caller.job!r} may change only itself, not {name!r}.")
        spec = decode_object(row.spec)
        for field in ("tags", "properties"):
            given = changes.get(field)
            if isinstance(given, Mapping):
                merged = {**spec.get(field, {}), **cast(Mapping[str, Any], given)}
                spec[field] = {k: v for k, v in merged.items() if v is not None}
        for field in ("displayName", "description"):
            if changes.get(field) is not None:
                spec[field] = str(changes[field])
        hidden = changes.get("hidden", changes.get("isArchived"))
        if hidden is not None:
            spec["isArchived"] = bool(hidden)
        updated = replace(
            row,
            spec=encode(spec),
            tags=encode(spec.get("tags", {})),
            archived=bool(spec.get("isArchived")),
            modified_at=now,
        )
        if (updated.spec, updated.archived) == (row.spec, row.archived):
            return row
        if updated.archived != row.archived:
            word = "Archived" if updated.archived else "Restored"
            tx.add_event(Event(row.uid, "job", now, word, f"{word} by {caller.name}.", caller.name))
        return tx.update(updated)

    return await s.store.write(change)


def find(read: Read, scope: Scope, name: str) -> Resource | None:
    return read.get(key_of(scope, name))


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> bool:
    """Deletes an ended job's row and what it logged. -> False if there was none. A job that has not ended is
    a Conflict. Its events and ledger stay: what was spent stays on the bill."""
    now = s.clock.now()

    def change(tx: Tx) -> bool:
        row = tx.get(key_of(scope, name))
        if row is None:
            return False
        if not JobState(row.state).final:
            raise Conflict(f"Job {name!r} is {row.state}. Cancel it first.", "JobNotFinal", name)
        tx.delete(row)
        tx.add_event(Event(row.uid, "job", now, "Deleted", f"Deleted by {caller.name}.", caller.name))
        return True

    row = await s.store.read(lambda r: find(r, scope, name))
    deleted = await s.store.write(change)
    if deleted and row is not None:
        # A later job of that name must not go on where this one ended.
        await s.tracking.drop_run(scope.arm_id, row.key.name)
    return deleted


async def wait(s: Services, scope: Scope, name: str, timeout_s: float) -> Resource:
    """The job's row once it is final, or as it is after `timeout_s`."""
    row = await get(s, scope, name)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    with s.live.watching(row.uid) as changed:
        while True:
            changed.clear()
            row = await s.store.read(lambda r: r.by_uid(row.uid)) or row  # noqa: B023
            left = deadline - loop.time()
            if JobState(row.state).final or left <= 0:
                return row
            await wait_set(changed, left)
