"""Schedules: what is to be submitted, when, and in whose name.

Row: Key(ws, "schedules", name); state ENABLED or DISABLED; `spec`: ARM's properties, with the whole job
definition in them; `status`: ScheduleStatus; `digest`: of the job definition; `next_at`: when it is due.
The jobs are submitted by `schedule_runs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.errors import absent
from tidemill.app.jobs import jobs
from tidemill.app.people import access
from tidemill.app.people.on_behalf import SUBMIT
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.putting import put_row
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest, NotOffered, TidemillError
from tidemill.domain.ids import check_name, parse_workspace_id
from tidemill.domain.model import Caller, Event, Key, Resource, Scope
from tidemill.domain.schedules import catch_up_of, run_name
from tidemill.domain.triggers import Trigger, next_after, read_trigger
from tidemill.store.api import Read, ResourceQuery, Tx

TYPE = "schedules"
ENABLED, DISABLED = "Enabled", "Disabled"
COMPUTED = ("provisioningState",)
JOB = "properties.action.jobDefinition"
NOT_OFFERED = {
    "createmonitor": "Data monitoring schedules (create_monitor)",
    "importdata": "Data import schedules (import_data)",
    "invokebatchendpoint": "Schedules that invoke batch endpoints",
}
SOURCE = "sourceJobId"


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """`owner`: oid of the principal in whose name jobs are submitted, who gave the job's definition.
    `anchor`: when it got its trigger. `failures`: jobs in a row that could not be submitted. `last_at`: the
    time that was run, or failed, last; `last_error` is empty where that was submitted, as `last_job`."""

    owner: str
    owner_name: str
    anchor: int
    failures: int = 0
    last_at: int | None = None
    last_job: str = ""
    last_error: str = ""


_status = msgspec.json.Decoder(ScheduleStatus)


def status_of(row: Resource) -> ScheduleStatus:
    return _status.decode(row.status)


def key_of(scope: Scope, name: str) -> Key:
    return Key(scope, TYPE, name)


def trigger_of(row: Resource) -> Trigger:
    return read_trigger(decode_object(row.spec)["trigger"])


def event(row: Resource, at: int, code: str, message: str, actor: str = "system", **data: Any) -> Event:
    return Event(row.uid, "schedule", at, code, message, actor, encode(data))


async def put(
    s: Services, caller: Caller, scope: Scope, name: str, body: Mapping[str, Any]
) -> tuple[Resource, bool]:
    """-> (row, created). Whoever gives a new job definition becomes the schedule's owner: it needs the right
    to submit that job, and the jobs are submitted in its name. Without `isEnabled` a schedule stays as it is.
    Raises InvalidRequest, NotFound, NotOffered, AccessDenied."""
    check_name(name, "Schedule")
    given = dict(object_at(body, "properties"))
    if not given:
        raise InvalidRequest("The body has no 'properties' object.", "InvalidRequestContent", "properties")
    trigger = read_trigger(given.get("trigger"))
    tags = object_at(given, "tags", "properties.tags")
    catch_up_of(tags)
    wanted = given.get("isEnabled")
    if wanted is not None and not isinstance(wanted, bool):
        raise InvalidRequest(
            f"isEnabled must be true or false, not {wanted!r}.", target="properties.isEnabled"
        )
    definition = await _definition(s, scope, given.get("action"))
    digest = _digest(definition)
    existing = await s.store.read(lambda read: read.get(key_of(scope, name)))
    if existing is None or existing.digest != digest:
        await _check_job(s, caller, scope, name, definition)
    spec = {
        **{field: value for field, value in given.items() if field not in COMPUTED},
        "tags": tags,
        "properties": object_at(given, "properties", "properties.properties"),
        "action": {"actionType": "CreateJob", "jobDefinition": definition},
    }
    oid = caller.acts_as or caller.oid
    principal = (await s.access.current()).principal(oid)
    owner = oid, principal.name if principal is not None else caller.name
    draft = _Draft(
        key_of(scope, name), caller.name, owner, spec, digest, trigger, wanted, s.clock.now(), s.ids.uid()
    )
    return await put_row(s, draft.write)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked body, and who gave it. `owner`: oid and name of the principal that its jobs would be of."""

    key: Key
    by: str
    owner: tuple[str, str]
    spec: Mapping[str, Any]
    digest: str
    trigger: Trigger
    enabled: bool | None
    now: int
    uid: str

    def write(self, tx: Tx) -> tuple[Resource, bool]:
        old = tx.get(self.key)
        if old is None:
            return self._insert(tx), True
        status, enabled = status_of(old), (old.state == ENABLED if self.enabled is None else self.enabled)
        same_trigger = trigger_of(old) == self.trigger
        if not same_trigger:
            status = replace(status, anchor=self.now)
        if old.digest != self.digest:
            status = replace(status, owner=self.owner[0], owner_name=self.owner[1])
        if enabled and old.state != ENABLED:
            status = replace(status, failures=0)
        row = replace(
            old,
            state=ENABLED if enabled else DISABLED,
            spec=encode({**self.spec, "isEnabled": enabled}),
            status=encode(status),
            tags=encode(self.spec["tags"]),
            digest=self.digest,
            modified_at=self.now,
            next_at=old.next_at
            if same_trigger and old.state == ENABLED and enabled
            else self._next(status.anchor, enabled, same_trigger),
        )
        said = [name for name, changed in self._changes(old, row, same_trigger) if changed]
        if not said:
            return old, False
        tx.add_event(event(row, self.now, said[0], self._sentence(row, said, self.by), self.by))
        return tx.update(row), False

    def _insert(self, tx: Tx) -> Resource:
        enabled = self.enabled is not False
        status = ScheduleStatus(*self.owner, anchor=self.now)
        row = Resource(
            uid=self.uid,
            key=self.key,
            state=ENABLED if enabled else DISABLED,
            spec=encode({**self.spec, "isEnabled": enabled}),
            status=encode(status),
            tags=encode(self.spec["tags"]),
            digest=self.digest,
            created_at=self.now,
            modified_at=self.now,
            created_by=self.by,
            next_at=self._next(self.now, enabled, False),
        )
        said = self._sentence(row, ["Created"], self.by)
        tx.add_event(event(row, self.now, "Created", said, self.by))
        return tx.insert(row)

    def _next(self, anchor: int, enabled: bool, known: bool) -> int | None:
        """A trigger that is new must have a time to come. Raises InvalidRequest."""
        found = next_after(self.trigger, anchor, self.now)
        if found is None and not known:
            raise InvalidRequest(
                f"The trigger ({self.trigger.words}) has no time to come: its endTime has passed, or "
                "it names a day that never comes.",
                "TriggerNeverDue",
                "properties.trigger",
            )
        return found if enabled else None

    def _changes(self, old: Resource, new: Resource, same_trigger: bool) -> tuple[tuple[str, bool], ...]:
        return (
            ("Enabled", new.state == ENABLED != old.state),
            ("Disabled", new.state == DISABLED != old.state),
            ("TriggerChanged", not same_trigger),
            ("JobChanged", new.digest != old.digest),
            ("Updated", (new.spec, new.tags) != (old.spec, old.tags) and new.state == old.state),
        )

    def _sentence(self, row: Resource, said: list[str], by: str) -> str:
        words = {
            "Created": f"Created by {by}: {self.trigger.words}.",
            "Enabled": f"Enabled by {by}.",
            "Disabled": f"Disabled by {by}.",
            "TriggerChanged": f"{by} changed its trigger: {self.trigger.words}.",
            "JobChanged": f"{by} changed its job; its jobs are submitted in the name of {self.owner[1]}.",
        }
        told = " ".join(words[one] for one in said if one in words) or f"Changed by {by}."
        return f"{told} {next_words(row)}"


def next_words(row: Resource) -> str:
    """`The next time is 2026-03-01T06:00:00Z.`"""
    if row.state != ENABLED:
        return "It is disabled: no time is run."
    return f"The next time is {short(row.next_at)}." if row.next_at is not None else "It has no time to come."


def short(at: int) -> str:
    """A time for sentences, in seconds of UTC."""
    return f"{iso(at)[:19]}Z"


async def _definition(s: Services, scope: Scope, raw: Any) -> dict[str, Any]:
    """The whole job: that of `sourceJobId`, with what the body says besides."""
    if not isinstance(raw, Mapping):
        raise InvalidRequest("A schedule needs an action: the job to submit.", target="properties.action")
    action = cast(Mapping[str, Any], raw)
    kind = str(action.get("actionType") or "CreateJob")
    if kind.lower() in NOT_OFFERED:
        raise NotOffered(
            f"{NOT_OFFERED[kind.lower()]} are not offered by Tidemill. Schedules that submit jobs are.",
            "properties.action.actionType",
        )
    if kind.lower() != "createjob":
        raise InvalidRequest(
            f"actionType {kind!r} is not known. Use CreateJob.", target="properties.action.actionType"
        )
    definition = dict(object_at(action, "jobDefinition", JOB))
    source = str(definition.get(SOURCE) or "").removeprefix("azureml:")
    if not source:
        return definition
    name = source.rstrip("/").rsplit("/", 1)[-1]
    parsed = parse_workspace_id(source) if source.startswith("/") else (scope, ("jobs", name))
    if parsed is None or parsed[1] != ("jobs", name) or parsed[0].arm_id.lower() != scope.arm_id.lower():
        raise InvalidRequest(
            f"The scheduled job {source!r} is no job of this workspace.", target=f"{JOB}.{SOURCE}"
        )
    job = await jobs.get(s, scope, name)
    return _over(decode_object(job.spec), definition)


def _over(source: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`jobType` is the source's: the SDK calls every job that it refers to a pipeline."""
    made = {**source}
    for field, value in changes.items():
        if value in (None, "", {}, []) or field == "jobType":
            continue
        both = isinstance(value, Mapping) and isinstance(made.get(field), Mapping)
        made[field] = {**made[field], **cast(Mapping[str, Any], value)} if both else value
    return made


async def _check_job(
    s: Services, caller: Caller, scope: Scope, name: str, definition: Mapping[str, Any]
) -> None:
    """The caller may submit it, and nothing that it names is missing."""
    await access.authorise(s, caller, SUBMIT, scope)
    try:
        await jobs.check(s, caller, scope, run_name(name, 1), {"properties": job_of(definition)})
    except TidemillError as error:
        if (error.target or "").startswith("properties."):
            error.target = f"{JOB}.{(error.target or '').removeprefix('properties.')}"
        raise


def job_of(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a job, of those of a scheduled one."""
    return {name: value for name, value in definition.items() if name not in (SOURCE, "isArchived")}


def _digest(definition: Mapping[str, Any]) -> str:
    """How a client spells 'nothing' makes no difference: what was fetched and sent back is the same."""
    return hashlib.sha256(encode(_ordered(definition))).hexdigest()


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = sorted(cast(Mapping[str, Any], value).items())
        kept = {name: _ordered(item) for name, item in items}
        return {name: item for name, item in kept.items() if item not in (None, {}, [], "", False)}
    if isinstance(value, list):
        return [_ordered(item) for item in cast(list[Any], value)]
    return value


async def get(s: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the schedules that exist."""
    return await s.store.read(lambda read: find(read, scope, name))


def find(read: Read, scope: Scope, name: str) -> Resource:
    row = read.get(key_of(scope, name))
    if row is None:
        names = [one.key.name for one in read.find(ResourceQuery(TYPE, scope))]
        raise absent("Schedule", name, names, f"workspace {scope.workspace!r}")
    return row


async def list_of(
    s: Services, scope: Scope, *, state: str = "", limit: int = 0, after: str | None = None
) -> Sequence[Resource]:
    """Oldest first; `state` "": all."""
    states = (state,) if state else None
    query = ResourceQuery(TYPE, scope, states=states, ascending=True, limit=limit, after=after)
    return await s.store.read(lambda read: read.find(query))


async def delete(s: Services, caller: Caller, scope: Scope, name: str) -> Resource | None:
    """-> the row that was; None where there was none. Its jobs stay."""
    now = s.clock.now()

    def change(tx: Tx) -> Resource | None:
        row = tx.get(key_of(scope, name))
        if row is not None:
            tx.delete(row)
            tx.add_event(event(row, now, "Deleted", f"Deleted by {caller.name}.", caller.name))
        return row

    return await s.store.write(change)


def upcoming(row: Resource, count: int) -> list[int]:
    """The next times; none while it is disabled."""
    trigger, anchor = trigger_of(row), status_of(row).anchor
    found: list[int] = []
    at = row.next_at if row.state == ENABLED else None
    while at is not None and len(found) < count:
        found.append(at)
        at = next_after(trigger, anchor, at)
    return found
