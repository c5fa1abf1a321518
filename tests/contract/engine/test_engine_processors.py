"""Nodes of whole processors run on processors of their own."""

from __future__ import annotations

import os

import pytest
from engine_support import Harness, needs_bash, needs_root

from tidemill.domain.model import Vector
from tidemill.engines.base import Service
from tidemill.helper import nodedir
from tidemill.sandbox import cgroups

CPUS = sorted(os.sched_getaffinity(0))
pytestmark = [
    needs_bash,
    needs_root,
    pytest.mark.root,
    pytest.mark.skipif(len(CPUS) < 2, reason="one processor cannot be shared out"),
    pytest.mark.skipif(
        not {"cpuset", "v2"} & cgroups.hierarchies().keys(), reason="this host has no cpuset controller"
    ),
]

# Until it may run on as many as it is told, or for ever: the test has a deadline.
UNTIL = "until [ $(nproc) = {count} ]; do sleep 0.02; done; taskset -cp $$ | sed 's/.*: //'"


async def runs_on(local: Harness, attempt: str, node_id: str, count: int) -> set[int]:
    ended = await local.run(attempt, UNTIL.format(count=count), node_id)
    assert ended.exit_code == 0
    cpus: set[int] = set()
    for part in (await local.log(attempt, node_id)).strip().split(","):
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


async def test_two_nodes_of_whole_processors_share_none_and_get_back_what_the_other_leaves(
    local: Harness,
) -> None:
    half = len(CPUS) // 2
    await local.open("n-1", cpu_milli=len(CPUS) * 1000)
    assert await runs_on(local, "a.1", "n-1", len(CPUS)) == set(CPUS)
    spec = await local.spec("a.2", UNTIL.format(count=half), "n-1")  # runs while its node gets smaller
    await local.engine.start("n-1", spec)
    await local.engine.resize("n-1", Vector(half * 1000, 512 << 20))
    await local.open("n-2", cpu_milli=half * 1000)
    assert (await local.events.exited("a.2")).exit_code == 0
    first, second = await runs_on(local, "b.1", "n-1", half), await runs_on(local, "b.2", "n-2", half)
    assert not first & second

    await local.restart()
    await local.engine.held()
    assert await runs_on(local, "c.1", "n-1", half) == first
    await local.engine.close_node("n-2")
    await local.events.kind("node_closed", "n-2")
    await local.engine.resize("n-1", Vector(len(CPUS) * 1000, 512 << 20))
    assert await runs_on(local, "d.1", "n-1", len(CPUS)) == set(CPUS)
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed", "n-1")
    assert not cgroups.stale(f"tidemill-{nodedir.home_id(local.home)}-")


async def test_a_job_cannot_leave_its_processors(local: Harness) -> None:
    half = len(CPUS) // 2
    await local.open("n-1", cpu_milli=half * 1000)
    await local.open("n-2", cpu_milli=half * 1000)
    mine = await runs_on(local, "a.1", "n-1", half)
    other = next(cpu for cpu in CPUS if cpu not in mine)
    ended = await local.run("a.2", f"taskset -cp {other} $$", "n-1")
    assert ended.exit_code != 0
    assert "failed to set" in await local.log("a.2", "n-1")


async def test_what_stands_still_leaves_its_processors_to_others(local: Harness) -> None:
    if not (await local.engine.isolation())["processes"].by.startswith("cgroup v2"):
        pytest.skip("no control groups of version 2 on this host: nothing can stand still")
    half = len(CPUS) // 2
    await local.open("n-1", cpu_milli=half * 1000)
    await local.engine.start("n-1", await local.spec("s.1", "sleep 600", service=Service()))
    await local.engine.park("n-1")
    await local.open("n-2", cpu_milli=half * 1000)
    await local.open("n-3", cpu_milli=half * 1000)
    first, second = await runs_on(local, "a.2", "n-2", half), await runs_on(local, "a.3", "n-3", half)
    assert not first & second
    await local.engine.close_node("n-3")
    await local.events.kind("node_closed", "n-3")
    await local.engine.wake("n-1")
    assert await runs_on(local, "b.2", "n-2", half) == first
