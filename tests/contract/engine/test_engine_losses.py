"""Servers and agents of the local engine that go, die or hang: the work is adopted, or proved gone."""

# ruff: noqa: ASYNC110, ASYNC240 - small files of the test's own, and a deadline around every loop

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from engine_support import (
    ESCAPES,
    KEY,
    Harness,
    alive,
    groups_of,
    needs_bash,
    pids_in,
)

from tidemill.engines.base import Unreachable
from tidemill.helper import nodedir
from tidemill.helper.nodedir import NodeDir
from tidemill.sandbox import processes

pytestmark = [needs_bash, pytest.mark.kill]


async def test_a_server_that_goes_leaves_the_work_and_the_next_adopts_it(local: Harness) -> None:
    await local.open()
    spec = await local.spec(
        "a.1", "for i in $(seq 1 200); do echo line $i; done; until [ -e go ]; do :; done; exit 7"
    )
    await local.engine.start("n-1", spec)
    await local.restart()
    with pytest.raises(Unreachable):
        await local.engine.stop("n-1", KEY, 1, "x")  # not adopted yet
    assert [h.alive for h in await local.engine.held()] == [True]
    assert (await local.events.kind("task_started")).task == KEY
    Path(spec.cwd, "go").touch()
    event = await local.events.exited("a.1")
    assert event.exit_code == 7
    assert (await local.log("a.1")).splitlines() == [f"line {i}" for i in range(1, 201)]


async def test_an_exit_while_no_server_lives_is_told_to_the_next(local: Harness) -> None:
    await local.open()
    spec = await local.spec("a.1", "until [ -e go ]; do :; done; exit 7")
    await local.engine.start("n-1", spec)
    pid = (await local.events.kind("task_started")).pid
    await local.engine.detach()
    Path(spec.cwd, "go").touch()
    async with asyncio.timeout(60):
        while alive(pid):
            await asyncio.sleep(0.005)
    await local.restart()
    await local.engine.held()
    assert (await local.events.exited("a.1")).exit_code == 7


async def test_a_dead_agent_is_a_lost_node_and_closing_proves_its_work_gone(local: Harness) -> None:
    await local.open()
    await local.run("done.1", "exit 3")
    spec = await local.spec("a.1", ESCAPES + "; sleep 600")
    await local.engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 4))
    await local.events.until(lambda e: e.kind == "task_started" and e.task == KEY)
    local.events.seen.clear()
    os.kill(local.agent_pid(), signal.SIGKILL)
    lost = await local.events.kind("node_lost")
    assert lost.reason == "lost"
    assert [(e.kind, e.exit_code) for e in local.events.seen] == [("task_exited", 3), ("node_lost", None)]
    with pytest.raises(Unreachable, match="lost its agent"):
        await local.engine.start("n-1", spec)
    assert [h.alive for h in await local.engine.held()] == [False]
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert not [p for p in pids if alive(p)]
    assert set(os.listdir(local.home / "nodes" / "n-1")) - {"disk.img"} == {
        "work"
    }  # its log is still to be collected
    for attempt in ("done.1", "a.1"):
        await local.engine.remove_dir("n-1", attempt)
    assert not (local.home / "nodes" / "n-1").exists()


async def test_an_agent_that_died_with_its_server_is_found_lost(local: Harness) -> None:
    ready = await local.open()
    spec = await local.spec("a.1", "echo $$ > pids; sleep 600")
    await local.engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 1))
    await local.engine.detach()
    os.kill(local.agent_pid(), signal.SIGKILL)
    await local.restart()
    async with asyncio.timeout(60):
        while [h.alive for h in await local.engine.held()] != [False]:
            await asyncio.sleep(0.01)
    await local.events.kind("node_lost")
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert not [p for p in pids if alive(p)]
    assert not [g for g in groups_of(ready) if os.path.exists(g)]


async def test_an_agent_that_lets_go_of_its_node_is_gone(local: Harness) -> None:
    """Or the node could not be removed at once: its helper removes none that still has processes."""
    await local.open()
    node = NodeDir("n-1", local.home / "nodes" / "n-1")
    link = local.engine._nodes["n-1"].link
    with contextlib.suppress(Unreachable):  # what else is written to it meanwhile may cut its answer off
        await link.call("shutdown", wait_s=60.0)
    deadline = time.monotonic() + 60
    while node.agent_pid() is not None:
        assert time.monotonic() < deadline
    assert processes.marked(processes.marker(nodedir.home_id(local.home), "n-1", "")) == []


async def test_an_agent_that_hangs_is_closed_all_the_same(
    local: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.engines.local.SHUTDOWN_TIMEOUT_S", 0.3)
    await local.open()
    spec = await local.spec("a.1", "echo $$ > pids; sleep 600")
    await local.engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 1))
    agent = local.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert not [p for p in [*pids, agent] if alive(p)]


async def test_the_agent_is_nobodys_child_and_lean(local: Harness) -> None:
    await local.open()
    agent = local.agent_pid()
    parent = int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != os.getpid()
    pss = next(
        ln for ln in Path(f"/proc/{agent}/smaps_rollup").read_text().splitlines() if ln.startswith("Pss:")
    )
    assert int(pss.split()[1]) < 14_000  # kB
