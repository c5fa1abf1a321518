"""Every query and change of the store as portable SQL on a DBAPI connection: SQLite and PostgreSQL run the
same text. Parameters are written `?`; `execute` takes (sql, params) and returns a cursor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tidemill.domain.activity import Head, Record, chained
from tidemill.domain.ids import resource_id
from tidemill.domain.model import Attempt, Event, Interval, Key, Node, Resource, Scope, Touched
from tidemill.store import rows
from tidemill.store.accesssql import Execute, SqlAccessRead, SqlAccessTx
from tidemill.store.activity import newest, window_sql
from tidemill.store.api import ActivityPage, ActivityQuery, AlreadyExists, Lease, ResourceQuery, StaleRevision
from tidemill.store.queries import count_sql, find_sql
from tidemill.store.signinsql import SqlSignInRead, SqlSignInTx


def _insert(table: str, columns: str) -> str:
    marks = ", ".join("?" * (columns.count(",") + 1))
    # Not an error inside the database: PostgreSQL would give up the transaction of a closure that goes on.
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"


def _update(table: str, columns: str, key: str) -> str:
    settings = ", ".join(f"{column} = ?" for column in columns.split(", "))
    return f"UPDATE {table} SET {settings} WHERE {key} = ? AND revision = ?"


_SELECT_RESOURCE = f"SELECT {rows.RESOURCE_COLUMNS} FROM resources WHERE "
_GET = _SELECT_RESOURCE + "whole_key = ?"
_REVISION = "SELECT uid, revision FROM resources WHERE whole_key = ?"
_BY_UID = _SELECT_RESOURCE + "uid = ?"
_DUE = (
    _SELECT_RESOURCE + "type_key = ? AND next_at IS NOT NULL AND next_at <= ? ORDER BY next_at, uid LIMIT ?"
)
_INSERT_RESOURCE = _insert("resources", f"{rows.RESOURCE_COLUMNS}, {rows.RESOURCE_KEY_COLUMNS}")
_UPDATE_RESOURCE = _update("resources", rows.RESOURCE_UPDATES, "uid")
_DELETE_RESOURCE = "DELETE FROM resources WHERE uid = ? AND revision = ?"

_SELECT_ATTEMPT = f"SELECT {rows.ATTEMPT_COLUMNS} FROM attempts WHERE "
_INSERT_ATTEMPT = _insert("attempts", rows.ATTEMPT_COLUMNS)
_UPDATE_ATTEMPT = _update("attempts", rows.ATTEMPT_COLUMNS.removeprefix("id, "), "id")
_SELECT_NODE = f"SELECT {rows.NODE_COLUMNS} FROM nodes WHERE "
_INSERT_NODE = _insert("nodes", rows.NODE_COLUMNS)
_UPDATE_NODE = _update("nodes", rows.NODE_COLUMNS.removeprefix("id, "), "id")

_SELECT_EVENT = f"SELECT {rows.EVENT_COLUMNS}, seq FROM events WHERE "
_INSERT_EVENT = f"INSERT INTO events ({rows.EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING seq"

_SELECT_INTERVAL = f"SELECT {rows.INTERVAL_COLUMNS} FROM intervals"
_INSERT_INTERVAL = _insert("intervals", f"{rows.INTERVAL_COLUMNS}, scope_key")
_BEAT = "UPDATE intervals SET last_seen_at = ? WHERE id = ? AND ended_at IS NULL AND last_seen_at < ?"
_CLOSE_INTERVAL = (
    "UPDATE intervals SET ended_at = CASE WHEN started_at > ? THEN started_at ELSE ? END, ended_mono = ?, "
    "end_reason = ? WHERE id = ? AND ended_at IS NULL"
)

_LEASE = "SELECT name, owner, token, expires_at FROM leases WHERE name = ?"
_GRANT = "INSERT INTO leases (name, owner, expires_at) VALUES (?, ?, ?) RETURNING token"
_SET_META = (
    "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)

_SELECT_ACTIVITY = f"SELECT {rows.ACTIVITY_COLUMNS} FROM activity WHERE seq >= ? ORDER BY seq LIMIT ?"
_INSERT_ACTIVITY = f"INSERT INTO activity ({rows.ACTIVITY_COLUMNS}) VALUES ({', '.join('?' * 19)})"


class SqlRead(SqlAccessRead, SqlSignInRead):
    """store.api.Read over one connection."""

    __slots__ = ()

    def get(self, key: Key) -> Resource | None:
        row = self._execute(_GET, (rows.whole_key(*rows.folded(key)),)).fetchone()
        return None if row is None else rows.to_resource(row)

    def by_uid(self, uid: str) -> Resource | None:
        row = self._execute(_BY_UID, (uid,)).fetchone()
        return None if row is None else rows.to_resource(row)

    def find(self, query: ResourceQuery) -> Sequence[Resource]:
        statement = find_sql(self._execute, query)
        if statement is None:
            return ()
        return tuple(map(rows.to_resource, self._execute(*statement).fetchall()))

    def every(self, after: str, limit: int) -> Sequence[Resource]:
        found = self._execute(_SELECT_RESOURCE + "uid > ? ORDER BY uid LIMIT ?", (after, limit)).fetchall()
        return tuple(map(rows.to_resource, found))

    def revision(self, key: Key) -> tuple[str, int] | None:
        return self._execute(_REVISION, (rows.whole_key(*rows.folded(key)),)).fetchone()

    def revisions(self, query: ResourceQuery) -> Sequence[tuple[str, int]]:
        statement = find_sql(self._execute, query, "uid, revision")
        return () if statement is None else self._execute(*statement).fetchall()

    def count(self, query: ResourceQuery) -> int:
        statement = count_sql(self._execute, query)
        return 0 if statement is None else int(self._execute(*statement).fetchone()[0])

    def due(self, type: str, now: int, limit: int = 100) -> Sequence[Resource]:
        found = self._execute(_DUE, (rows.fold(type), now, limit)).fetchall()
        return tuple(map(rows.to_resource, found))

    def attempt(self, id: str) -> Attempt | None:
        row = self._execute(_SELECT_ATTEMPT + "id = ?", (id,)).fetchone()
        return None if row is None else rows.to_attempt(row)

    def attempts_of(self, job_uid: str) -> Sequence[Attempt]:
        found = self._execute(_SELECT_ATTEMPT + "job_uid = ? ORDER BY number", (job_uid,)).fetchall()
        return tuple(map(rows.to_attempt, found))

    def live_attempts(self) -> Sequence[Attempt]:
        found = self._execute(_SELECT_ATTEMPT + "state <> 'Ended' ORDER BY created_at, id", ()).fetchall()
        return tuple(map(rows.to_attempt, found))

    def node(self, id: str) -> Node | None:
        row = self._execute(_SELECT_NODE + "id = ?", (id,)).fetchone()
        return None if row is None else rows.to_node(row)

    def nodes_of(self, compute_uid: str, *, closed: bool = False) -> Sequence[Node]:
        live = "" if closed else " AND state <> 'Closed'"
        sql = f"{_SELECT_NODE}compute_uid = ?{live} ORDER BY created_at, id"
        return tuple(map(rows.to_node, self._execute(sql, (compute_uid,)).fetchall()))

    def live_nodes(self) -> Sequence[Node]:
        found = self._execute(_SELECT_NODE + "state <> 'Closed' ORDER BY created_at, id", ()).fetchall()
        return tuple(map(rows.to_node, found))

    def events(self, subject: str, after_seq: int = 0, limit: int = 0) -> Sequence[Event]:
        return self._events("subject", subject, after_seq, limit)

    def last_events(self, subject: str, limit: int) -> Sequence[Event]:
        sql = f"{_SELECT_EVENT}subject = ? ORDER BY seq DESC LIMIT ?"
        return tuple(map(rows.to_event, self._execute(sql, (subject, limit)).fetchall()))

    def events_of_kind(self, kind: str, after_seq: int = 0, limit: int = 0) -> Sequence[Event]:
        return self._events("kind", kind, after_seq, limit)

    def _events(self, column: str, value: str, after_seq: int, limit: int) -> Sequence[Event]:
        tail, values = (" LIMIT ?", (value, after_seq, limit)) if limit else ("", (value, after_seq))
        sql = f"{_SELECT_EVENT}{column} = ? AND seq > ? ORDER BY seq{tail}"
        return tuple(map(rows.to_event, self._execute(sql, values).fetchall()))

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
        wanted = {
            "job_uid": job_uid,
            "node_id": node_id,
            "kind": kind,
            "compute_uid": compute_uid,
            "scope_key": None if workspace is None else rows.scope_key(workspace),
        }
        clauses = [f"{column} = ?" for column, value in wanted.items() if value is not None]
        if job_uid:
            clauses.append("job_uid <> ''")  # lets the partial index be used
        if open_only:
            clauses.append("ended_at IS NULL")
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        values = [value for value in wanted.values() if value is not None]
        found = self._execute(f"{_SELECT_INTERVAL}{where} ORDER BY started_at, id", values).fetchall()
        return tuple(map(rows.to_interval, found))

    def lease(self, name: str) -> Lease | None:
        row = self._execute(_LEASE, (name,)).fetchone()
        return None if row is None else Lease(*row)

    def meta(self, key: str) -> bytes | None:
        row = self._execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def activity(self, query: ActivityQuery) -> ActivityPage:
        found, edge = window_sql(query)
        records = tuple(map(rows.to_record, self._execute(*found).fetchall()))
        return newest(query, records, self._execute(*edge).fetchone())

    def activity_from(self, seq: int, limit: int) -> Sequence[Record]:
        return tuple(map(rows.to_record, self._execute(_SELECT_ACTIVITY, (seq, limit)).fetchall()))

    def activity_head(self) -> Head:
        return rows.to_head(self.meta(rows.ACTIVITY_HEAD))


class SqlTx(SqlRead, SqlAccessTx, SqlSignInTx):
    """store.api.Tx over one connection. `touched` grows with every change; its owner cuts it back when a
    closure is undone."""

    __slots__ = ()

    def __init__(self, execute: Execute) -> None:
        super().__init__(execute)
        self.touched = []

    def insert(self, row: Resource) -> Resource:
        if self._execute(_INSERT_RESOURCE, rows.resource_row(row)).rowcount == 0:
            raise AlreadyExists(row.key)
        self._touch_resource(row)
        return row

    def update(self, row: Resource) -> Resource:
        values = (*rows.resource_update_row(row), row.uid, row.revision)
        if self._execute(_UPDATE_RESOURCE, values).rowcount == 0:
            raise StaleRevision(row.key)
        self._touch_resource(row)
        return replace(row, revision=row.revision + 1)

    def delete(self, row: Resource) -> None:
        if self._execute(_DELETE_RESOURCE, (row.uid, row.revision)).rowcount == 0:
            raise StaleRevision(row.key)
        self.drop_principals_of(resource_id(row.key))
        self.drop_assignments_at(resource_id(row.key))
        self._touch_resource(row)

    def _touch_resource(self, row: Resource) -> None:
        self.touched.append(Touched("resource:" + row.key.type, row.uid))

    def insert_attempt(self, attempt: Attempt) -> Attempt:
        if self._execute(_INSERT_ATTEMPT, rows.attempt_row(attempt, attempt.revision)).rowcount == 0:
            raise AlreadyExists(attempt.id)
        self.touched.append(Touched("attempt", attempt.id))
        return attempt

    def update_attempt(self, attempt: Attempt) -> Attempt:
        revision = attempt.revision + 1
        values = (*rows.attempt_row(attempt, revision)[1:], attempt.id, attempt.revision)
        if self._execute(_UPDATE_ATTEMPT, values).rowcount == 0:
            raise StaleRevision(attempt.id)
        self.touched.append(Touched("attempt", attempt.id))
        return replace(attempt, revision=revision)

    def insert_node(self, node: Node) -> Node:
        if self._execute(_INSERT_NODE, rows.node_row(node, node.revision)).rowcount == 0:
            raise AlreadyExists(node.id)
        self.touched.append(Touched("node", node.id))
        return node

    def update_node(self, node: Node) -> Node:
        revision = node.revision + 1
        values = (*rows.node_row(node, revision)[1:], node.id, node.revision)
        if self._execute(_UPDATE_NODE, values).rowcount == 0:
            raise StaleRevision(node.id)
        self.touched.append(Touched("node", node.id))
        return replace(node, revision=revision)

    def add_event(self, event: Event) -> Event:
        # All rows are fetched: an unfinished RETURNING would hold the commit.
        seq = self._execute(_INSERT_EVENT, rows.event_row(event)).fetchall()[0][0]
        self.touched.append(Touched("event", event.subject))
        return replace(event, seq=seq)

    def open_interval(self, interval: Interval) -> None:
        if self._execute(_INSERT_INTERVAL, rows.interval_row(interval)).rowcount:
            self.touched.append(Touched("interval", interval.id))

    def heartbeat_intervals(self, ids: Iterable[str], at: int) -> None:
        # Wakes nobody: nothing is to be done about a heartbeat.
        for id in ids:
            self._execute(_BEAT, (at, id, at))

    def close_interval(self, id: str, at: int, mono: int | None, reason: str) -> None:
        if self._execute(_CLOSE_INTERVAL, (at, at, mono, reason, id)).rowcount:
            self.touched.append(Touched("interval", id))

    def take_lease(self, name: str, owner: str, now: int, ttl_us: int) -> Lease | None:
        held = self.lease(name)
        if held is not None:
            if held.owner == owner and held.expires_at > now:
                return None
            self._execute("DELETE FROM leases WHERE name = ?", (name,))
        token = self._execute(_GRANT, (name, owner, now + ttl_us)).fetchall()[0][0]
        return Lease(name, owner, token, now + ttl_us)

    def holds(self, lease: Lease) -> bool:
        held = self.lease(lease.name)
        return held is not None and held.token == lease.token

    def drop_lease(self, lease: Lease) -> None:
        self._execute("DELETE FROM leases WHERE name = ? AND token = ?", (lease.name, lease.token))

    def set_meta(self, key: str, value: bytes) -> None:
        self._execute(_SET_META, (key, value))

    def append_activity(self, records: Iterable[Record]) -> Head:
        head = self.activity_head()
        for record in chained(head, records):
            self._execute(_INSERT_ACTIVITY, rows.activity_row(record))
            head = Head(record.seq, record.hash)
        self.set_meta(rows.ACTIVITY_HEAD, rows.head_value(head))
        return head
