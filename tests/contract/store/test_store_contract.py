"""What every store must do: memory, SQLite, PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from rowmakers import OTHER, WS, attempt, event, interval, job, node, uid

from tidemill.domain.model import AttemptState, Key, NodeState, Resource, Scope, Touched
from tidemill.store.api import AlreadyExists, Read, ResourceQuery, StaleRevision, Store, Tx
from tidemill.store.sql import open_store


async def find(store: Store, **query: object) -> list[int]:
    found = await store.read(lambda r: r.find(ResourceQuery("jobs", **query)))  # type: ignore[arg-type]
    return [int(row.uid, 16) for row in found]


async def test_a_row_comes_back_as_it_was_stored(store: Store) -> None:
    row = job(1, archived=True, next_at=5, state="Running")
    assert await store.write(lambda tx: tx.insert(row)) == row
    assert await store.read(lambda r: r.get(row.key)) == row
    assert await store.read(lambda r: r.by_uid(row.uid)) == row
    assert await store.read(lambda r: r.by_uid("nothing")) is None


async def test_keys_ignore_case_and_keep_it(store: Store) -> None:
    row = job(1)
    await store.write(lambda tx: tx.insert(row))
    shouted = Key(Scope("SUB-1", "rg-one", "MAIN"), "JOBS", "JOB-1")
    found = await store.read(lambda r: r.get(shouted))
    assert found is not None
    assert found.key == row.key
    with pytest.raises(AlreadyExists) as raised:
        await store.write(lambda tx: tx.insert(job(2, key=shouted)))
    assert raised.value.args[0] == shouted
    assert await store.read(lambda r: r.get(Key(OTHER, "jobs", "Job-1"))) is None


async def test_same_uid_or_same_name_is_refused_and_a_closure_may_go_on(store: Store) -> None:
    def insert_or_get(tx: Tx) -> Resource | None:
        try:
            tx.insert(job(1))
            tx.insert(job(1, key=Key(WS, "jobs", "another")))
        except AlreadyExists:
            # The transaction is usable after the refusal.
            return tx.get(job(1).key)
        return None

    assert await store.write(insert_or_get) == job(1)
    assert await find(store) == [1]


async def test_versions_of_containers_are_told_apart(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for number, (parent, name) in enumerate([("a", "1"), ("a", "2"), ("b", "1")]):
            tx.insert(job(number, key=Key(WS, "models/versions", name, parent)))

    await store.write(fill)
    query = ResourceQuery("models/versions", WS, parent="A")
    assert [row.key.name for row in await store.read(lambda r: r.find(query))] == ["2", "1"]
    assert await store.read(lambda r: r.count(query)) == 2
    anywhere = ResourceQuery("models/versions", parent="b")
    assert len(await store.read(lambda r: r.find(anywhere))) == 1
    assert await store.read(lambda r: r.find(ResourceQuery("models/versions", WS, parent=""))) == ()


async def test_update_compares_and_sets(store: Store) -> None:
    first = await store.write(lambda tx: tx.insert(job(1)))
    wanted = replace(
        first, state="Running", spec=b"{}", status=b"1", tags=b"2", ref="x", archived=True, next_at=9
    )
    second = await store.write(lambda tx: tx.update(wanted))
    assert second == replace(wanted, revision=2)
    assert await store.read(lambda r: r.by_uid(first.uid)) == second
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.update(replace(first, state="Failed")))
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.update(job(5)))
    assert await store.read(lambda r: r.by_uid(first.uid)) == second


async def test_delete_compares_too_and_frees_the_name(store: Store) -> None:
    first = await store.write(lambda tx: tx.insert(job(1)))
    second = await store.write(lambda tx: tx.update(first))
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.delete(first))
    await store.write(lambda tx: tx.delete(second))
    assert await store.read(lambda r: r.get(first.key)) is None
    again = job(2, key=first.key)
    assert await store.write(lambda tx: tx.insert(again)) == again


async def test_lists_filter_order_and_page(store: Store) -> None:
    states = ["Queued", "Running", "Completed", "Failed"]

    def fill(tx: Tx) -> None:
        for n in range(40):
            tx.insert(
                job(
                    n,
                    OTHER if n % 5 == 0 else WS,
                    state=states[n % 4],
                    archived=n % 3 == 0,
                    ref="GPU" if n % 2 else "cpu",
                    digest="same" if n < 4 else "",
                )
            )

    await store.write(fill)
    everything = list(range(39, -1, -1))
    in_ws = [n for n in everything if n % 5]
    assert await find(store) == everything
    assert await find(store, ascending=True) == everything[::-1]
    assert await find(store, scope=WS) == in_ws
    assert await find(store, scope=Scope("sub-1", "rg-one", "main"), limit=7) == in_ws[:7]
    assert await find(store, scope=WS, limit=7, after=uid(in_ws[6])) == in_ws[7:14]
    assert await find(store, scope=WS, limit=7, after=uid(in_ws[-7]), ascending=True) == in_ws[-8:-15:-1]
    assert await find(store, scope=WS, archived=False) == [n for n in in_ws if n % 3]
    assert await find(store, scope=WS, archived=True, limit=2) == [n for n in in_ws if n % 3 == 0][:2]
    active = [n for n in everything if n % 4 < 2]
    assert await find(store, states=("Queued", "Running")) == active
    assert await find(store, exclude_states=("Completed", "Failed"), limit=3) == active[:3]
    assert await find(store, states=("Queued", "Failed"), exclude_states=("Failed",)) == [
        n for n in everything if n % 4 == 0
    ]
    assert (
        await find(store, scope=WS, states=("Failed",), limit=4, after=uid(30))
        == [n for n in in_ws if n % 4 == 3 and n < 30][:4]
    )
    assert await find(store, states=()) == []
    assert await find(store, ref="gpu", limit=5) == [n for n in everything if n % 2][:5]
    assert await find(store, ref="CPU", scope=OTHER, exclude_states=("Queued",)) == [30, 10]
    assert await find(store, digest="same") == [3, 2, 1, 0]
    assert await find(store, digest="same", scope=WS, archived=False, states=("Running",)) == [1]
    assert await find(store, digest="") == list(range(39, 3, -1))
    assert await find(store, ref="") == []
    assert await find(store, parent="", scope=WS, limit=1) == [39]
    assert await store.read(lambda r: r.find(ResourceQuery("computes"))) == ()

    for query in (
        ResourceQuery("jobs", WS, archived=False, limit=5, after=uid(30)),
        ResourceQuery("jobs", exclude_states=("Completed",), ascending=True, limit=9),
        ResourceQuery("computes"),
    ):
        rows, pairs = await store.read(lambda r, q=query: (r.find(q), r.revisions(q)))
        assert list(map(tuple, pairs)) == [(row.uid, row.revision) for row in rows]

    query = ResourceQuery("jobs", WS, states=("Queued", "Running"), archived=False, limit=1, after=uid(20))
    count = await store.read(lambda r: r.count(query))
    assert count == len([n for n in in_ws if n % 4 < 2 and n % 3])


async def test_children_are_found_by_their_parent_and_kept_out_of_lists(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for number in range(1, 4):
            tx.insert(job(number))
        for number in range(4, 9):
            state = "Running" if number % 2 else "Completed"
            tx.insert(job(number, parent_uid=uid(1), state=state, archived=number == 8))
        tx.insert(job(9, OTHER, parent_uid=uid(1)))

    await store.write(fill)
    assert await find(store, scope=WS, parent_uid="") == [3, 2, 1]
    assert await find(store, scope=WS, parent_uid="", states=("Queued",)) == [3, 2, 1]
    assert await find(store, scope=WS, parent_uid=uid(1)) == [8, 7, 6, 5, 4]
    assert await find(store, scope=WS, parent_uid=uid(1), states=("Running",)) == [7, 5]
    assert await find(store, scope=WS, parent_uid=uid(1), archived=False, limit=2) == [7, 6]
    by_ref: dict[str, object] = {"ref": "cpu-cluster", "parent_uid": "", "scope": WS}
    assert await find(store, **by_ref) == [3, 2, 1]
    assert await find(store, scope=WS) == [8, 7, 6, 5, 4, 3, 2, 1]
    child = await store.read(lambda r: r.by_uid(uid(4)))
    assert child is not None
    assert child.parent_uid == uid(1)


async def test_every_row_of_any_type_in_pages(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for number in (3, 1, 2):
            tx.insert(job(number))
        tx.insert(replace(job(4), key=Key(Scope("sub", "group", "other"), "data/versions", "1", parent="d")))

    await store.write(fill)
    first = await store.read(lambda r: r.every("", 3))
    rest = await store.read(lambda r: r.every(first[-1].uid, 3))
    assert [int(row.uid, 16) for row in (*first, *rest)] == [1, 2, 3, 4]
    assert rest[0].key.type == "data/versions"
    assert await store.read(lambda r: r.every(rest[-1].uid, 3)) == ()


async def test_due_rows_oldest_first(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for number, at in enumerate([30, 10, None, 20, 99]):
            tx.insert(job(number, next_at=at))

    await store.write(fill)
    due = await store.read(lambda r: r.due("jobs", 30))
    assert [int(row.uid, 16) for row in due] == [1, 3, 0]
    assert len(await store.read(lambda r: r.due("jobs", 30, limit=2))) == 2
    await store.write(lambda tx: tx.update(replace(due[0], next_at=None)))
    assert [row.next_at for row in await store.read(lambda r: r.due("jobs", 1000))] == [20, 30, 99]


async def test_attempts(store: Store) -> None:
    rows = [attempt(n) for n in (1, 2, 10)]
    other = attempt(1, uid(2), state=AttemptState.ASSIGNED, nodes=(), gpu_ids=(), outcome=None)

    def fill(tx: Tx) -> None:
        for row in (rows[2], rows[0], rows[1], other):
            assert tx.insert_attempt(row) == row

    await store.write(fill)
    assert await store.read(lambda r: r.attempt(rows[0].id)) == rows[0]
    assert await store.read(lambda r: r.attempt(other.id)) == other
    assert await store.read(lambda r: r.attempt("none")) is None
    assert await store.read(lambda r: r.attempts_of(uid(1))) == tuple(rows)
    ended = await store.write(
        lambda tx: tx.update_attempt(replace(rows[0], state=AttemptState.ENDED, ended_at=99))
    )
    assert ended.revision == 2
    assert await store.read(lambda r: r.attempt(rows[0].id)) == ended
    assert await store.read(lambda r: [row.id for row in r.live_attempts()]) == [
        other.id,
        rows[1].id,
        rows[2].id,
    ]
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.update_attempt(rows[0]))
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.insert_attempt(rows[1]))
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.insert_attempt(replace(rows[1], id="other")))


async def test_nodes(store: Store) -> None:
    rows = [node(n) for n in (3, 1, 2)]

    def fill(tx: Tx) -> None:
        for row in rows:
            assert tx.insert_node(row) == row
        tx.insert_node(node(9, uid(78)))

    await store.write(fill)
    assert await store.read(lambda r: r.node(rows[0].id)) == rows[0]
    assert await store.read(lambda r: r.node("none")) is None
    closed = await store.write(
        lambda tx: tx.update_node(replace(rows[1], state=NodeState.CLOSED, closed_at=5))
    )
    assert closed.revision == 2
    assert await store.read(lambda r: r.nodes_of(uid(77))) == (rows[2], rows[0])
    assert await store.read(lambda r: r.nodes_of(uid(77), closed=True)) == (closed, rows[2], rows[0])
    assert await store.read(lambda r: r.live_nodes()) == (rows[2], rows[0], node(9, uid(78)))
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.update_node(rows[1]))
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.insert_node(rows[1]))


async def test_events_are_numbered_in_the_order_of_commits(store: Store) -> None:
    stored = [
        await store.write(lambda tx, n=n: tx.add_event(event(n, uid(n % 2), "job" if n % 3 else "node")))
        for n in range(10)
    ]
    seqs = [entry.seq for entry in stored]
    assert seqs == sorted(set(seqs))
    assert seqs[0] > 0
    assert await store.read(lambda r: r.events(uid(0))) == tuple(stored[::2])
    assert await store.read(lambda r: r.events(uid(0), after_seq=stored[2].seq, limit=2)) == (
        stored[4],
        stored[6],
    )
    assert await store.read(lambda r: r.events_of_kind("node", after_seq=stored[0].seq)) == tuple(
        stored[3::3]
    )
    assert await store.read(lambda r: r.events("nobody")) == ()
    assert await store.read(lambda r: r.last_events(uid(0), 2)) == tuple(stored[::2][::-1][:2])
    assert await store.read(lambda r: r.last_events("nobody", 2)) == ()


async def test_intervals(store: Store) -> None:
    first = interval(1)
    second = interval(2, kind="allocation", job_uid=uid(5), workspace=OTHER, compute_uid=uid(78))

    def opening(tx: Tx) -> None:
        tx.open_interval(second)
        tx.open_interval(first)
        tx.open_interval(replace(first, size="changed"))

    await store.write(opening)
    assert await store.read(lambda r: r.intervals()) == (first, second)

    def beat(tx: Tx) -> None:
        tx.heartbeat_intervals([first.id, second.id, "absent"], 5000)
        tx.heartbeat_intervals([first.id], 4000)

    await store.write(beat)
    seen = await store.read(lambda r: r.intervals())
    assert [row.last_seen_at for row in seen] == [5000, 5000]

    def close(tx: Tx) -> None:
        tx.close_interval(first.id, 10, 60, "closed")  # before it started
        tx.close_interval(first.id, 9000, 61, "again")
        tx.close_interval("absent", 1, None, "")
        tx.heartbeat_intervals([first.id], 9999)
        tx.open_interval(first)

    await store.write(close)
    closed = replace(first, last_seen_at=5000, ended_at=first.started_at, ended_mono=60, end_reason="closed")
    second = replace(second, last_seen_at=5000)
    assert await store.read(lambda r: r.intervals(open_only=True)) == (second,)
    assert await store.read(lambda r: r.intervals(node_id=first.node_id)) == (closed,)
    assert await store.read(lambda r: r.intervals(kind="node")) == (closed,)
    assert await store.read(lambda r: r.intervals(job_uid=uid(5), open_only=True)) == (second,)
    assert await store.read(lambda r: r.intervals(compute_uid=uid(78))) == (second,)
    same = Scope(WS.subscription.upper(), WS.group, WS.workspace.lower())
    assert await store.read(lambda r: r.intervals(workspace=same)) == (closed,)
    assert await store.read(lambda r: r.intervals(workspace=same, open_only=True)) == ()


async def test_leases(store: Store) -> None:
    one = await store.write(lambda tx: tx.take_lease("node/a", "inc-1", 100, 50))
    assert one is not None
    assert (one.name, one.owner, one.expires_at) == ("node/a", "inc-1", 150)
    assert await store.read(lambda r: r.lease("node/a")) == one
    # The same owner holds it live.
    assert await store.write(lambda tx: tx.take_lease("node/a", "inc-1", 149, 50)) is None
    # It expired.
    two = await store.write(lambda tx: tx.take_lease("node/a", "inc-1", 150, 50))
    assert two is not None
    assert two.token != one.token
    # Another incarnation: the old one is dead, whatever its expiry says.
    three = await store.write(lambda tx: tx.take_lease("node/a", "inc-2", 151, 50))
    assert three is not None
    assert [await store.write(lambda tx, held=held: tx.holds(held)) for held in (one, two, three)] == [
        False,
        False,
        True,
    ]
    await store.write(lambda tx: tx.drop_lease(two))  # not the holder: nothing happens
    assert await store.write(lambda tx: tx.holds(three))
    await store.write(lambda tx: tx.drop_lease(three))
    assert await store.read(lambda r: r.lease("node/a")) is None
    four = await store.write(lambda tx: tx.take_lease("node/a", "inc-2", 151, 50))
    assert four is not None
    # A token is not given twice, also after a drop.
    assert four.token not in {one.token, two.token, three.token}
    assert not await store.write(lambda tx: tx.holds(three))


async def test_meta(store: Store) -> None:
    assert await store.read(lambda r: r.meta("k")) is None
    await store.write(lambda tx: tx.set_meta("k", b"1"))
    await store.write(lambda tx: tx.set_meta("k", b"\x00\xff"))
    assert await store.read(lambda r: r.meta("k")) == b"\x00\xff"


async def test_a_closure_that_fails_is_undone_alone(store: Store) -> None:
    def good(n: int) -> object:
        def fn(tx: Tx) -> int:
            tx.insert(job(n))
            tx.add_event(event(n, uid(n)))
            return n

        return fn

    def bad(tx: Tx) -> None:
        tx.insert(job(100))
        tx.update(replace(tx.get(job(0).key) or job(0), state="Failed"))
        tx.insert_node(node(1))
        tx.insert_attempt(attempt(1))
        tx.open_interval(interval(1))
        tx.set_meta("k", b"v")
        tx.take_lease("l", "o", 1, 1)
        tx.add_event(event(1, "bad"))
        tx.delete(tx.get(job(0).key) or job(0))
        raise ValueError("mine")

    heard: list[frozenset[Touched]] = []
    store.on_commit(heard.append)
    await store.write(good(0))  # type: ignore[arg-type]
    results = await asyncio.gather(
        store.write(good(1)),  # type: ignore[arg-type]
        store.write(bad),
        store.write(good(2)),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    assert results[0] == 1
    assert results[2] == 2
    assert isinstance(results[1], ValueError)
    assert await find(store) == [2, 1, 0]

    def leftovers(r: Read) -> list[object]:
        found = [r.node(node(1).id), r.attempt(attempt(1).id), r.meta("k"), r.lease("l"), *r.events("bad")]
        return [*found, *r.intervals()]

    assert set(await store.read(leftovers)) == {None}
    assert (await store.read(lambda r: r.get(job(0).key))) == job(0)
    touched = frozenset().union(*heard)
    assert touched == {Touched(k, uid(n)) for n in (0, 1, 2) for k in ("resource:jobs", "event")}


async def test_writers_that_wait_share_a_commit_and_listeners_hear_first(store: Store) -> None:
    log: list[str] = []

    def listener(touched: frozenset[Touched]) -> None:
        log.append(f"commit {len(touched)}")
        assert all(entry.kind == "resource:jobs" for entry in touched)

    store.on_commit(listener)

    async def writer(n: int) -> None:
        await store.write(lambda tx: tx.insert(job(n)))
        log.append("resumed")

    await asyncio.gather(*(writer(n) for n in range(20)))
    assert log == ["commit 20"] + ["resumed"] * 20


async def test_kinds_of_touched(store: Store) -> None:
    heard: list[frozenset[Touched]] = []
    store.on_commit(heard.append)

    def fn(tx: Tx) -> None:
        tx.insert(job(1, key=Key(WS, "computes", "c")))
        tx.insert_attempt(attempt(1))
        tx.insert_node(node(1))
        tx.add_event(event(1, "subject"))
        tx.open_interval(interval(1))

    await store.write(fn)
    assert heard == [
        {
            Touched("resource:computes", uid(1)),
            Touched("attempt", attempt(1).id),
            Touched("node", node(1).id),
            Touched("event", "subject"),
            Touched("interval", "i1"),
        }
    ]
    # Nothing was changed that somebody must act on: nobody is woken.
    await store.write(lambda tx: tx.heartbeat_intervals(["i1"], 99_999))
    await store.write(lambda tx: tx.get(job(1).key))
    await store.write(lambda tx: tx.open_interval(interval(1)))
    assert len(heard) == 1


async def test_a_listener_that_fails_stops_nobody(store: Store) -> None:
    heard: list[frozenset[Touched]] = []

    def broken(touched: frozenset[Touched]) -> None:
        raise RuntimeError("listener")

    store.on_commit(broken)
    store.on_commit(heard.append)
    await store.write(lambda tx: tx.insert(job(1)))
    assert len(heard) == 1


async def test_a_cancelled_writer_is_dropped_and_others_go_on(store: Store) -> None:
    waiting = asyncio.ensure_future(store.write(lambda tx: tx.insert(job(1))))
    await asyncio.sleep(0)
    waiting.cancel()
    await store.write(lambda tx: tx.insert(job(2)))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert 2 in await find(store)


async def test_more_than_one_batch(store: Store) -> None:
    await asyncio.gather(*(store.write(lambda tx, n=n: tx.insert(job(n))) for n in range(700)))
    assert await store.read(lambda r: r.count(ResourceQuery("jobs", WS))) == 700


async def test_close_finishes_what_was_asked_and_refuses_more(target: str) -> None:
    store = open_store(target)
    writes = [asyncio.ensure_future(store.write(lambda tx, n=n: tx.insert(job(n)))) for n in range(5)]
    await asyncio.sleep(0)
    await store.close()
    assert [row.uid for row in await asyncio.gather(*writes)] == [uid(n) for n in range(5)]
    with pytest.raises(RuntimeError, match="closed"):
        await store.write(lambda tx: tx.insert(job(9)))
    if target != "memory:":
        again = open_store(target)
        assert await find(again) == [4, 3, 2, 1, 0]
        await again.close()
