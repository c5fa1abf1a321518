"""Jobs: submit, find, archive, tag (`app.jobs.endings`: cancel, delete). The one door for all dialects."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tidemill.app.assets.registries import check_usable
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.jobs import command_jobs, families, notices, parallel_steps, pipeline_jobs, sweep_jobs
from tidemill.app.jobs.prepared import Child, Prepare, Prepared
from tidemill.app.people import secretstore
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tidemill.domain.ids import check_name
from tidemill.domain.jobservices import asked_for
from tidemill.domain.jobspec import KEEP, job_kind
from tidemill.domain.model import Caller, Event, JobState, Key, Resource, Scope
from tidemill.domain.notifications import secret_texts
from tidemill.domain.plan import COMMAND, PIPELINE, SWEEP, ChildOf
from tidemill.store.api import AlreadyExists, Granted, Read, ResourceQuery, Tx

# Every kind of job that is offered: how its body is read and resolved.
KINDS: Mapping[str, Prepare] = {
    COMMAND: command_jobs.prepare,
    PIPELINE: pipeline_jobs.prepare,
    SWEEP: sweep_jobs.prepare,
}

TYPE = "jobs"

# Set by the server; a body that carries them (a fetched job sent back) means the same without them.
SERVER_SET = ("status", "services", "provisioningState", "parentJobName")


# Properties that say which job this one was made from.
ORIGINS = {"tidemill.rerun_of": "A rerun of job", "tidemill.clone_of": "A clone of job"}


def key_of(scope: Scope, name: str) -> Key:
    return Key(scope, TYPE, name)


async def submit(
    s: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    body: Mapping[str, Any],
    child: Child | None = None,
    also: Callable[[Tx, Resource], None] | None = None,
) -> tuple[Resource, bool]:
    """-> (row, created). The same name and body again is the same job; another body is a Conflict.

    Nothing is written when anything is refused. `child`: a job that runs submits it, in its submitter's name.
    `also` is done in the commit that makes the job, if one is made.
    Raises InvalidRequest, NotFound (a compute, environment or input that does not exist, naming those that
    do), NotOffered, Conflict.
    """
    check_name(name, "Job")
    properties = _properties(body)
    digest = _digest(properties)
    existing = await s.store.read(lambda r: r.get(key_of(scope, name)))
    if existing is not None:
        return _same_or_conflict(existing, digest), False
    kind = job_kind(name, properties, KINDS)
    if child is None:
        parallel_steps.refuse_alone(name, properties)
    await check_usable(s, caller, properties)
    prepared = await KINDS[kind](s, caller, scope, name, properties, child)
    row = _row(s, caller, key_of(scope, name), properties, prepared, child)
    unheard = await _unheard(s, caller, scope, prepared)
    submitted = f"Submitted by {caller.name} to {prepared.where}."

    def insert(tx: Tx) -> Resource:
        prepared.check(tx)
        if child is not None:
            parent = families.check_running(tx, child.parent)
            for told in child.told:
                tx.add_event(Event(parent.uid, "job", row.created_at, *told))
        inserted = tx.insert(row)
        tx.add_event(Event(row.uid, "job", row.created_at, "Submitted", submitted, caller.name))
        for code, note in (*_told(properties, unheard), *prepared.notes):
            tx.add_event(Event(row.uid, "job", row.created_at, code, note))
        prepared.also(tx, inserted)
        if also is not None:
            also(tx, inserted)
        return inserted

    try:
        return await s.store.write(insert), True
    except AlreadyExists:
        other = await s.store.read(lambda r: r.get(key_of(scope, name)))
        if other is None:
            raise
        return _same_or_conflict(other, digest), False


async def refused_child(
    s: Services, name: str, body: Mapping[str, Any], child: Child, prepared: Prepared
) -> Resource:
    """The row of a child that could not be submitted: it has failed before it began, with the reason. The
    same name again is the same row."""
    properties = _properties(body)
    parent = child.parent
    caller = Caller(job_status(parent.status).plan.user, parent.created_by, "")
    row = _row(s, caller, key_of(parent.key.scope, name), properties, prepared, child)
    error = prepared.status.progress.error
    assert error is not None

    def insert(tx: Tx) -> Resource:
        existing = tx.get(row.key)
        if existing is not None:
            return existing
        families.check_running(tx, parent)
        for told in child.told:
            tx.add_event(Event(parent.uid, "job", row.created_at, *told))
        tx.add_event(Event(row.uid, "job", row.created_at, "Failed", error.message))
        return tx.insert(row)

    return await s.store.write(insert)


async def check(s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]) -> None:
    """Raises what `submit` would now; writes nothing."""
    check_name(name, "Job")
    properties = _properties(body)
    await check_usable(s, caller, properties)
    prepared = await KINDS[job_kind(name, properties, KINDS)](s, caller, scope, name, properties, None)
    await _unheard(s, caller, scope, prepared)
    _row(s, caller, key_of(scope, name), properties, prepared, None)


async def _unheard(s: Services, caller: Caller, scope: Scope, prepared: Prepared) -> tuple[str, ...]:
    """What nobody will be told at its end although it says so. Raises NotFound or Forbidden for a secret of a
    webhook that is not there, or that the caller may not read."""
    notify = prepared.status.plan.job.notify
    if notify is None:
        return ()
    await secretstore.check_usable(s, caller, scope, secret_texts(notify.hooks))
    return await notices.notes(s, prepared.status.plan)


def _row(
    s: Services,
    caller: Caller,
    key: Key,
    properties: Mapping[str, Any],
    prepared: Prepared,
    child: Child | None,
) -> Resource:
    now = s.clock.now()
    job, status = prepared.status.plan.job, prepared.status
    stored = {
        **properties,
        "displayName": job.display_name,
        "experimentName": job.experiment,
        "isArchived": bool(properties.get("isArchived", False)),
        "jobType": prepared.job_type,
        **prepared.shown,
    }
    for field in ("inputs", "outputs", "tags", "properties", "environmentVariables"):
        stored[field] = object_at(stored, field, f"properties.{field}")
    stored["properties"] = {**object_at(stored, "properties"), **dict(prepared.properties)}
    if child is not None:
        stored["parentJobName"] = child.parent.key.name
        above = job_status(child.parent.status).child
        root = above.root if above else child.parent.key.name
        status = replace(status, child=ChildOf(child.parent.key.name, root, child.step))
    return Resource(
        uid=s.ids.uid(),
        key=key,
        state=prepared.state,
        spec=encode(stored),
        status=encode(status),
        tags=encode(stored["tags"]),
        ref=prepared.ref,
        digest=_digest(properties),
        archived=bool(stored["isArchived"]),
        parent_uid=child.parent.uid if child is not None else "",
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )


def _properties(body: Mapping[str, Any]) -> dict[str, Any]:
    raw = body.get("properties")
    if not isinstance(raw, Mapping):
        raise InvalidRequest("The body has no 'properties' object.", "InvalidRequestContent", "properties")
    values = cast(Mapping[str, Any], raw)
    services = asked_for(values.get("services"))
    found = {k: v for k, v in values.items() if k not in SERVER_SET}
    return {**found, "services": services} if services else found


def _told(properties: Mapping[str, Any], more: Sequence[str]) -> list[tuple[str, str]]:
    """Where it comes from, and what of it will be without effect."""
    given = object_at(properties, "properties", "properties.properties")
    notes = [f"{word} {given[mark]}." for mark, word in ORIGINS.items() if given.get(mark)]
    if given.get(KEEP) and str(properties.get("jobType")).lower() == PIPELINE:
        notes.append(f"{KEEP} of a pipeline keeps no nodes: it is a property of a step.")
    return [("Note", note) for note in (*notes, *more)]


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
    """The body that it was submitted with, or the one that it is shown with."""
    if digest in (existing.digest, _digest(_properties({"properties": decode_object(existing.spec)}))):
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
    parent_uid: str | None = "",
    granted: Granted | None = None,
) -> Sequence[Resource]:
    """Newest first. `parent_uid`: "" for jobs that no other job started, a job's uid for its children, None
    for both. `granted`: only those with a role of their own (`access.Part`)."""
    query = ResourceQuery(
        TYPE,
        scope,
        states=tuple(states) if states else None,
        archived=archived,
        limit=limit,
        after=after,
        parent_uid=parent_uid,
        granted=granted,
    )
    return await s.store.read(lambda r: r.find(query))


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
            for one in (row, *families.descendants(tx, row)):
                tx.add_event(Event(one.uid, "job", now, word, f"{word} by {caller.name}.", caller.name))
                if one is not row:
                    tx.update(families.archived(one, updated.archived, now))
        return tx.update(updated)

    return await s.store.write(change)


def find(read: Read, scope: Scope, name: str) -> Resource | None:
    return read.get(key_of(scope, name))


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
