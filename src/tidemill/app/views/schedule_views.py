"""Schedules as people read them: what comes next, what came of the last times (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.app.rows.codec import decode_object
from tidemill.app.schedules.schedules import ENABLED, find, list_of, status_of, trigger_of, upcoming
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.model import Event, Resource, Scope
from tidemill.domain.schedules import catch_up_of
from tidemill.domain.timezones import find_zone, wall_clock

COMING = 5
MOST_EVENTS = 100


async def summaries(s: Services, scope: Scope, state: str = "") -> list[dict[str, Any]]:
    """Oldest first; `state` "": all."""
    return [_summary(row) for row in await list_of(s, scope, state=state)]


async def detail(s: Services, scope: Scope, name: str) -> dict[str, Any]:
    """ScheduleDetail of the native API. Raises NotFound naming the schedules that exist."""
    row, events = await s.store.read(
        lambda read: (found := find(read, scope, name), read.last_events(found.uid, MOST_EVENTS))
    )
    trigger = trigger_of(row)
    return {
        **_summary(row),
        "job": _job(row),
        "catch_up_s": catch_up_of(decode_object(row.tags)) / 1e6,
        "start_at": iso(trigger.start_at),
        "end_at": iso(trigger.end_at),
        "coming": [
            {"at": iso(at), "local": wall_clock(at, find_zone(trigger.zone)).isoformat(" ", "seconds")}
            for at in upcoming(row, COMING)
        ],
        "timeline": [_entry(event) for event in reversed(events)],
    }


def _summary(row: Resource) -> dict[str, Any]:
    status, trigger, spec = status_of(row), trigger_of(row), decode_object(row.spec)
    return {
        "name": row.key.name,
        "display_name": spec.get("displayName") or row.key.name,
        "description": spec.get("description") or "",
        "enabled": row.state == ENABLED,
        "trigger": trigger.words,
        "time_zone": trigger.zone,
        "next_at": iso(row.next_at),
        "owner": status.owner_name,
        "last_at": iso(status.last_at),
        "last_job": status.last_job or None,
        "last_error": status.last_error or None,
        "failures": status.failures,
        "tags": spec.get("tags") or {},
        "created_at": iso(row.created_at),
    }


def _job(row: Resource) -> dict[str, Any]:
    """What it submits, in the words of a job's summary."""
    definition: Mapping[str, Any] = decode_object(row.spec)["action"]["jobDefinition"]
    return {
        "type": str(definition.get("jobType") or "Command").lower(),
        "experiment": definition.get("experimentName") or "Default",
        "command": definition.get("command"),
        "compute": str(definition.get("computeId") or "").rsplit("/", 1)[-1] or None,
    }


def _entry(event: Event) -> dict[str, Any]:
    data = decode_object(event.data)
    return {
        "seq": event.seq,
        "at": iso(event.at),
        "code": event.code,
        "message": event.message,
        "actor": event.actor,
        "job": data.get("job"),
        "due_at": iso(data.get("due_at")),
    }
