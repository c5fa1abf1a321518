"""Limits of a node in the kernel, as root: what is enforced, and what running into one is told as."""

# ruff: noqa: ASYNC240 - small files of the test's own, and a deadline around every loop

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from engine_support import (
    KEY,
    Harness,
    needs_bash,
    needs_root,
    pids_in,
)

from tidemill.domain.model import Vector

pytestmark = [needs_bash, pytest.mark.kill]


@needs_root
@pytest.mark.root
async def test_what_is_enforced_is_in_the_kernel(local: Harness) -> None:
    ready = await local.open(memory=200 << 20, cpu_milli=1500)
    groups = json.loads(ready.handle)["groups"]
    assert ready.limits["uid"].enforced, ready.limits["uid"].why_not
    assert ready.limits["files"].enforced
    assert ready.limits["network"].enforced, ready.limits["network"].why_not
    for use in ("cpu", "memory", "pids", "processes"):
        assert ready.limits[use].enforced, ready.limits[use].why_not
    assert _limits_in(groups) == (1500, 200 << 20)
    await local.engine.resize("n-1", Vector(500, 100 << 20))
    assert _limits_in(groups) == (500, 100 << 20)
    assert (await local.engine.held())[0].granted == Vector(500, 100 << 20)
    spec = await local.spec("a.1", "echo $$ > pids; grep NoNewPrivs /proc/self/status; sleep 600")
    await local.engine.start("n-1", spec)
    (job,) = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 1))
    assert os.path.basename(groups["cpu"]) in Path(f"/proc/{job}/cgroup").read_text()
    await local.engine.stop("n-1", KEY, 1, "seen")
    await local.events.exited("a.1")
    assert "NoNewPrivs:\t1" in await local.log("a.1")
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert not [g for g in groups.values() if os.path.exists(g)]


def _limits_in(groups: dict[str, str]) -> tuple[int, int]:
    cpu, memory = Path(groups["cpu"]), Path(groups["memory"])
    if (cpu / "cpu.max").exists():
        quota = int((cpu / "cpu.max").read_text().split()[0])
        return quota // 100, int((memory / "memory.max").read_text())
    quota = int((cpu / "cpu.cfs_quota_us").read_text())
    return quota // 100, int((memory / "memory.limit_in_bytes").read_text())


@needs_root
@pytest.mark.root
async def test_more_memory_than_the_node_has_is_told_as_such(local: Harness) -> None:
    await local.open(memory=64 << 20)
    eat = "python3 -c 'x = bytearray(300 << 20); print(len(x))'"
    event = await local.run("a.1", f"{eat}; exit $?")
    assert (event.reason, event.exit_code, event.signal) == ("oom", 137, None)  # the shell's
    assert "67108864 bytes" in event.message
    assert event.peak_memory is not None
    assert 32 << 20 < event.peak_memory <= 64 << 20
    after = await local.run("b.1", "exit 1")
    assert after.reason == ""


@needs_root
@pytest.mark.root
async def test_a_job_reaches_its_own_files_and_no_others(local: Harness) -> None:
    secrets = local.home / "secrets"
    secrets.mkdir()
    (secrets / "storage.key").write_text("secret")
    (local.home / "envs" / "tool").write_text("#!/bin/sh\necho tool ran\n")
    (local.home / "envs" / "tool").chmod(0o755)
    await local.open("n-1")
    await local.open("n-2")
    other = await local.engine.prepare_dir("n-2", "o.1")
    Path(other, "theirs").write_text("theirs")
    work = await local.engine.prepare_dir("n-1", "a.1")
    Path(work, "input").write_text("given")
    await local.engine.settle_dir("n-1", "a.1")
    home = local.home
    agent = local.agent_pid()
    probes = {
        "own": "cat input && echo more >> input && touch new",
        "tool": f"{home}/envs/tool",
        "secret": f"cat {secrets}/storage.key",
        "home": f"ls {home}/nodes/n-1/agent",
        "other": f"cat {other}/theirs",
        "env": f"echo x >> {home}/envs/tool",
        "env-new": f"touch {home}/envs/new",
        "host": "touch /usr/bin/x-tidemill",
        "root": "touch /root/x-tidemill",
        "etc": "cat /etc/shadow",
        "agent": f"kill -9 {agent}",
        "through": f"cat /proc/{agent}/root{secrets}/storage.key",
        "mount": "mount -t tmpfs none /mnt",
        "cgroup": "echo 0 > /sys/fs/cgroup/cpu/cgroup.procs",
    }
    script = "".join(f"( {p} ) >/dev/null 2>&1 && echo {name}\n" for name, p in probes.items())
    await local.run("a.1", script + "true")
    assert (await local.log("a.1")).split() == ["own", "tool"]
    assert Path(work, "input").read_text() == "givenmore\n"
    assert Path(work, "new").stat().st_uid >= 200_000


@needs_root
@pytest.mark.root
async def test_python_below_a_closed_folder_runs(local: Harness) -> None:
    await local.open()
    real = os.path.realpath(sys.executable)
    event = await local.run("a.1", f"{real} -I -c 'import json, ssl, sqlite3; print(42)'")
    assert await local.log("a.1") == "42\n"
    assert event.exit_code == 0


@needs_root
@pytest.mark.root
async def test_a_fork_bomb_stays_inside(local: Harness) -> None:
    await local.open(memory=256 << 20)
    bomb = "b() { b | b & }; b; sleep 1; exit 0"
    await local.engine.start("n-1", await local.spec("a.1", bomb, term_grace_s=0.2, timeout_s=2.0))
    event = await local.events.exited("a.1")
    assert event.reason in ("", "timeout", "oom", "pids")  # which bound is met first is the host's affair
    assert (await local.run("b.1", "exit 0")).exit_code == 0


@needs_root
@pytest.mark.root
async def test_groups_of_nodes_that_are_gone_are_swept(local: Harness) -> None:
    ready = await local.open()
    directory = json.loads(ready.handle)["groups"]["kill"]
    stale = directory.removesuffix("n-1") + "n-gone"
    os.mkdir(stale)
    await local.restart()
    await local.engine.held()
    assert not os.path.exists(stale)
    assert os.path.exists(directory)
