"""The activity log in every store: chained, found by what was asked, the cost of a look bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidemill.domain.activity import GENESIS, Chain, Head, Outcome, Record, link
from tidemill.store.api import ActivityQuery, Store
from tidemill.store.sql import open_store

SUB = "/subscriptions/S/resourceGroups/g"


def record(number: int, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "at": 1_000 + number,
        "action": "Microsoft.MachineLearningServices/workspaces/jobs/write",
        "outcome": Outcome.SUCCEEDED,
        "actor": "oid-1",
        "actor_name": "Ann",
        "actor_kind": "user",
        "address": "127.0.0.1",
        "agent": "azsdk — ü",
        "scope": f"{SUB}/workspaces/Main",
        "resource": f"{SUB}/workspaces/Main/jobs/j{number}",
        "method": "PUT",
        "status": 201,
        "assignment": "/assignments/a",
        "reason": "because",
        "correlation": f"c-{number}",
    }
    return Record(**(values | changes))


async def fill(store: Store, *records: Record) -> Head:
    return await store.write(lambda tx: tx.append_activity(records))


async def numbers(store: Store, **query: Any) -> list[int]:
    page = await store.read(lambda r: r.activity(ActivityQuery(**query)))
    return [found.seq for found in page.records]


async def test_records_are_numbered_and_chained(store: Store) -> None:
    assert await store.read(lambda r: r.activity_head()) == Head(0, GENESIS)
    await fill(store, record(1), record(2, count=7, code="X"))
    head = await fill(store, record(3))
    found = await store.read(lambda r: r.activity_from(1, 10))
    assert [(r.seq, r.correlation) for r in found] == [(1, "c-1"), (2, "c-2"), (3, "c-3")]
    assert replace(found[1], seq=0, hash=b"") == record(2, count=7, code="X")
    assert found[0].hash == link(GENESIS, found[0])
    assert found[2].hash == link(found[1].hash, found[2])
    assert head == Head(3, found[2].hash) == await store.read(lambda r: r.activity_head())
    chain = Chain({})
    assert [chain.add(r) for r in found] == [None, None, None]
    assert chain.end(head) is None
    assert [r.seq for r in await store.read(lambda r: r.activity_from(2, 1))] == [2]


async def test_a_closure_that_fails_leaves_no_record(store: Store) -> None:
    await fill(store, record(1))
    before = await store.read(lambda r: r.activity_head())

    def fail(tx: Any) -> None:
        tx.append_activity([record(2)])
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await store.write(fail)
    assert await store.read(lambda r: r.activity_head()) == before
    assert await numbers(store) == [1]


async def test_the_chain_goes_on_after_a_restart(target: str) -> None:
    if target == "memory:":
        pytest.skip("a store in memory ends with its process")
    first = open_store(target)
    await fill(first, record(1))
    await first.close()
    again = open_store(target)
    await fill(again, record(2))
    chain = Chain({})
    for found in await again.read(lambda r: r.activity_from(1, 10)):
        assert chain.add(found) is None
    assert chain.end(await again.read(lambda r: r.activity_head())) is None
    await again.close()


async def test_found_by_what_is_asked(store: Store) -> None:
    await fill(
        store,
        record(1),
        record(2, actor="oid-2", actor_name="Bob", outcome=Outcome.REFUSED, status=403),
        record(3, action="Microsoft.MachineLearningServices/workspaces/listKeys/action"),
        record(4, scope=f"{SUB}/workspaces/Main2", resource="/x_y"),
        record(5, scope=SUB, resource="/xzy"),
    )
    assert await numbers(store) == [5, 4, 3, 2, 1]
    assert await numbers(store, who="BOB") == [2]
    assert await numbers(store, who="oid-1", limit=2) == [5, 4]
    assert await numbers(store, what="LISTKEYS") == [3]
    assert await numbers(store, what="*/write") == [5, 4, 2, 1]
    assert await numbers(store, what="microsoft.*/listkeys/*") == [3]
    assert await numbers(store, what="jobs/list*") == []
    assert await numbers(store, scope=f"{SUB}/workspaces/main") == [3, 2, 1]
    assert await numbers(store, scope=SUB.upper()) == [5, 4, 3, 2, 1]
    assert await numbers(store, resource="/X_Y") == [4]
    assert await numbers(store, refused=True) == [2]
    assert await numbers(store, since=1_003) == [5, 4, 3]
    assert await numbers(store, since=1_002, until=1_004) == [3, 2]
    assert await numbers(store, correlation="C-4") == [4]


async def test_pages_go_on_in_order_of_time(store: Store) -> None:
    # A clock that was set back: the order is that of time, then of the log.
    await fill(store, record(5), record(1), record(3, at=1_001), record(9))
    seen: list[int] = []
    after: tuple[int, int] | None = None
    for _ in range(10):
        query = ActivityQuery(limit=1, after=after)
        page = await store.read(lambda r, q=query: r.activity(q))
        seen += [found.seq for found in page.records]
        after = page.after
        if after is None:
            break
    assert seen == [4, 1, 3, 2]


async def test_a_look_is_bounded_and_goes_on(store: Store) -> None:
    await fill(store, record(0, actor_name="Rare"), *(record(n) for n in range(1, 30)))
    query, looks, found = ActivityQuery(who="rare", scan=8), 0, []
    while True:
        page = await store.read(lambda r, q=query: r.activity(q))
        looks += 1
        found += [r.seq for r in page.records]
        if page.after is None:
            break
        query = replace(query, after=page.after)
    assert (looks, found) == (4, [1])
