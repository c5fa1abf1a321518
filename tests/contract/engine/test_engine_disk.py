"""The work disk of a local node: its size is the limit, and nothing of it stays behind."""

# ruff: noqa: ASYNC240 - small files of the test's own

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_support import Harness, needs_bash, needs_root

from hostcan import need, no_disk
from tidemill.domain.model import Vector
from tidemill.engines.base import EngineEvent, NodeSpec
from tidemill.sandbox import disk


def as_root(test: Callable[..., Any]) -> Callable[..., Any]:
    return needs_root(pytest.mark.root(pytest.mark.usefixtures("work_disk")(test)))


@pytest.fixture
def work_disk() -> None:
    need(no_disk())


pytestmark = [needs_bash, pytest.mark.kill]

FILL = "head -c 200M /dev/zero > big; exit $?"


async def open_with_disk(local: Harness, node_id: str = "n-1", size: int = 32 << 20) -> EngineEvent:
    await local.engine.open_node(NodeSpec(node_id, Vector(1000, 512 << 20), disk=size))
    return await local.events.kind("node_ready", node_id)


def mounted(home: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ")[4] for line in lines if line.split(" ")[4].startswith(f"{home}/")]


def on_the_hosts_disk(home: Path) -> int:
    """Bytes that the home takes there, without what is mounted in it."""
    total = 0
    for folder, folders, files in os.walk(home):
        folders[:] = [name for name in folders if not os.path.ismount(f"{folder}/{name}")]
        total += sum(os.lstat(f"{folder}/{name}").st_blocks * 512 for name in files)
    return total


@as_root
async def test_a_job_that_fills_its_disk_ends_there(local: Harness) -> None:
    ready = await open_with_disk(local)
    await open_with_disk(local, "n-2")
    assert ready.limits["disk"].enforced, ready.limits["disk"].why_not
    assert "0.03125 GiB" in ready.limits["disk"].by
    event = await local.run("a.1", FILL)
    assert (event.exit_code, event.reason) == (1, "disk_full")
    used, size = (int(word) for word in event.message.split() if word.isdigit())
    assert 24 << 20 < size <= 32 << 20
    assert size - used < disk.FULL_BELOW
    assert on_the_hosts_disk(local.home) < 64 << 20
    assert (await local.run("b.1", "head -c 5M /dev/zero > x", "n-2")).exit_code == 0
    await local.engine.remove_dir("n-1", "a.1")
    assert (await local.run("c.1", "head -c 5M /dev/zero > x; exit 3")).reason == ""  # room again: its own


@as_root
async def test_files_stay_until_they_are_collected(local: Harness) -> None:
    await open_with_disk(local)
    await local.run("a.1", "echo kept")
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert await local.log("a.1") == "kept\n"
    assert len(mounted(local.home)) == 1
    await local.engine.remove_dir("n-1", "a.1")
    assert mounted(local.home) == []
    assert os.listdir(local.home / "nodes") == []


@as_root
async def test_nothing_is_left_of_a_node_whose_agent_and_server_were_killed(local: Harness) -> None:
    await open_with_disk(local)
    await open_with_disk(local, "n-2")
    await local.run("a.1", "echo kept")
    await local.engine.detach()
    for node in ("n-1", "n-2"):
        os.kill(local.agent_pid(node), signal.SIGKILL)
    # the one was being removed when the server was killed, too
    shutil.rmtree(local.home / "nodes/n-2/agent")
    await local.restart()
    await local.engine.held()
    assert mounted(local.home) == [str(local.home / "nodes/n-1/work")]
    assert await local.log("a.1") == "kept\n"
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    await local.engine.remove_dir("n-1", "a.1")
    assert mounted(local.home) == []


@as_root
async def test_no_agent_holds_the_disk_of_another(local: Harness) -> None:
    await open_with_disk(local)
    await open_with_disk(local, "n-2")  # its view was made while the other's disk was there
    seen = Path(f"/proc/{local.agent_pid('n-2')}/mountinfo").read_text()
    assert "/nodes/n-2/work" in seen
    assert "/nodes/n-1/work" not in seen


@as_root
async def test_a_large_directory_gives_its_space_back(local: Harness) -> None:
    await open_with_disk(local, size=256 << 20)
    await local.run("a.1", "head -c 100M /dev/urandom > x; sync x")
    image = local.home / "nodes/n-1/disk.img"
    assert image.stat().st_blocks * 512 > 100 << 20
    await local.engine.remove_dir("n-1", "a.1")
    assert image.stat().st_blocks * 512 < 20 << 20


@as_root
def test_without_mkfs_the_report_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image, target = tmp_path / "image", tmp_path / "target"
    target.mkdir()
    monkeypatch.setattr(disk, "_PATH", "/nowhere")
    with pytest.raises(disk.NotAvailable, match="e2fsprogs"):
        disk.attach(str(image), str(target), 32 << 20)
    assert not image.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="what a server without root reports")
async def test_without_root_the_report_says_so(local: Harness) -> None:
    ready = await open_with_disk(local)
    assert not ready.limits["disk"].enforced
    assert "only root" in ready.limits["disk"].why_not
