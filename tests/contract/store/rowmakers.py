"""Rows for tests, every field set to something of its own."""

from __future__ import annotations

from typing import Any

from tidemill.domain.model import (
    Attempt,
    AttemptState,
    Event,
    Interval,
    Key,
    Node,
    NodeState,
    Outcome,
    Resource,
    Scope,
    Vector,
)

WS = Scope("Sub-1", "RG-One", "Main")
OTHER = Scope("Sub-1", "RG-One", "other")


def uid(number: int) -> str:
    return f"{number:032x}"


def job(number: int, scope: Scope = WS, **changes: Any) -> Resource:
    values: dict[str, Any] = {
        "uid": uid(number),
        "key": Key(scope, "jobs", f"Job-{number}"),
        "state": "Queued",
        "spec": b'{"a":"\xc3\xa4"}',
        "status": b"{}",
        "tags": b'{"t":1}',
        "location": "westeurope",
        "ref": "CPU-cluster",
        "digest": f"d{number}",
        "created_at": 1_700_000_000_000_000 + number,
        "modified_at": 1_700_000_000_000_001,
        "created_by": "owner",
        "next_at": None,
    }
    return Resource(**(values | changes))


def attempt(number: int, job_uid: str = uid(1), **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "id": f"{job_uid}.{number}",
        "job_uid": job_uid,
        "number": number,
        "compute_uid": uid(77),
        "nodes": ("n-1", "n-2"),
        "gpu_ids": (("GPU-a", "GPU-b"), ()),
        "state": AttemptState.RUNNING,
        "epoch": 3,
        "outcome": Outcome.PREEMPTED,
        "exit_code": 137,
        "signal": 9,
        "reason": "Killed",
        "message": "It was killed.",
        "created_at": 10 + number,
        "started_at": 20,
        "ended_at": None,
        "stop_requested_at": 30,
        "stop_reason": "cancel",
        "ranks": b'{"0":{"exit_code":137}}',
        "next_at": 40,
    }
    return Attempt(**(values | changes))


def node(number: int, compute_uid: str = uid(77), **changes: Any) -> Node:
    values: dict[str, Any] = {
        "id": f"cpu-{number:06x}",
        "compute_uid": compute_uid,
        "pool": "host",
        "size": "Standard_DS3_v2",
        "granted": Vector(4000, 14 << 30, 1),
        "gpu_ids": ("GPU-a",),
        "state": NodeState.IDLE,
        "tier": "low_priority",
        "handle": b'{"pid":1}',
        "limits": b'{"cpu":{}}',
        "attempt_id": "a.1",
        "idle_since": 5,
        "created_at": 100 + number,
        "ready_at": 6,
        "closed_at": None,
        "heartbeat_at": 7,
        "reason": "Job",
        "next_at": 8,
    }
    return Node(**(values | changes))


def event(number: int, subject: str = uid(1), kind: str = "job", **changes: Any) -> Event:
    values: dict[str, Any] = {
        "subject": subject,
        "kind": kind,
        "at": 1000 + number,
        "code": "Submitted",
        "message": f"Event {number} ü",
        "actor": "owner",
        "data": b'{"n":1}',
    }
    return Event(**(values | changes))


def interval(number: int, **changes: Any) -> Interval:
    values: dict[str, Any] = {
        "id": f"i{number}",
        "kind": "node",
        "node_id": f"cpu-{number:06x}",
        "compute_uid": uid(77),
        "workspace": WS,
        "size": "Standard_DS3_v2",
        "tier": "dedicated",
        "region": "westeurope",
        "started_at": 1000 + number,
        "started_mono": 50,
        "boot_id": "boot",
        "last_seen_at": 1000 + number,
        "job_uid": "",
        "tags": b'{"team":"x"}',
    }
    return Interval(**(values | changes))
