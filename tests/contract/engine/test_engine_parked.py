"""Parked services stand still and lose nothing; a host that cannot do that says so."""

# ruff: noqa: ASYNC110, ASYNC240 - small files of the test's own

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from engine_support import KEY, Harness, pids_in
from test_engine_services import QUICK, SERVER, is_, kinds, start

from tidemill.engines.base import InvalidTask, Service

SERVICE = Service(ready=QUICK)
COUNTER = """(while :; do n=$((n+1)); echo $n > count.new; mv count.new count; sleep 0.01; done) &
until [ -e count ]; do sleep 0.01; done
"""


async def parked(engine: Harness, script: str = SERVER, service: Service = SERVICE) -> None:
    await start(engine, script, service)
    await engine.events.until(is_("task_ready"))
    limits = (await engine.engine.isolation()).get("processes")
    if limits is not None and not limits.by.startswith("cgroup v2"):
        pytest.skip("no control groups of version 2 on this host: nothing can stand still")
    await engine.engine.park("n-1")


async def seen(engine: Harness, *expected: str) -> None:
    async with asyncio.timeout(60):
        while len(kinds(engine)) < len(expected):
            await asyncio.sleep(0.005)
    assert kinds(engine) == list(expected)


async def test_woken_it_is_ready_again(any_engine: Harness) -> None:
    await parked(any_engine)
    await any_engine.engine.park("n-1")  # the same said twice
    await any_engine.engine.wake("n-1")
    await any_engine.engine.wake("n-1")
    await seen(any_engine, "started", "ready", "ready")


async def test_a_new_server_is_not_told_that_it_is_ready(any_engine: Harness) -> None:
    await parked(any_engine)
    await any_engine.restart()
    await any_engine.engine.held()
    await any_engine.events.until(is_("task_started"))
    await any_engine.engine.wake("n-1")
    await seen(any_engine, "started", "ready")


async def test_it_stands_still_and_no_probe_asks_it(local: Harness) -> None:
    quick = Service(ready=replace(QUICK, timeout_s=0.1))
    await parked(local, COUNTER + SERVER, quick)
    count = Path(local.engine.work_dir("n-1", "a.1"), "count")
    before = await still(count)
    told = kinds(local)
    await asyncio.sleep(0.6)  # two probes would have failed, and the counter gone on
    assert count.read_text() == before
    assert kinds(local) == told
    await local.engine.wake("n-1")
    async with asyncio.timeout(60):
        while count.read_text() == before or "ready" not in kinds(local)[len(told) :]:
            await asyncio.sleep(0.005)


async def still(count: Path) -> str:
    """What it says once it does not change any more."""
    async with asyncio.timeout(60):
        while True:
            before = count.read_text()
            await asyncio.sleep(0.1)
            if count.read_text() == before:
                return before


async def test_a_stop_ends_it_as_any_other(local: Harness) -> None:
    await parked(local)
    await local.engine.stop("n-1", KEY, 1, "no longer wanted")
    end = await local.events.exited("a.1")
    assert (end.reason, end.signal) == ("stopped", signal.SIGTERM)


async def test_what_died_inside_is_started_again_once_it_goes_on(local: Harness) -> None:
    """Its sandbox stands still, too, and learns of it then."""
    await parked(local)
    (inner,) = await pids_in(f"{local.engine.work_dir('n-1', 'a.1')}/pids", 1)
    (pid,) = local.host_pids("a.1", [inner])
    os.kill(pid, signal.SIGKILL)
    await local.engine.wake("n-1")
    async with asyncio.timeout(60):
        while kinds(local)[-3:] != ["restarting", "started", "ready"]:
            await asyncio.sleep(0.005)


async def test_ended_as_a_whole_it_is_not_started_again(local: Harness) -> None:
    await parked(local)
    os.kill((await local.events.until(is_("task_started"))).pid, signal.SIGKILL)
    end = await local.events.exited("a.1")
    assert (end.reason, end.message) == ("stopped", "its process ended while it was parked")


async def test_its_node_closes_as_any_other(local: Harness) -> None:
    await parked(local)
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert (await local.events.exited("a.1")).reason == "stopped"


async def test_what_it_holds_is_counted(local: Harness) -> None:
    await parked(local)
    used = local.engine.memory_used("n-1")
    if used is None:
        pytest.skip("memory is not counted on this host")
    assert 1 << 20 < used < 1 << 30
    assert local.engine.memory_used("n-9") is None
    assert (local.engine.free_memory() or 0) > 0


async def test_what_is_no_service_is_not_parked(local: Harness) -> None:
    await local.open()
    await local.engine.start("n-1", await local.spec("a.1", "sleep 600"))
    await local.events.until(is_("task_started"))
    with pytest.raises(InvalidTask, match="no service that runs"):
        await local.engine.park("n-1")
