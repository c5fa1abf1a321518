"""Random histories: SQLite answers like the in-memory twin, also after closures that fail half way."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from rowmakers import OTHER, WS, attempt, event, interval, job, node, uid

from tidemill.domain.model import AttemptState, Key, NodeState
from tidemill.store.api import Lease, Read, ResourceQuery, Store, Tx
from tidemill.store.memory import MemoryStore
from tidemill.store.sqlite import open_sqlite

NUMBERS = st.integers(0, 6)
STATES = st.sampled_from(["Queued", "Running", "Completed"])
SCOPES = st.sampled_from([WS, OTHER])
NAMES = st.sampled_from(["a", "A", "b", "ß", "İ"])
PARENTS = st.sampled_from(["", "p", "P"])
REFS = st.sampled_from(["", "cpu", "CPU", "gpu"])
DIGESTS = st.sampled_from(["", "d"])


class _Undone(Exception):
    pass


QUERIES = st.builds(
    ResourceQuery,
    st.just("jobs"),
    scope=st.none() | SCOPES,
    parent=st.none() | PARENTS,
    states=st.none() | st.lists(STATES, max_size=2).map(tuple),
    exclude_states=st.none() | st.lists(STATES, max_size=2).map(tuple),
    archived=st.none() | st.booleans(),
    ref=st.none() | REFS,
    digest=st.none() | DIGESTS,
    ascending=st.booleans(),
    limit=st.integers(0, 3),
    after=st.none() | NUMBERS.map(uid),
)


class Twins(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.stores: list[Store] = [MemoryStore(), open_sqlite(Path(self.folder.name, "t.db"))]
        self.heard: list[list[Any]] = [[], []]
        for store, heard in zip(self.stores, self.heard, strict=True):
            store.on_commit(heard.append)
        self.leases: list[Lease] = []
        self.now = 0

    def teardown(self) -> None:
        for store in self.stores:
            self.loop.run_until_complete(store.close())
        self.loop.close()
        self.folder.cleanup()

    def both(self, fn: Callable[[Tx], Any]) -> Any:
        """Runs the closure on both, expects the same result or the same refusal, gives it back."""
        outcomes = []
        for store in self.stores:
            try:
                outcomes.append(self.loop.run_until_complete(store.write(fn)))
            except Exception as error:
                outcomes.append((type(error), error.args))
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    @rule(
        n=NUMBERS,
        scope=SCOPES,
        name=NAMES,
        parent=PARENTS,
        state=STATES,
        ref=REFS,
        digest=DIGESTS,
        due=st.booleans(),
    )
    def insert(
        self, n: int, scope: Any, name: str, parent: str, state: str, ref: str, digest: str, due: bool
    ) -> None:
        key = Key(scope, "jobs", name, parent)
        row = job(n, key=key, state=state, ref=ref, digest=digest, next_at=n if due else None)
        self.both(lambda tx: tx.insert(row))

    @rule(n=NUMBERS, state=STATES, ref=REFS, archived=st.booleans(), stale=st.booleans())
    def update(self, n: int, state: str, ref: str, archived: bool, stale: bool) -> None:
        def fn(tx: Tx) -> Any:
            row = tx.by_uid(uid(n))
            if row is None:
                return tx.update(job(n))
            revision = row.revision - stale
            return tx.update(replace(row, state=state, ref=ref, archived=archived, revision=revision))

        self.both(fn)

    @rule(n=NUMBERS)
    def delete(self, n: int) -> None:
        self.both(lambda tx: tx.delete(tx.by_uid(uid(n)) or job(n)))

    @rule(n=NUMBERS, state=st.sampled_from(AttemptState), fresh=st.booleans())
    def attempts(self, n: int, state: AttemptState, fresh: bool) -> None:
        row = attempt(n % 3, uid(n), state=state)
        if fresh:
            self.both(lambda tx: tx.insert_attempt(row))
        else:
            self.both(lambda tx: tx.update_attempt(replace(tx.attempt(row.id) or row, state=state)))

    @rule(n=NUMBERS, state=st.sampled_from(NodeState), fresh=st.booleans())
    def nodes(self, n: int, state: NodeState, fresh: bool) -> None:
        row = node(n, uid(n % 2), state=state)
        if fresh:
            self.both(lambda tx: tx.insert_node(row))
        else:
            self.both(lambda tx: tx.update_node(replace(tx.node(row.id) or row, state=state)))

    @rule(n=NUMBERS, at=st.integers(0, 2000), action=st.sampled_from(["open", "beat", "close"]))
    def ledger(self, n: int, at: int, action: str) -> None:
        def fn(tx: Tx) -> None:
            if action == "open":
                tx.open_interval(interval(n))
            elif action == "beat":
                tx.heartbeat_intervals([f"i{n}", f"i{n + 1}"], at)
            else:
                tx.close_interval(f"i{n}", at, at, "r")

        self.both(fn)

    @rule(n=NUMBERS)
    def events(self, n: int) -> None:
        self.both(lambda tx: tx.add_event(event(n, uid(n % 2))))

    @rule(name=NAMES, owner=st.sampled_from(["o", "p"]), ttl=st.integers(1, 4))
    def lease(self, name: str, owner: str, ttl: int) -> None:
        self.now += 1
        held = self.both(lambda tx: tx.take_lease(name, owner, self.now, ttl))
        if held is not None:
            self.leases.append(held)

    @rule(pick=NUMBERS)
    def drop(self, pick: int) -> None:
        if pick < len(self.leases):
            held = self.leases[pick]
            self.both(lambda tx: tx.drop_lease(held))

    @rule(n=NUMBERS, name=NAMES)
    def undone(self, n: int, name: str) -> None:
        def fn(tx: Tx) -> None:
            with contextlib.suppress(Exception):
                tx.insert(job(n, key=Key(WS, "jobs", name)))
            row = tx.by_uid(uid(n))
            if row is not None:
                tx.delete(tx.update(replace(row, state="Gone")))
            tx.open_interval(interval(n))
            tx.close_interval(f"i{n}", 1, 1, "")
            tx.add_event(event(n))
            tx.set_meta(name, b"x")
            raise _Undone(n)

        self.both(fn)

    @rule(query=QUERIES)
    def query(self, query: ResourceQuery) -> None:
        def fn(r: Read) -> Any:
            return r.find(query), r.count(query)

        answers = [self.loop.run_until_complete(store.read(fn)) for store in self.stores]
        assert answers[0] == answers[1]

    @invariant()
    def same(self) -> None:
        def everything(r: Read) -> Any:
            return (
                r.find(ResourceQuery("jobs")),
                r.due("jobs", 4, 2),
                [r.attempts_of(uid(n)) for n in range(3)],
                r.live_attempts(),
                r.live_nodes(),
                r.nodes_of(uid(0), closed=True),
                r.intervals(),
                r.intervals(workspace=WS, open_only=True),
                [(e.subject, e.message) for e in r.events_of_kind("job")],
                [r.lease(name) for name in ("a", "A", "b")],
                [r.meta(name) for name in ("a", "A", "b")],
            )

        answers = [self.loop.run_until_complete(store.read(everything)) for store in self.stores]
        assert answers[0] == answers[1]
        assert self.heard[0] == self.heard[1]


# The files are on a real disk with real fsyncs: few and long histories.
TestTwins = Twins.TestCase
TestTwins.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
