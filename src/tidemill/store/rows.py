"""Records to rows and back: column lists in the order of the dataclasses, and the folded form of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.domain.activity import GENESIS, Head, Record
from tidemill.domain.activity import Outcome as ActivityOutcome
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

Row = Sequence[Any]

RESOURCE_COLUMNS = (
    "uid, subscription, resource_group, workspace, type, name, parent, state, spec, status, tags, location, "
    "ref, digest, archived, parent_uid, created_at, modified_at, created_by, next_at, revision"
)
RESOURCE_KEY_COLUMNS = "scope_key, type_key, parent_key, whole_key, ref_key"
# A resource's key, parent, creation time and creator never change.
RESOURCE_UPDATES = (
    "state, spec, status, tags, location, ref, digest, archived, modified_at, next_at, revision, ref_key"
)
ATTEMPT_COLUMNS = (
    "id, job_uid, number, compute_uid, nodes, gpu_ids, state, epoch, outcome, exit_code, signal, reason, "
    "message, created_at, started_at, ended_at, stop_requested_at, stop_reason, ranks, next_at, revision"
)
NODE_COLUMNS = (
    "id, compute_uid, pool, size, cpu_milli, memory, gpus, gpu_ids, state, tier, handle, limits, attempt_id, "
    "idle_since, created_at, ready_at, closed_at, heartbeat_at, reason, next_at, revision"
)
EVENT_COLUMNS = "subject, kind, at, code, message, actor, data"
INTERVAL_COLUMNS = (
    "id, kind, node_id, compute_uid, subscription, resource_group, workspace, size, tier, region, "
    "started_at, started_mono, boot_id, last_seen_at, job_uid, tags, ended_at, ended_mono, end_reason"
)
ACTIVITY_COLUMNS = (
    "seq, at, action, outcome, actor, actor_name, actor_kind, address, agent, scope, resource, method, "
    "status, code, assignment, reason, correlation, count, hash"
)
ACTIVITY_HEAD = "activity.head"  # in meta

_encode = msgspec.json.encode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_name_lists = msgspec.json.Decoder(tuple[tuple[str, ...], ...]).decode
_ATTEMPT_STATES = {state.value: state for state in AttemptState}
_NODE_STATES = {state.value: state for state in NodeState}
_OUTCOMES: dict[str | None, Outcome | None] = {None: None, **{outcome.value: outcome for outcome in Outcome}}
_NO_NAMES = b"[]"

# Lists hold few scopes and many rows: the same Scope value is shared between them.
_scopes: dict[tuple[str, str, str], Scope] = {}


def fold(text: str) -> str:
    """The form that names are compared in: ARM does not tell cases apart."""
    return text.lower()


def scope_key(scope: Scope) -> str:
    return fold(f"{scope.subscription}/{scope.group}/{scope.workspace}")


def folded(key: Key) -> tuple[str, str, str, str]:
    """(scope, type, parent, name) as compared: two keys name one resource when these are equal."""
    return scope_key(key.scope), fold(key.type), fold(key.parent), fold(key.name)


def whole_key(scope: str, type: str, parent: str, name: str) -> str:
    """The folded parts as one text. No part holds a line break: they are segments of a path."""
    return f"{scope}\n{type}\n{parent}\n{name}"


def _scope(subscription: str, group: str, workspace: str) -> Scope:
    parts = (subscription, group, workspace)
    found = _scopes.get(parts)
    if found is None:
        if len(_scopes) > 4096:
            _scopes.clear()
        found = _scopes[parts] = Scope(subscription, group, workspace)
    return found


def resource_row(row: Resource) -> Row:
    key, scope = row.key, row.key.scope
    parts = folded(key)
    return (
        row.uid,
        scope.subscription,
        scope.group,
        scope.workspace,
        key.type,
        key.name,
        key.parent,
        str(row.state),
        row.spec,
        row.status,
        row.tags,
        row.location,
        row.ref,
        row.digest,
        1 if row.archived else 0,
        row.parent_uid,
        row.created_at,
        row.modified_at,
        row.created_by,
        row.next_at,
        row.revision,
        *parts[:3],
        whole_key(*parts),
        fold(row.ref),
    )


def resource_update_row(row: Resource) -> Row:
    return (
        str(row.state),
        row.spec,
        row.status,
        row.tags,
        row.location,
        row.ref,
        row.digest,
        1 if row.archived else 0,
        row.modified_at,
        row.next_at,
        row.revision + 1,
        fold(row.ref),
    )


def to_resource(row: Row) -> Resource:
    uid, subscription, group, workspace, type, name, parent, state, spec, status, tags, location, *rest = row
    ref, digest, archived, parent_uid, created_at, modified_at, created_by, next_at, revision = rest
    return Resource(
        uid,
        Key(_scope(subscription, group, workspace), type, name, parent),
        state,
        spec,
        status,
        tags,
        location,
        ref,
        digest,
        archived == 1,
        parent_uid,
        created_at,
        modified_at,
        created_by,
        next_at,
        revision,
    )


def attempt_row(attempt: Attempt, revision: int) -> Row:
    return (
        attempt.id,
        attempt.job_uid,
        attempt.number,
        attempt.compute_uid,
        _encode(attempt.nodes) if attempt.nodes else _NO_NAMES,
        _encode(attempt.gpu_ids) if attempt.gpu_ids else _NO_NAMES,
        attempt.state.value,
        attempt.epoch,
        None if attempt.outcome is None else attempt.outcome.value,
        attempt.exit_code,
        attempt.signal,
        attempt.reason,
        attempt.message,
        attempt.created_at,
        attempt.started_at,
        attempt.ended_at,
        attempt.stop_requested_at,
        attempt.stop_reason,
        attempt.ranks,
        attempt.next_at,
        revision,
    )


def to_attempt(row: Row) -> Attempt:
    id, job_uid, number, compute_uid, nodes, gpu_ids, state, epoch, outcome, *rest = row
    return Attempt(
        id,
        job_uid,
        number,
        compute_uid,
        _decode_names(nodes),
        _decode_name_lists(gpu_ids),
        _ATTEMPT_STATES[state],
        epoch,
        _OUTCOMES[outcome],
        *rest,
    )


def node_row(node: Node, revision: int) -> Row:
    granted = node.granted
    return (
        node.id,
        node.compute_uid,
        node.pool,
        node.size,
        granted.cpu_milli,
        granted.memory,
        granted.gpus,
        _encode(node.gpu_ids) if node.gpu_ids else _NO_NAMES,
        node.state.value,
        node.tier,
        node.handle,
        node.limits,
        node.attempt_id,
        node.idle_since,
        node.created_at,
        node.ready_at,
        node.closed_at,
        node.heartbeat_at,
        node.reason,
        node.next_at,
        revision,
    )


def to_node(row: Row) -> Node:
    id, compute_uid, pool, size, cpu_milli, memory, gpus, gpu_ids, state, *rest = row
    granted = Vector(cpu_milli, memory, gpus)
    return Node(id, compute_uid, pool, size, granted, _decode_names(gpu_ids), _NODE_STATES[state], *rest)


def event_row(event: Event) -> Row:
    return (event.subject, event.kind, event.at, event.code, event.message, event.actor, event.data)


def to_event(row: Row) -> Event:
    return Event(*row)


def interval_row(interval: Interval) -> Row:
    scope = interval.workspace
    return (
        interval.id,
        interval.kind,
        interval.node_id,
        interval.compute_uid,
        scope.subscription,
        scope.group,
        scope.workspace,
        interval.size,
        interval.tier,
        interval.region,
        interval.started_at,
        interval.started_mono,
        interval.boot_id,
        interval.last_seen_at,
        interval.job_uid,
        interval.tags,
        interval.ended_at,
        interval.ended_mono,
        interval.end_reason,
        scope_key(scope),
    )


def to_interval(row: Row) -> Interval:
    id, kind, node_id, compute_uid, subscription, group, workspace, *rest = row
    return Interval(id, kind, node_id, compute_uid, _scope(subscription, group, workspace), *rest)


def activity_row(record: Record) -> Row:
    return (*record.content, record.hash)


def to_record(row: Row) -> Record:
    seq, at, action, outcome, *rest, hash = row
    return Record(at, action, ActivityOutcome(outcome), *rest, seq=seq, hash=bytes(hash))


def head_value(head: Head) -> bytes:
    return f"{head.seq}:{head.hash.hex()}".encode()


def to_head(value: bytes | None) -> Head:
    if value is None:
        return Head(0, GENESIS)
    seq, _, digest = value.decode().partition(":")
    return Head(int(seq), bytes.fromhex(digest))
