"""Container groups as they are shown: Azure's instance views, what they cost, why one does not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.computes.implicit_computes import of_owner
from tidemill.app.jobs import costs
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.rows.container_rows import GROUPS, find_group, group_status, newest_run
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.app.views.job_views import timeline_entry
from tidemill.domain.containers.plan import (
    RUNNING,
    START_ERROR,
    WAITING,
    ContainerEvent,
    ContainerRecord,
    ContainerState,
)
from tidemill.domain.containers.records import as_it_is, ended_well
from tidemill.domain.containers.status import GroupStatus
from tidemill.domain.model import Event, JobState, Resource, Scope
from tidemill.domain.serving.model import Provisioning
from tidemill.store.api import Read, ResourceQuery

_EVENTS = 20
_LISTS = ("initContainers", "containers")
PENDING, SUCCEEDED, FAILED, STOPPED = "Pending", "Succeeded", "Failed", "Stopped"  # with Running, Azure's


def state_of(row: Resource, status: GroupStatus, run: Resource | None) -> str:
    """Azure's `instanceView.state` of a group."""
    if run is None or JobState(run.state).final:
        if not status.wanted:
            return STOPPED
        if run is None or row.state in (Provisioning.CREATING, Provisioning.UPDATING):
            return FAILED if row.state == Provisioning.FAILED else PENDING
        if run.state != JobState.COMPLETED:
            return FAILED
        return _end_of(run)
    attempt = job_status(run.status).progress.attempt
    records = [one for one in _main(run) if one.attempt == attempt]
    return RUNNING if any(one.now.state == RUNNING or one.restarts for one in records) else PENDING


def _end_of(run: Resource) -> str:
    """Of a run whose containers have all come to their end."""
    failed = any(one.now.exit_code or one.now.detail == START_ERROR for one in _main(run))
    return FAILED if failed else SUCCEEDED


def _main(run: Resource) -> Sequence[ContainerRecord]:
    """Those of its containers that are no init containers."""
    status = job_status(run.status)
    return status.containers[len(status.plan.group.spec.init) :] if status.plan.group is not None else ()


def properties_of(row: Resource, run: Resource | None, events: Sequence[Event]) -> dict[str, Any]:
    """ARM's `properties` of a group: as they were given, and what is computed."""
    status = group_status(row)
    given = decode_object(row.spec)
    records = _records(run)

    def viewed(one: dict[str, Any]) -> dict[str, Any]:
        view = _instance_view(records.get(one["name"]))
        return {**one, "properties": {**one["properties"], "instanceView": view}}

    containers = {field: [viewed(one) for one in given[field]] for field in _LISTS if given.get(field)}
    shown = [_group_event(one) for one in events]
    address: dict[str, Any] = {}
    if given.get("ipAddress"):
        # Nothing listens outside of the group's own network: the event says how its ports are reached.
        address = {"ipAddress": {**given["ipAddress"], "ip": None, "fqdn": None}}
        shown.append(_reach(row, status))
    return {
        **given,
        **address,
        **containers,
        "provisioningState": row.state,
        "osType": "Linux",
        "restartPolicy": status.spec.restart,
        "instanceView": {"state": state_of(row, status, run), "events": shown},
    }


def _records(run: Resource | None) -> Mapping[str, ContainerRecord]:
    """How the containers of a run are, by name; of one that has ended, too."""
    if run is None:
        return {}
    status = job_status(run.status)
    progress, state = status.progress, JobState(run.state)
    ended = (progress.error.code if progress.error is not None else state.value) if state.final else ""
    return {one.name: as_it_is(one, progress.attempt, ended, progress.ended_at) for one in status.containers}


def _reach(row: Resource, status: GroupStatus) -> dict[str, Any]:
    ports = " ".join(str(port) for port in status.spec.ports) or "PORT"
    message = (
        "The group has a network of its own, with its loopback alone, so it has no address. Its ports are "
        f"reached by: tidemill container port-forward --name {row.key.name} {ports}"
    )
    if status.spec.dns_label:
        message += f". Nothing resolves dnsNameLabel {status.spec.dns_label!r}."
    at = iso(row.created_at)
    return {
        "name": "Reach",
        "type": "Normal",
        "message": message,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
    }


def _instance_view(record: ContainerRecord | None) -> dict[str, Any]:
    if record is None:
        return {"restartCount": 0, "currentState": {"state": WAITING, "detailStatus": ""}, "events": []}
    view: dict[str, Any] = {
        "restartCount": record.restarts,
        "currentState": _state(record.now),
        "events": [_container_event(one) for one in record.events],
    }
    if record.before is not None:
        view["previousState"] = _state(record.before)
    return view


def _state(state: ContainerState) -> dict[str, Any]:
    shown = {
        "state": state.state,
        "startTime": iso(state.started_at),
        "finishTime": iso(state.finished_at),
        "exitCode": state.exit_code,
        "detailStatus": state.detail,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _container_event(one: ContainerEvent) -> dict[str, Any]:
    return {
        "name": one.name,
        "type": one.kind,
        "message": one.message,
        "count": one.count,
        "firstTimestamp": iso(one.first_at),
        "lastTimestamp": iso(one.last_at),
    }


def _group_event(one: Event) -> dict[str, Any]:
    at = iso(one.at)
    return {
        "name": one.code,
        "type": "Warning" if one.code == Provisioning.FAILED else "Normal",
        "message": one.message,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
    }


async def properties(s: Services, rows: Sequence[Resource]) -> list[dict[str, Any]]:
    """`properties_of` each."""

    def look(read: Read) -> list[tuple[Resource | None, Sequence[Event]]]:
        return [(newest_run(read, row), list(reversed(read.last_events(row.uid, _EVENTS)))) for row in rows]

    found = await s.store.read(look)
    return [properties_of(row, run, events) for row, (run, events) in zip(rows, found, strict=True)]


async def summaries(s: Services, scope: Scope) -> list[dict[str, Any]]:
    """ContainerGroupSummary of docs/architecture.md, oldest first."""
    rows = await s.store.read(lambda read: read.find(ResourceQuery(GROUPS, scope, ascending=True)))
    return [await _summary(s, row) for row in rows]


async def detail(s: Services, scope: Scope, name: str) -> dict[str, Any]:
    """ContainerGroupDetail. Raises NotFound."""
    row = await s.store.read(lambda read: find_group(read, scope, name))
    (shown,) = await properties(s, [row])
    events = await s.store.read(lambda read: _timeline(read, row))
    return {
        **await _summary(s, row),
        "properties": shown,
        "timeline": [timeline_entry(one, row.created_at) for one in events],
    }


def _timeline(read: Read, row: Resource) -> list[Event]:
    """What happened to the group and to its newest run, in order."""
    run = newest_run(read, row)
    found = list(read.last_events(row.uid, 50))
    if run is not None:
        # To its job a run is Completed however its containers ended.
        found += [
            replace(one, code=_end_of(run)) if one.code == JobState.COMPLETED else one
            for one in read.last_events(run.uid, 50)
        ]
    return sorted(found, key=lambda one: one.seq)


async def _summary(s: Services, row: Resource) -> dict[str, Any]:
    def look(read: Read) -> tuple[Resource | None, str]:
        compute = of_owner(read, row)
        return newest_run(read, row), compute.uid if compute is not None else ""

    run, compute_uid = await s.store.read(look)
    status, records = group_status(row), _records(run)
    price = s.sizes.price(status.size, row.location)
    return {
        "name": row.key.name,
        "state": row.state,
        "running": state_of(row, status, run),
        "restart_policy": status.spec.restart,
        "runtime": status.spec.runtime,
        "cpu": status.spec.cpu_milli / 1000,
        "memory_gib": round(status.spec.memory / 2**30, 2),
        "ports": list(status.spec.ports),
        "containers": [
            {
                "name": one.name,
                "image": one.image,
                "state": records[one.name].now.state if one.name in records else WAITING,
                "detail": records[one.name].now.detail if one.name in records else "",
                "exit_code": records[one.name].now.exit_code if one.name in records else None,
                "restarts": records[one.name].restarts if one.name in records else 0,
                "ready": one.name in records
                and records[one.name].ready
                and records[one.name].now.state == RUNNING,
            }
            for one in status.spec.every
        ],
        "error": {"code": status.error.code, "message": status.error.message} if status.error else None,
        "price_usd_hour": price.usd_hour if price else None,
        "price_basis": f"{price.basis} ({price.as_of})" if price else costs.UNPRICED,
        "run_rate_usd_hour": await costs.compute_run_rate(s, status.compute_uid) if compute_uid else 0.0,
        "cost_usd": await costs.compute_usd(s, status.compute_uid),
        "tags": decode_object(row.tags),
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
    }


async def why(s: Services, scope: Scope, name: str) -> dict[str, Any]:
    """{"name", "state", "sentence", "reasons": [{"code", "message"}], "next": [command]}. Raises NotFound."""
    row = await s.store.read(lambda read: find_group(read, scope, name))
    shown = await _summary(s, row)
    run = await s.store.read(lambda read: newest_run(read, row))
    reasons: list[dict[str, str]] = []
    if shown["error"]:
        reasons.append(shown["error"])
    if run is not None and not JobState(run.state).final and run.state != JobState.RUNNING:
        events = await s.store.read(lambda read: read.last_events(run.uid, 1))
        reasons += [{"code": one.code, "message": one.message} for one in events]
    stopped = run is None or shown["running"] == STOPPED
    for one in () if stopped else _records(run).values():
        if ended_well(one) or (one.now.state == RUNNING and one.ready and not one.restarts):
            continue
        if one.events:
            last = one.events[-1]
            reasons.append({"code": last.name, "message": f"{one.name} ({one.now.state}): {last.message}"})
    sentence = {
        RUNNING: "It runs.",
        PENDING: "It starts.",
        STOPPED: "It is stopped: it has no node, and costs nothing.",
        SUCCEEDED: "Its containers have ended without an error.",
        FAILED: "It failed, or a container of it ended with an error.",
    }[shown["running"]]
    follow = [f"tidemill container show --name {name}", f"tidemill container logs --name {name}"]
    if shown["running"] in (STOPPED, SUCCEEDED, FAILED):
        follow.append(f"tidemill container start --name {name}")
    return {
        "name": row.key.name,
        "state": shown["running"],
        "sentence": reasons[0]["message"] if reasons else sentence,
        "reasons": reasons,
        "next": follow,
    }
