"""The store in memory: the same meaning as the SQL ones, for tests and simulations. A closure that raises is
really undone: every change notes what was there before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tidemill.domain.activity import Head, Record, chained
from tidemill.domain.ids import resource_id
from tidemill.domain.model import (
    Attempt,
    AttemptState,
    Event,
    Interval,
    Key,
    Node,
    NodeState,
    Resource,
    Scope,
    Touched,
)
from tidemill.store.accessmemory import AccessTables, MemoryAccessRead, MemoryAccessTx
from tidemill.store.activity import matches, newest
from tidemill.store.api import (
    ActivityPage,
    ActivityQuery,
    AlreadyExists,
    Granted,
    Lease,
    Read,
    ResourceQuery,
    StaleRevision,
    Tx,
)
from tidemill.store.groupcommit import GroupWriter, Listener
from tidemill.store.rows import ACTIVITY_HEAD, fold, folded, head_value, scope_key, to_head
from tidemill.store.signinmemory import MemorySignInRead, MemorySignInTx, SignInTables

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()


class _Tables:
    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.uids: dict[tuple[str, str, str, str], str] = {}
        self.attempts: dict[str, Attempt] = {}
        self.attempt_numbers: dict[tuple[str, int], str] = {}
        self.nodes: dict[str, Node] = {}
        self.events: list[Event] = []
        self.intervals: dict[str, Interval] = {}
        self.leases: dict[str, Lease] = {}
        self.meta: dict[str, bytes] = {}
        self.access = AccessTables()
        self.activity: list[Record] = []
        self.sign_ins = SignInTables()
        self.tokens = 0  # never reused, like a database's sequence


class MemoryRead(MemoryAccessRead, MemorySignInRead):
    """store.api.Read over dictionaries."""

    def __init__(self, tables: _Tables) -> None:
        self._tables = tables
        self._access = tables.access
        self._sign_ins = tables.sign_ins

    def get(self, key: Key) -> Resource | None:
        uid = self._tables.uids.get(folded(key))
        return None if uid is None else self._tables.resources[uid]

    def by_uid(self, uid: str) -> Resource | None:
        return self._tables.resources.get(uid)

    def find(self, query: ResourceQuery) -> Sequence[Resource]:
        found = sorted(self._matching(query), key=lambda row: row.uid, reverse=not query.ascending)
        after = query.after
        if after is not None:
            found = [row for row in found if (row.uid > after if query.ascending else row.uid < after)]
        return tuple(found[: query.limit] if query.limit else found)

    def every(self, after: str, limit: int) -> Sequence[Resource]:
        found = sorted(uid for uid in self._tables.resources if uid > after)
        return tuple(self._tables.resources[uid] for uid in found[:limit])

    def revision(self, key: Key) -> tuple[str, int] | None:
        row = self.get(key)
        return None if row is None else (row.uid, row.revision)

    def revisions(self, query: ResourceQuery) -> Sequence[tuple[str, int]]:
        return [(row.uid, row.revision) for row in self.find(query)]

    def count(self, query: ResourceQuery) -> int:
        return sum(1 for _ in self._matching(query))

    def _matching(self, query: ResourceQuery) -> Iterable[Resource]:
        type_key = fold(query.type)
        scope = None if query.scope is None else scope_key(query.scope)
        parent = None if query.parent is None else fold(query.parent)
        ref = None if query.ref is None else fold(query.ref)
        given = None if query.granted is None else self._given(query.granted)
        for row in self._tables.resources.values():
            if (
                fold(row.key.type) == type_key
                and (scope is None or scope_key(row.key.scope) == scope)
                and (parent is None or fold(row.key.parent) == parent)
                and (query.states is None or row.state in query.states)
                and (query.exclude_states is None or row.state not in query.exclude_states)
                and (query.archived is None or row.archived == query.archived)
                and (ref is None or fold(row.ref) == ref)
                and (query.digest is None or row.digest == query.digest)
                and (query.parent_uid is None or row.parent_uid == query.parent_uid)
                and (given is None or fold(f"{row.key.scope.arm_id}/{row.key.type}/{row.key.name}") in given)
            ):
                yield row

    def _given(self, granted: Granted) -> set[str]:
        return {
            fold(assignment.scope)
            for assignment in self.role_assignments()
            if assignment.principal in granted.principals and assignment.role in granted.roles
        }

    def due(self, type: str, now: int, limit: int = 100) -> Sequence[Resource]:
        found = [
            (row.next_at, row.uid, row)
            for row in self._tables.resources.values()
            if row.next_at is not None and row.next_at <= now and fold(row.key.type) == fold(type)
        ]
        return tuple(row for _, _, row in sorted(found, key=lambda entry: entry[:2])[:limit])

    def attempt(self, id: str) -> Attempt | None:
        return self._tables.attempts.get(id)

    def attempts_of(self, job_uid: str) -> Sequence[Attempt]:
        found = (attempt for attempt in self._tables.attempts.values() if attempt.job_uid == job_uid)
        return tuple(sorted(found, key=lambda attempt: attempt.number))

    def live_attempts(self) -> Sequence[Attempt]:
        found = (a for a in self._tables.attempts.values() if a.state is not AttemptState.ENDED)
        return tuple(sorted(found, key=lambda attempt: (attempt.created_at, attempt.id)))

    def node(self, id: str) -> Node | None:
        return self._tables.nodes.get(id)

    def nodes_of(self, compute_uid: str, *, closed: bool = False) -> Sequence[Node]:
        return self._nodes(lambda node: node.compute_uid == compute_uid, closed)

    def live_nodes(self) -> Sequence[Node]:
        return self._nodes(lambda node: True, False)

    def _nodes(self, wanted: Callable[[Node], bool], closed: bool) -> Sequence[Node]:
        found = (
            n
            for n in self._tables.nodes.values()
            if wanted(n) and (closed or n.state is not NodeState.CLOSED)
        )
        return tuple(sorted(found, key=lambda node: (node.created_at, node.id)))

    def events(self, subject: str, after_seq: int = 0, limit: int = 0) -> Sequence[Event]:
        return self._events(lambda event: event.subject == subject, after_seq, limit)

    def last_events(self, subject: str, limit: int) -> Sequence[Event]:
        return self.events(subject)[::-1][:limit]

    def events_of_kind(self, kind: str, after_seq: int = 0, limit: int = 0) -> Sequence[Event]:
        return self._events(lambda event: event.kind == kind, after_seq, limit)

    def _events(self, wanted: Callable[[Event], bool], after_seq: int, limit: int) -> Sequence[Event]:
        found = [event for event in self._tables.events if event.seq > after_seq and wanted(event)]
        return tuple(found[:limit] if limit else found)

    def intervals(
        self,
        *,
        job_uid: str | None = None,
        node_id: str | None = None,
        kind: str | None = None,
        compute_uid: str | None = None,
        workspace: Scope | None = None,
        open_only: bool = False,
    ) -> Sequence[Interval]:
        scope = None if workspace is None else scope_key(workspace)
        found = (
            row
            for row in self._tables.intervals.values()
            if (job_uid is None or row.job_uid == job_uid)
            and (node_id is None or row.node_id == node_id)
            and (kind is None or row.kind == kind)
            and (compute_uid is None or row.compute_uid == compute_uid)
            and (scope is None or scope_key(row.workspace) == scope)
            and not (open_only and row.ended_at is not None)
        )
        return tuple(sorted(found, key=lambda row: (row.started_at, row.id)))

    def lease(self, name: str) -> Lease | None:
        return self._tables.leases.get(name)

    def meta(self, key: str) -> bytes | None:
        return self._tables.meta.get(key)

    def activity(self, query: ActivityQuery) -> ActivityPage:
        places = sorted(((record.at, record.seq, record) for record in self._tables.activity), reverse=True)
        before = [r for at, seq, r in places if query.after is None or (at, seq) < query.after]
        window = [r for r in before if query.since is None or r.at >= query.since][: query.scan]
        found = [record for record in window if matches(query, record)][: query.limit]
        edge = (window[-1].at, window[-1].seq, len(window)) if window else None
        return newest(query, found, edge)

    def activity_from(self, seq: int, limit: int) -> Sequence[Record]:
        return tuple(record for record in self._tables.activity if record.seq >= seq)[:limit]

    def activity_head(self) -> Head:
        return to_head(self.meta(ACTIVITY_HEAD))


class MemoryTx(MemoryRead, MemoryAccessTx, MemorySignInTx):
    """store.api.Tx; `touched` and `undo` grow with every change."""

    def __init__(self, tables: _Tables) -> None:
        super().__init__(tables)
        self.touched = []
        self.undo: list[Callable[[], None]] = []

    def _set(self, table: dict[K, V], key: K, value: V) -> None:
        before: Any = table.get(key, _ABSENT)

        def back() -> None:
            if before is _ABSENT:
                del table[key]
            else:
                table[key] = before

        table[key] = value
        self.undo.append(back)

    def _drop(self, table: dict[K, V], key: K) -> None:
        before = table.pop(key)
        self.undo.append(lambda: table.__setitem__(key, before))

    def insert(self, row: Resource) -> Resource:
        key = folded(row.key)
        if key in self._tables.uids or row.uid in self._tables.resources:
            raise AlreadyExists(row.key)
        self._set(self._tables.uids, key, row.uid)
        self._set(self._tables.resources, row.uid, row)
        self._touch_resource(row)
        return row

    def update(self, row: Resource) -> Resource:
        held = self._current(row)
        stored = replace(
            row,
            key=held.key,
            created_at=held.created_at,
            created_by=held.created_by,
            revision=row.revision + 1,
        )
        self._set(self._tables.resources, row.uid, stored)
        self._touch_resource(row)
        return replace(row, revision=row.revision + 1)

    def delete(self, row: Resource) -> None:
        held = self._current(row)
        self._drop(self._tables.resources, row.uid)
        self._drop(self._tables.uids, folded(held.key))
        self.drop_principals_of(resource_id(held.key))
        self.drop_assignments_at(resource_id(held.key))
        self._touch_resource(row)

    def _current(self, row: Resource) -> Resource:
        held = self._tables.resources.get(row.uid)
        if held is None or held.revision != row.revision:
            raise StaleRevision(row.key)
        return held

    def _touch_resource(self, row: Resource) -> None:
        self.touched.append(Touched("resource:" + row.key.type, row.uid))

    def insert_attempt(self, attempt: Attempt) -> Attempt:
        number = (attempt.job_uid, attempt.number)
        if attempt.id in self._tables.attempts or number in self._tables.attempt_numbers:
            raise AlreadyExists(attempt.id)
        self._set(self._tables.attempts, attempt.id, attempt)
        self._set(self._tables.attempt_numbers, number, attempt.id)
        self.touched.append(Touched("attempt", attempt.id))
        return attempt

    def update_attempt(self, attempt: Attempt) -> Attempt:
        held = self._tables.attempts.get(attempt.id)
        if held is None or held.revision != attempt.revision:
            raise StaleRevision(attempt.id)
        stored = replace(attempt, revision=attempt.revision + 1)
        self._set(self._tables.attempts, attempt.id, stored)
        self.touched.append(Touched("attempt", attempt.id))
        return stored

    def insert_node(self, node: Node) -> Node:
        if node.id in self._tables.nodes:
            raise AlreadyExists(node.id)
        self._set(self._tables.nodes, node.id, node)
        self.touched.append(Touched("node", node.id))
        return node

    def update_node(self, node: Node) -> Node:
        held = self._tables.nodes.get(node.id)
        if held is None or held.revision != node.revision:
            raise StaleRevision(node.id)
        stored = replace(node, revision=node.revision + 1)
        self._set(self._tables.nodes, node.id, stored)
        self.touched.append(Touched("node", node.id))
        return stored

    def add_event(self, event: Event) -> Event:
        events = self._tables.events
        stored = replace(event, seq=events[-1].seq + 1 if events else 1)
        events.append(stored)

        def back() -> None:
            events.pop()

        self.undo.append(back)
        self.touched.append(Touched("event", event.subject))
        return stored

    def open_interval(self, interval: Interval) -> None:
        if interval.id not in self._tables.intervals:
            self._set(self._tables.intervals, interval.id, interval)
            self.touched.append(Touched("interval", interval.id))

    def heartbeat_intervals(self, ids: Iterable[str], at: int) -> None:
        for id in ids:
            row = self._tables.intervals.get(id)
            if row is not None and row.ended_at is None and row.last_seen_at < at:
                self._set(self._tables.intervals, id, replace(row, last_seen_at=at))

    def close_interval(self, id: str, at: int, mono: int | None, reason: str) -> None:
        row = self._tables.intervals.get(id)
        if row is not None and row.ended_at is None:
            ended = replace(row, ended_at=max(at, row.started_at), ended_mono=mono, end_reason=reason)
            self._set(self._tables.intervals, id, ended)
            self.touched.append(Touched("interval", id))

    def take_lease(self, name: str, owner: str, now: int, ttl_us: int) -> Lease | None:
        held = self.lease(name)
        if held is not None and held.owner == owner and held.expires_at > now:
            return None
        self._tables.tokens += 1
        lease = Lease(name, owner, self._tables.tokens, now + ttl_us)
        self._set(self._tables.leases, name, lease)
        return lease

    def holds(self, lease: Lease) -> bool:
        held = self.lease(lease.name)
        return held is not None and held.token == lease.token

    def drop_lease(self, lease: Lease) -> None:
        if self.holds(lease):
            self._drop(self._tables.leases, lease.name)

    def set_meta(self, key: str, value: bytes) -> None:
        self._set(self._tables.meta, key, value)

    def append_activity(self, records: Iterable[Record]) -> Head:
        log, length = self._tables.activity, len(self._tables.activity)
        head = self.activity_head()
        self.undo.append(lambda: log.__delitem__(slice(length, None)))
        for record in chained(head, records):
            log.append(record)
            head = Head(record.seq, record.hash)
        self.set_meta(ACTIVITY_HEAD, head_value(head))
        return head


class _MemorySession:
    run_in_loop = True
    commit_in_loop = True

    def __init__(self, tables: _Tables) -> None:
        self._tx = MemoryTx(tables)

    def begin(self, wait: bool) -> bool:
        self._tx.touched.clear()
        self._tx.undo.clear()
        return True

    def run(self, fn: Callable[[Any], T]) -> T:
        tx = self._tx
        mark = len(tx.touched)
        tx.undo.clear()
        try:
            return fn(tx)
        except BaseException:
            for back in reversed(tx.undo):
                back()
            del tx.touched[mark:]
            raise

    def alive(self) -> bool:
        return True

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def touched(self) -> frozenset[Touched]:
        return frozenset(self._tx.touched)

    def wants_retry(self, error: BaseException) -> bool:
        return False

    def unknown(self, error: BaseException) -> bool:
        return False

    def translate(self, error: BaseException) -> BaseException:
        return error

    def maintenance_due(self) -> bool:
        return False

    def maintain(self) -> None: ...
    def close(self) -> None: ...


class MemoryStore:
    """store.api.Store without a file."""

    def __init__(self) -> None:
        tables = _Tables()
        self._writer: GroupWriter[Tx] = GroupWriter(_MemorySession(tables), "memory-writer")
        self._read = MemoryRead(tables)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        return await self._writer.submit(fn)

    async def read(self, fn: Callable[[Read], T]) -> T:
        return fn(self._read)

    def on_commit(self, listener: Listener) -> None:
        self._writer.on_commit(listener)

    async def close(self) -> None:
        await self._writer.close()
