"""What the local engine promises about real processes, limits, files and loss."""

# ruff: noqa: ASYNC110, ASYNC221, ASYNC240 - small files of the test's own, and a deadline around every loop

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine_support import (
    ESCAPES,
    KEY,
    Harness,
    RealClock,
    alive,
    local_engine,
    needs_bash,
    pids_in,
)

from tidemill.domain.model import Vector
from tidemill.engines.base import EngineError, InvalidTask, NodeSpec, TaskKey
from tidemill.engines.local import LocalEngine
from tidemill.helper.nodedir import NodeDir

pytestmark = [needs_bash, pytest.mark.kill]


async def test_nothing_is_made_through_a_jobs_link(local, tmp_path) -> None:
    """After a restart the folders of a job that runs are asked for again: by root, and the job owns them."""
    await local.open("n-1")
    folders, links = ("code", "code/outputs"), (("code/python", "/usr/bin/python3"),)
    work = await local.engine.prepare_dir("n-1", "a.1", folders, links)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.rename(f"{work}/code", f"{work}/old")
    os.symlink(elsewhere, f"{work}/code")
    await local.engine.prepare_dir("n-1", "a.1", folders, links)
    assert list(elsewhere.iterdir()) == []


async def test_stop_ends_a_tree_that_ignores_term_within_its_grace(local: Harness) -> None:
    await local.open()
    spec = await local.spec("a.1", ESCAPES + "; while true; do sleep 1; done", term_grace_s=0.3)
    await local.engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 4))
    before = time.monotonic()
    await local.engine.stop("n-1", KEY, 1, "canceled")
    event = await local.events.exited("a.1")
    assert not [p for p in pids if alive(p)]  # at the very moment it is told
    assert (event.reason, event.signal) == ("stopped", 9)
    assert 0.25 < time.monotonic() - before < 10  # which a task has that says nothing of its grace


async def test_what_escapes_is_gone_before_the_exit_is_told(local: Harness) -> None:
    await local.open()
    spec = await local.spec("a.1", ESCAPES + "; until [ -e go ]; do :; done; exit 5")
    await local.engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 4))
    Path(spec.cwd, "go").touch()
    event = await local.events.exited("a.1")
    assert not [p for p in pids if alive(p)]
    assert event.exit_code == 5


async def test_a_timeout_is_a_reason_of_its_own(local: Harness) -> None:
    await local.open()
    event = await local.run("a.1", "sleep 600", timeout_s=0.2)
    assert (event.reason, event.signal) == ("timeout", 15)
    assert "0.2 s" in event.message


async def test_a_program_that_is_not_there_fails_with_its_name(local: Harness) -> None:
    await local.open()
    spec = await local.spec("a.1", "")
    await local.engine.start("n-1", replace(spec, argv=("no-such-program", "x")))
    event = await local.events.exited("a.1")
    assert event.reason == "spawn_failed"
    assert "no-such-program" in event.message
    await local.engine.start("n-1", replace(spec, attempt_id="b.1", cwd="/no/such/folder"))
    assert "/no/such/folder" in (await local.events.exited("b.1")).message
    with pytest.raises(InvalidTask, match="log_path"):
        await local.engine.start("n-1", replace(spec, attempt_id="c.1", log_path="/etc/x.log"))
    with pytest.raises(InvalidTask, match="nothing to run"):
        await local.engine.start("n-1", replace(spec, attempt_id="d.1", argv=()))


async def test_a_log_that_is_a_link_is_not_followed(local: Harness, tmp_path: Path) -> None:
    await local.open()
    spec = await local.spec("a.1", "echo pwned")
    (tmp_path / "victim").write_text("mine")
    os.symlink(tmp_path / "victim", spec.log_path)
    with pytest.raises(InvalidTask, match="log_path"):
        await local.engine.start("n-1", spec)
    assert (tmp_path / "victim").read_text() == "mine"


async def test_every_byte_of_a_long_log_is_there(local: Harness) -> None:
    await local.open()
    await local.run("a.1", "seq 1 50000; seq 50001 100000 >&2")
    text = await local.log("a.1")
    assert text.split() == [str(i) for i in range(1, 100_001)]
    assert await local.engine.log_size("n-1", "a.1", "log.txt") == len(text)


async def test_two_hundred_tasks_leave_nothing_behind(local: Harness) -> None:
    await local.open()
    agent = local.agent_pid()
    spec = await local.spec("a.1", "true")
    times: list[float] = []
    for i in range(200):
        cwd = await local.engine.prepare_dir("n-1", f"t.{i}")
        before = time.perf_counter()
        await local.engine.start("n-1", replace(spec, attempt_id=f"t.{i}", argv=("/bin/true",), cwd=cwd))
        assert (await local.events.exited(f"t.{i}")).exit_code == 0
        times.append((time.perf_counter() - before) * 1e3)
        await local.engine.forget("n-1", TaskKey(f"t.{i}", 0))
        local.events.seen.clear()
        if i == 20:
            fds = len(os.listdir(f"/proc/{agent}/fd"))
    assert len(os.listdir(f"/proc/{agent}/fd")) == fds
    print(f"start -> exited: p50 {statistics.median(times):.2f} ms")
    await local.restart()
    await local.engine.held()
    await local.run("z.1", "exit 0")
    assert {e.task for e in local.events.seen if e.kind == "task_exited"} == {TaskKey("z.1", 0)}


async def test_a_long_journal_is_compacted_and_still_says_all(
    local: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await local.open()
    await local.run("kept.1", "exit 4")
    big = "x" * 2000
    journal = local.home / "nodes/n-1/agent/journal"
    for i in range(300):  # more than COMPACT_AT bytes of records
        await local.engine.stop("n-1", TaskKey(f"t.{i}", 0), 1, big * 2)
        await local.engine.forget("n-1", TaskKey(f"t.{i}", 0))
    assert journal.stat().st_size < 1 << 20
    local.events.seen.clear()
    os.kill(local.agent_pid(), signal.SIGKILL)
    await local.events.kind("node_lost")
    exits = [
        (e.task.attempt_id, e.exit_code) for e in local.events.seen if e.kind == "task_exited" and e.task
    ]
    assert exits == [("kept.1", 4)]


async def test_eight_nodes_at_once(local: Harness) -> None:
    names = [f"n-{i}" for i in range(1, 9)]
    await asyncio.gather(*(local.open(n, cpu_milli=500) for n in names))
    uids = {json.loads((await local.events.kind("node_ready", n)).handle)["uid"] for n in names}
    assert len(uids) == (8 if os.geteuid() == 0 else 1)
    await asyncio.gather(*(local.run(f"a{n}.1", f"exit {n[2:]}", n) for n in names))
    codes = {e.node_id: e.exit_code for e in local.events.seen if e.kind == "task_exited"}
    assert codes == {n: int(n[2:]) for n in names}


async def test_a_deep_home(tmp_path: Path) -> None:
    home = tmp_path / ("d" * 60) / ("e" * 60) / "home"
    home.mkdir(parents=True, mode=0o700)
    harness = Harness(local_engine(home), lambda: local_engine(home), home)
    try:
        await harness.open()
        assert (await harness.run("a.1", "echo deep")).exit_code == 0
        assert await harness.log("a.1") == "deep\n"
    finally:
        await harness.close()


async def test_gpus_a_task_may_see(local: Harness) -> None:
    await local.engine.open_node(NodeSpec("n-1", Vector(1000, 1 << 29, 2), ("GPU-a", "GPU-b")))
    await local.events.kind("node_ready")
    show = 'echo "[$CUDA_VISIBLE_DEVICES|$NVIDIA_VISIBLE_DEVICES]"'
    await local.run("a.1", show)
    await local.run("b.1", show, gpu_ids=("GPU-b",))
    assert await local.log("a.1") == "[|]\n"
    assert await local.log("b.1") == "[GPU-b|GPU-b]\n"
    with pytest.raises(InvalidTask, match="GPU-z"):
        await local.engine.start("n-1", await local.spec("c.1", show, gpu_ids=("GPU-z",)))


async def test_directories_are_removed(local: Harness) -> None:
    await local.open()
    await local.run("a.1", "mkdir -p d/e; touch d/e/f; ln -s / d/root; chmod 0 d/e")
    await local.engine.remove_dir("n-1", "a.1")
    assert set(os.listdir(local.home / "nodes/n-1/work")) <= {".etc", ".dev"}
    await local.engine.remove_dir("n-1", "a.1")
    assert os.path.isdir("/etc")
    with pytest.raises(InvalidTask):
        local.engine.work_dir("n-1", "../x")


async def test_without_groups_and_uids_everything_is_still_proved_gone(
    local: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain tier: a reaper stands in for the control groups (switched off here)."""
    await local.engine.detach()
    await local.events.close()
    engine = LocalEngine(local.home, clock=RealClock(), own_uids=False, cgroups=False, isolation="plain")
    local.engine, local.events = engine, type(local.events)(engine)
    ready = await local.open()
    assert not ready.limits["cpu"].enforced
    assert ready.limits["cpu"].why_not
    event = await local.run("a.1", ESCAPES + "; until [ $(wc -l < pids) -ge 4 ]; do :; done; exit 5")
    pids = await pids_in(f"{engine.work_dir('n-1', 'a.1')}/pids", 4)
    assert not [p for p in pids if alive(p)]
    assert event.exit_code == 5
    spec = await local.spec("b.1", ESCAPES + "; while true; do sleep 1; done", term_grace_s=0.2)
    await engine.start("n-1", spec)
    pids = await pids_in(f"{spec.cwd}/pids", 4)
    await engine.stop("n-1", TaskKey("b.1", 0), 1, "canceled")
    event = await local.events.exited("b.1")
    assert (event.reason, event.signal) == ("stopped", 9)
    assert not [p for p in pids if alive(p)]
    # the reaper itself is killed by the job: what it kept comes to the agent and is killed there
    event = await local.run("c.1", "(setsid sleep 600 & echo $! > pids); kill -9 $PPID; sleep 600")
    pids = await pids_in(f"{engine.work_dir('n-1', 'c.1')}/pids", 1)
    assert not [p for p in pids if alive(p)]
    # and the agent
    spec = await local.spec("d.1", ESCAPES + "; sleep 600")
    await engine.start("n-1", spec)
    pids = await pids_in(f"{spec.cwd}/pids", 4)
    os.kill(local.agent_pid(), signal.SIGKILL)
    await local.events.kind("node_lost")
    await engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert not [p for p in pids if alive(p)]


async def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path, clock=RealClock(), python="/bin/false")
    harness = Harness(engine, lambda: engine, tmp_path)
    await engine.open_node(NodeSpec("n-1", Vector(1000, 1 << 28)))
    lost = await harness.events.kind("node_lost")
    assert "did not start" in lost.message
    await harness.close()
    assert os.listdir(tmp_path / "nodes") == []
    with pytest.raises(EngineError, match="node id"):
        await engine.open_node(NodeSpec("../x", Vector(1000, 1 << 28)))


async def test_a_close_that_failed_half_way_can_be_asked_for_again(
    local: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await local.open()
    pid = local.agent_pid()
    original, failures = NodeDir.remove, [OSError(28, "No space left on device")]

    def remove(directory: NodeDir) -> None:
        if failures:
            raise failures.pop()
        original(directory)

    monkeypatch.setattr(NodeDir, "remove", remove)
    await local.engine.close_node("n-1")
    async with asyncio.timeout(60):
        while failures or alive(pid):
            await asyncio.sleep(0.01)
        while not local.engine._nodes["n-1"].closing.done():
            await asyncio.sleep(0.01)
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert [node.node_id for node in await local.engine.held()] == []


async def test_an_agent_whose_home_is_deleted_ends_with_all_it_runs(tmp_path) -> None:
    home = tmp_path / "home"
    engine = LocalEngine(home, clock=RealClock(), look_s=0.2)
    harness = Harness(engine, lambda: engine, home)
    await harness.open()
    agent = harness.agent_pid()
    script = "echo $$ > pid; trap '' TERM; sleep 600 & wait; sleep 600"
    spec = await harness.spec("a.1", script, read_only=())
    await engine.start("n-1", spec)
    (job,) = harness.host_pids("a.1", await pids_in(f"{spec.cwd}/pid", 1))
    subprocess.run(["rm", "-rf", home], stderr=subprocess.DEVNULL)  # a work disk is busy until the agent ends
    deadline = time.monotonic() + 60
    while alive(job) or alive(agent):
        assert time.monotonic() < deadline, "the agent lives on without a home"
        await asyncio.sleep(0.05)
    assert not os.path.exists(home)
    await engine.detach()
