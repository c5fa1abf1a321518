"""What access costs: a role check with many assignments, a list for somebody who may see a part of it.

    python -m benchmarks.access [--assignments 1000] [--jobs 100000] [--granted 100]

The check is `AccessIndex.decide`, which every request makes once, without any answer being remembered between
two checks of the same action and scope. The lists are the store's own, on SQLite: the newest 100 of all jobs
of a workspace as its owner reads them, and as somebody who was given a role on single jobs of it. Whoever
has a role on the whole workspace reads what the owner reads.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import Table
from tidemill.catalog.roles import builtin_roles
from tidemill.domain.model import Key, Resource, Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import AccessIndex, RoleAssignment
from tidemill.store.api import Granted, ResourceQuery, Store, Tx
from tidemill.store.sql import open_store

WS = Scope("11111111-1111-1111-1111-111111111111", "tidemill", "main")
READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
JOBS_READ = "Microsoft.MachineLearningServices/workspaces/jobs/read"
CHECK_US = 50.0
TIMES_OWNER = 2.0


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks access")
    parser.add_argument("--assignments", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--granted", type=int, default=100)
    options = parser.parse_args(argv)
    table = Table("Access", ("what", "figure", "floor", "ratio", "target", "met"))
    _checks(table, options.assignments)
    asyncio.run(_lists(table, options.jobs, options.granted))
    table.show()
    return table


def _checks(table: Table, count: int) -> None:
    index = _index(count)
    scopes = [f"{WS.arm_id}/jobs/job-{number:06d}" for number in range(4000)]
    for who, what in (("owner", "allowed"), ("nobody", "refused"), ("member", "through 3 groups")):
        turns = iter(scopes * 3)
        us = _median_us(lambda: index.decide(who, JOBS_READ, next(turns)), 10_000)  # noqa: B023
        met = us <= CHECK_US
        name = f"role check, {count} assignments, {what}"
        table.add(name, f"{us:.1f} us", "", None, f"<= {CHECK_US:.0f} us", met)


def _index(count: int) -> AccessIndex:
    """All assignments count at the scopes that are asked about or belong to the same principals."""
    index = AccessIndex(builtin_roles())
    for name in ("owner", "nobody", "member"):
        index.put_principal(Principal(name, PrincipalKind.USER, name))
    for group, member in (("g1", "member"), ("g2", "g1"), ("g3", "g2")):
        index.put_principal(Principal(group, PrincipalKind.GROUP, group))
        index.put_members(group, [member])
    index.put_assignment(RoleAssignment("o", WS.arm_id, "owner", READER))
    index.put_assignment(RoleAssignment("g", WS.arm_id, "g3", READER))
    holders = ("owner", "nobody", "member", "g1", "g2", "g3")
    for number in range(count - 2):
        where = f"{WS.arm_id}/computes/c{number}"
        index.put_assignment(RoleAssignment(str(number), where, holders[number % 6], READER))
    return index


async def _lists(table: Table, jobs: int, granted: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tidemill-access-") as folder:
        store = open_store(Path(folder) / "a.db")
        for start in range(0, jobs, 1000):
            await store.write(lambda tx, s=start: _add_jobs(tx, s, min(s + 1000, jobs)))
        chosen = random.Random(7).sample(range(jobs), granted)
        await store.write(lambda tx: _grant(tx, chosen))
        whole = ResourceQuery("jobs", WS, archived=False, limit=101)
        mine = Granted(("restricted", "a-group", "another"), (READER, "custom"))
        part = ResourceQuery("jobs", WS, archived=False, limit=101, granted=mine)
        owner, restricted = await _in_turn(store, whole, part)
        ratio = restricted / owner
        name = f"list of 100 of {jobs} jobs, roles on {granted} of them"
        limit = f"<= {TIMES_OWNER:.0f}x the owner's"
        table.add(name, f"{restricted:.0f} us", f"{owner:.0f} us", ratio, limit, ratio <= TIMES_OWNER)
        await store.close()


def _add_jobs(tx: Tx, start: int, end: int) -> None:
    spec = b'{"jobType":"Command","command":"python train.py","displayName":"a job"}' + b" " * 1500
    for number in range(start, end):
        key = Key(WS, "jobs", f"job-{number:06d}")
        tx.insert(Resource(f"{number:032x}", key, "Completed", spec=spec, created_at=number))


def _grant(tx: Tx, numbers: list[int]) -> None:
    for number in numbers:
        where = f"{WS.arm_id}/jobs/job-{number:06d}"
        tx.insert_role_assignment(RoleAssignment(f"as-{number}", where, "restricted", READER))


async def _in_turn(store: Store, *queries: ResourceQuery) -> list[float]:
    """Median microseconds of each list, read as rows, the queries taking turns."""
    times: list[list[float]] = [[] for _ in queries]
    for _ in range(200):
        for query, mine in zip(queries, times, strict=True):
            began = time.perf_counter()
            rows = await store.read(lambda r: r.find(query))  # noqa: B023
            mine.append((time.perf_counter() - began) * 1e6)
            assert len(rows) >= 100
    return [statistics.median(mine) for mine in times]


def _median_us(call: Callable[[], object], times: int) -> float:
    """Of batches of 100 calls."""
    found: list[float] = []
    for _ in range(times // 100):
        began = time.perf_counter()
        for _ in range(100):
            call()
        found.append((time.perf_counter() - began) * 1e4)
    return statistics.median(found)


if __name__ == "__main__":
    main()
