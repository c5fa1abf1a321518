"""Writing the activity log: what a flood of refusals, and a store that takes nothing, may cost."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.app import activity, refusal_spool
from tidemill.app.activity import ActivityLog
from tidemill.domain.activity import Outcome, Pace, Record
from tidemill.store.api import ActivityQuery
from tidemill.store.memory import MemoryStore

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND


def refused(at: int, resource: str, address: str = "10.0.0.1", actor: str = "") -> Record:
    return Record(at, "x/write", Outcome.REFUSED, actor=actor, address=address, resource=resource, status=401)


async def kept(store: MemoryStore) -> list[Record]:
    page = await store.read(lambda read: read.activity(ActivityQuery(limit=100_000, scan=100_000)))
    return list(page.records)


async def test_a_flood_costs_little_disk_is_counted_whole_and_hides_nobody_else() -> None:
    log, store = ActivityLog(), MemoryStore()
    log.start(store)
    sent = 0
    for tenth in range(600):  # a minute
        at = NOW + tenth * SECOND // 10
        for number in range(50):
            log.record(refused(at, f"/guess/{tenth}/{number}"))
            sent += 1
        if tenth % 100 == 50:
            log.record(refused(at, f"/quiet/{tenth}", "10.0.0.2"))
            sent += 1
        await log.write_some()
    await log.stop()
    found = await kept(store)
    assert sum(record.count for record in found) == sent
    assert len([r for r in found if r.resource.startswith("/quiet")]) == 6
    assert len(found) < Pace.AT_ONCE + 80


async def test_what_a_job_writes_without_end_is_counted_and_a_look_at_a_secret_always_kept() -> None:
    log, store = ActivityLog(), MemoryStore()
    log.start(store)
    job = {"actor": "j1", "actor_kind": "job", "assignment": "job/j1"}
    secret = "Microsoft.MachineLearningServices/workspaces/secrets/getSecret/action"
    for number in range(1000):
        at = NOW + number
        log.record(Record(at, "x/write", Outcome.SUCCEEDED, resource=f"/data/{number}", **job))
        log.record(Record(at, secret, Outcome.SUCCEEDED, resource=f"/secrets/{number}", **job))
        log.record(Record(at, "x/write", Outcome.SUCCEEDED, actor="ann", actor_kind="job", assignment="1"))
    await log.stop()
    found = await kept(store)
    assert sum(record.count for record in found) == 3000
    assert len([r for r in found if r.action == secret]) == 1000
    assert len([r for r in found if r.actor == "ann"]) == 1000
    assert len(found) <= 2000 + Pace.AT_ONCE + 1
    assert {r.outcome for r in found} == {Outcome.SUCCEEDED}


async def test_the_same_refusal_is_counted_also_where_the_log_takes_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(activity, "MOST_WAITING", 2)
    log, store = ActivityLog(), MemoryStore()
    for _ in range(3):
        for number in range(4):
            log.record(refused(NOW, f"/{number}"))
    log.start(store)
    await log.stop()
    assert sum(record.count for record in await kept(store)) == 12


async def test_the_data_process_writes_little_of_a_flood(tmp_path: Any) -> None:
    path = tmp_path / "refusals"
    spool = refusal_spool.RefusalSpool(path)
    records: list[Record] = []
    for second in range(60):
        for number in range(300):
            spool.add(refused(NOW + second * SECOND, f"/{second}/{number}"))
        spool.flush()
        taken = refusal_spool.take(path)
        assert taken is not None
        records += taken.records
        taken.done()
    assert sum(record.count for record in records) == 60 * 300
    assert len(records) < Pace.AT_ONCE + 80
