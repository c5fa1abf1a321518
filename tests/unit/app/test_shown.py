"""What a dialect made of rows is remembered by uid and revision, and never stale."""

from __future__ import annotations

from dataclasses import replace

from tidemill.app.rows.shown import Shown
from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import ResourceQuery
from tidemill.store.memory import MemoryStore

WS = Scope("s", "g", "w")
QUERY = ResourceQuery("jobs", WS)


def _row(number: int, state: str = "Queued") -> Resource:
    return Resource(f"{number:032x}", Key(WS, "jobs", f"job-{number}"), state)


class _Renderer:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, row: Resource) -> bytes:
        self.asked.append(row.key.name)
        return f"{row.key.name} {row.state}".encode()


async def test_only_what_changed_is_rendered_again() -> None:
    store, shown, show = MemoryStore(), Shown(), _Renderer()
    rows = [await store.write(lambda tx, n=n: tx.insert(_row(n))) for n in range(3)]
    page = await shown.page(store, QUERY, show)
    assert page == [(row.uid, f"{row.key.name} Queued".encode()) for row in reversed(rows)]
    assert await shown.page(store, QUERY, show) == page
    assert len(show.asked) == 3
    await store.write(lambda tx: tx.update(replace(rows[1], state="Running")))
    show.asked.clear()
    assert [body for _, body in await shown.page(store, QUERY, show)] == [
        b"job-2 Queued",
        b"job-1 Running",
        b"job-0 Queued",
    ]
    assert await shown.one(store, rows[1].key, show) == b"job-1 Running"
    assert show.asked == ["job-1"]


async def test_a_name_used_again_is_another_row() -> None:
    store, shown, show = MemoryStore(), Shown(), _Renderer()
    first = await store.write(lambda tx: tx.insert(_row(1)))
    assert await shown.one(store, first.key, show) == b"job-1 Queued"
    await store.write(lambda tx: tx.delete(first))
    assert await shown.one(store, first.key, show) is None
    assert await shown.page(store, QUERY, show) == []
    await store.write(lambda tx: tx.insert(replace(_row(2, "Failed"), key=first.key)))
    assert await shown.one(store, first.key, show) == b"job-1 Failed"


async def test_it_forgets_rather_than_grows() -> None:
    store, shown, show = MemoryStore(), Shown(limit=30), _Renderer()
    for number in range(3):
        await store.write(lambda tx, n=number: tx.insert(_row(n)))
    for _ in range(2):  # 12 bytes each: the third does not fit beside two
        assert len(await shown.page(store, QUERY, show)) == 3
    assert len(show.asked) > 3
