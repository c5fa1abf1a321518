"""The one seam to durable state.

`write(fn)` runs `fn(tx)` inside a transaction: synchronous, re-runnable, no I/O, no clock, no randomness of
its own. Its result is returned only after the commit is on disk. Many closures share one fsynced commit;
each has its own savepoint, so an exception rolls back only that closure and is raised to its caller.
A closure may be run again before its result is given out (a conflict, a commit that did not fit on the disk).
On SQLite it runs on the event loop: a handful of statements, not a thousand.
`read(fn)` sees a consistent snapshot and never waits for the writer.

Every method is implemented by `store.sql` (SQLite and PostgreSQL) and by `store.memory`, and is held to
the same meaning by tests/contract/store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tidemill.domain.activity import Head, Record
from tidemill.domain.model import Attempt, Event, Interval, Key, Node, Resource, Scope, Touched
from tidemill.store.access import AccessRead, AccessTx
from tidemill.store.signin import SignInRead, SignInTx

T = TypeVar("T")


class StaleRevision(Exception):
    """Compare-and-set failed: the row changed since it was read. Read again and decide again."""


class AlreadyExists(Exception):
    """An insert met a row of the same key. `args[0]` is the key or id."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Only rows at which one of `principals` (oids) was given one of `roles`, exactly there: what somebody
    sees who has no role on the whole workspace."""

    principals: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResourceQuery:
    """Which resources: None means any. Ordered by creation, newest first unless `ascending`."""

    type: str
    scope: Scope | None = None
    parent: str | None = None
    states: tuple[str, ...] | None = None
    exclude_states: tuple[str, ...] | None = None
    archived: bool | None = None  # None: both
    ref: str | None = None
    digest: str | None = None
    parent_uid: str | None = None  # "": only rows that no other row started; with a `scope`
    ascending: bool = False
    limit: int = 0  # 0: no limit
    after: str | None = None  # uid of the last row of the page before
    granted: Granted | None = None  # with a workspace as `scope` and a type without versions


@dataclass(frozen=True, slots=True)
class ActivityQuery:
    """Which records of the activity log, newest first; empty means any. `who`: an oid or a name. `what`: a
    part of the action, in which `*` stands for anything. `scope`: an ARM id, and all below it. `after`:
    (at, seq) of the last record seen. At most `scan` records are looked at: the cost is bounded."""

    who: str = ""
    what: str = ""
    scope: str = ""
    resource: str = ""
    correlation: str = ""
    since: int | None = None
    until: int | None = None  # exclusive
    refused: bool = False  # only what was refused
    limit: int = 100
    after: tuple[int, int] | None = None
    scan: int = 5000


@dataclass(frozen=True, slots=True)
class ActivityPage:
    """`after` goes on where this one ended; None at the end of the log."""

    records: Sequence[Record]
    after: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act outside the store on one thing until `expires_at`. `token` is new with each grant;
    `owner` is the incarnation of the server that holds it."""

    name: str  # "attempt/…", "node/…", "environment/…"
    owner: str
    token: int
    expires_at: int


class Read(AccessRead, SignInRead, Protocol):
    """Queries. Lists come back as tuples; absent things as None."""

    def get(self, key: Key) -> Resource | None: ...
    def by_uid(self, uid: str) -> Resource | None: ...
    def find(self, query: ResourceQuery) -> Sequence[Resource]: ...
    def every(self, after: str, limit: int) -> Sequence[Resource]:
        """Rows of all types and scopes in the order of their uids, those after `after` ("": all)."""
        ...

    def revision(self, key: Key) -> tuple[str, int] | None:
        """(uid, revision) of what `get` returns, at a part of its cost."""
        ...

    def revisions(self, query: ResourceQuery) -> Sequence[tuple[str, int]]:
        """(uid, revision) of each row that `find` returns, in its order, at a part of its cost. A uid and a
        revision say what the row is: whoever kept something made from it need not read it again."""
        ...

    def count(self, query: ResourceQuery) -> int: ...
    def due(self, type: str, now: int, limit: int = 100) -> Sequence[Resource]:
        """Resources of a type whose next_at <= now, oldest first."""
        ...

    def attempt(self, id: str) -> Attempt | None: ...
    def attempts_of(self, job_uid: str) -> Sequence[Attempt]: ...
    def live_attempts(self) -> Sequence[Attempt]:
        """Every attempt that is not ENDED, oldest first."""
        ...

    def node(self, id: str) -> Node | None: ...
    def nodes_of(self, compute_uid: str, *, closed: bool = False) -> Sequence[Node]: ...
    def live_nodes(self) -> Sequence[Node]:
        """Every node that is not CLOSED, oldest first."""
        ...

    def events(self, subject: str, after_seq: int = 0, limit: int = 0) -> Sequence[Event]:
        """Oldest first."""
        ...

    def last_events(self, subject: str, limit: int) -> Sequence[Event]:
        """Newest first."""
        ...

    def events_of_kind(self, kind: str, after_seq: int = 0, limit: int = 0) -> Sequence[Event]: ...
    def intervals(
        self,
        *,
        job_uid: str | None = None,
        node_id: str | None = None,
        kind: str | None = None,
        compute_uid: str | None = None,
        workspace: Scope | None = None,
        open_only: bool = False,
    ) -> Sequence[Interval]: ...
    def lease(self, name: str) -> Lease | None: ...
    def meta(self, key: str) -> bytes | None: ...
    def activity(self, query: ActivityQuery) -> ActivityPage: ...
    def activity_from(self, seq: int, limit: int) -> Sequence[Record]:
        """Records from number `seq` on, in their order."""
        ...

    def activity_head(self) -> Head:
        """What was noted with the newest record; it stays when records are removed."""
        ...


class Tx(Read, AccessTx, SignInTx, Protocol):
    """A transaction. Updates compare-and-set on `revision` of the value passed in, store revision + 1 and
    return the stored value; StaleRevision otherwise."""

    def insert(self, row: Resource) -> Resource: ...
    def update(self, row: Resource) -> Resource:
        """Key, created_at and created_by stay as they were inserted."""
        ...

    def delete(self, row: Resource) -> None:
        """With the identities that go with it, and the role assignments at it and below: a later row of its
        name is another one's."""
        ...

    def insert_attempt(self, attempt: Attempt) -> Attempt: ...
    def update_attempt(self, attempt: Attempt) -> Attempt: ...

    def insert_node(self, node: Node) -> Node: ...
    def update_node(self, node: Node) -> Node: ...

    def add_event(self, event: Event) -> Event:
        """Appends; `seq` is given here."""
        ...

    def open_interval(self, interval: Interval) -> None:
        """Idempotent by id: opening one that exists (open or ended) changes nothing."""
        ...

    def heartbeat_intervals(self, ids: Iterable[str], at: int) -> None:
        """Moves last_seen_at forward, never back, of open intervals."""
        ...

    def close_interval(self, id: str, at: int, mono: int | None, reason: str) -> None:
        """Ends an open interval (never before it started); a closed or absent one is left alone."""
        ...

    def take_lease(self, name: str, owner: str, now: int, ttl_us: int) -> Lease | None:
        """Grants when free, expired, or held by another incarnation (there is one server per home);
        None when this owner already holds it live."""
        ...

    def holds(self, lease: Lease) -> bool:
        """True while the token is still the one in the row: results are applied only then."""
        ...

    def drop_lease(self, lease: Lease) -> None: ...
    def set_meta(self, key: str, value: bytes) -> None: ...
    def append_activity(self, records: Iterable[Record]) -> Head:
        """Numbers the records, chains them to the head and stores them."""
        ...


class Store(Protocol):
    async def write(self, fn: Callable[[Tx], T]) -> T: ...
    async def read(self, fn: Callable[[Read], T]) -> T: ...
    def on_commit(self, listener: Callable[[frozenset[Touched]], None]) -> None:
        """Called on the event loop once per commit that touched something, before its writers resume.
        Heartbeats, leases, meta and activity touch nothing."""
        ...

    async def close(self) -> None: ...
