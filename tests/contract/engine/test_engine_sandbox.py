"""The sandbox of one job, as the engine runs it: what it is shown, how it is signalled, how it ends."""

# ruff: noqa: ASYNC110, ASYNC240 - small files of the test's own

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine_support import Harness, RealClock, alive, needs_root
from test_engine_local import ESCAPES, KEY, pids_in

from tidemill.domain.model import Vector
from tidemill.engines.base import NodeSpec, TaskKey
from tidemill.engines.gpus import FixedGpus
from tidemill.engines.local import LocalEngine

pytestmark = [
    pytest.mark.kill,
    pytest.mark.skipif(
        shutil.which("bwrap") is None and os.environ.get("CI") != "true",
        reason="bubblewrap is not installed (apt install bubblewrap)",
    ),
]


async def test_what_a_job_is_shown(local: Harness) -> None:
    await local.open()
    Path(local.home, "secret").write_text("secret")
    script = "ls -A / | tr '\\n' ' '; echo; ls -A /etc; echo; pwd; ls /proc | grep -c '^[0-9]'; ls -A /proc/1"
    await local.run("a.1", script)
    top, rest = (await local.log("a.1")).split("\n", 1)
    first = local.home.parts[1]
    python = os.path.realpath(sys.base_prefix).split("/")[1]
    shown = {
        ".tidemill-init",
        "bin",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "var",
    }
    assert set(top.split()) <= shown | {first, python}
    assert "passwd" in rest
    assert "shadow" not in rest
    assert f"{local.engine.work_dir('n-1', 'a.1')}\n" in rest
    assert int(rest.split()[-1]) <= 6  # its own processes; the init shows nothing
    for path in ("/x", "/usr/x", "/etc/x", "/proc/1/x"):
        assert (await local.run(f"w{path.replace('/', '-')}.1", f"touch {path}")).exit_code == 1


async def test_read_only_inputs_cannot_be_written_even_by_their_owner(local: Harness) -> None:
    await local.open()
    work = await local.engine.prepare_dir("n-1", "a.1", ("inputs", "inputs/d"))
    Path(work, "inputs/d/f").write_text("given")
    await local.engine.settle_dir("n-1", "a.1")
    script = "cat inputs/d/f; chmod u+w inputs/d/f; echo x >> inputs/d/f; rm inputs/d/f; "
    script += "touch inputs/other && echo ok"
    await local.run("a.1", script, read_only=(f"{work}/inputs/d",))
    assert Path(work, "inputs/d/f").read_text() == "given"
    assert (await local.log("a.1")).startswith("given")
    assert (await local.log("a.1")).endswith("ok\n")


async def test_term_reaches_the_job_and_its_children(local: Harness) -> None:
    await local.open()
    # The job waits for its child: when it ends, whatever is left in its namespace is killed.
    # Its own trap comes first: the child may be up before the next line is read.
    script = "trap 'wait $child; echo asked; exit 9' TERM; "
    script += "(trap 'echo child asked; exit' TERM; touch up; sleep 600 & wait) & child=$!; wait"
    spec = await local.spec("a.1", script)
    await local.engine.start("n-1", spec)
    async with asyncio.timeout(60):
        while not Path(spec.cwd, "up").exists():
            await asyncio.sleep(0.01)
    await local.engine.stop("n-1", KEY, 1, "canceled")
    event = await local.events.exited("a.1")
    assert (event.reason, event.exit_code) == ("stopped", 9)
    assert sorted((await local.log("a.1")).splitlines()) == ["asked", "child asked"]


async def test_a_stop_that_comes_before_the_job_is_there(local: Harness) -> None:
    """bubblewrap takes milliseconds to make the sandbox; a TERM in between must not wait for the KILL."""
    await local.open()
    for i in range(12):
        await local.engine.start("n-1", await local.spec(f"s.{i}", "sleep 600", term_grace_s=600.0))
        await asyncio.sleep(i * 0.0008)
        await local.engine.stop("n-1", TaskKey(f"s.{i}", 0), 1, "canceled")
        event = await local.events.exited(f"s.{i}")
        assert (event.reason, event.signal) == ("stopped", signal.SIGTERM), i


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
async def test_a_signal_from_outside_is_named(local: Harness, number: int) -> None:
    await local.open()
    spec = await local.spec("a.1", "echo $$ > pids; exec sleep 600")
    await local.engine.start("n-1", spec)
    (job,) = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 1))
    os.kill(job, number)
    event = await local.events.exited("a.1")
    assert (event.exit_code, event.signal, event.reason) == (None, number, "")


async def test_codes_that_are_no_signals_stay_codes(local: Harness) -> None:
    await local.open()
    for code in (1, 2, 125, 126, 127, 128, 160, 200, 255):
        event = await local.run(f"c{code}.1", f"exit {code}")
        assert (event.exit_code, event.signal) == (code, None)


async def test_a_job_goes_with_its_agent(local: Harness) -> None:
    await local.open()
    spec = await local.spec("a.1", ESCAPES + "; sleep 600")
    await local.engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 4))
    os.kill(local.agent_pid(), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids):  # before anybody closes the node
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await local.events.kind("node_lost")


async def test_without_control_groups_everything_is_still_proved_gone(local: Harness) -> None:
    await local.engine.detach()
    await local.events.close()
    engine = LocalEngine(local.home, clock=RealClock(), own_uids=False, cgroups=False)
    local.engine, local.events = engine, type(local.events)(engine)
    ready = await local.open()
    assert ready.limits["namespaces"].enforced
    spec = await local.spec("a.1", ESCAPES + "; until [ -e go ]; do :; done; exit 5", read_only=())
    await engine.start("n-1", spec)
    pids = local.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 4))
    Path(spec.cwd, "go").touch()
    event = await local.events.exited("a.1")
    assert not [p for p in pids if alive(p)]
    assert event.exit_code == 5
    trapped = "trap 'exit 3' TERM; touch up; while :; do sleep 0.05; done"
    spec = await local.spec("b.1", trapped, read_only=())
    await engine.start("n-1", spec)
    async with asyncio.timeout(60):
        while not Path(spec.cwd, "up").exists():
            await asyncio.sleep(0.01)
    await engine.stop("n-1", TaskKey("b.1", 0), 1, "canceled")
    assert (await local.events.exited("b.1")).exit_code == 3


async def test_an_image_without_the_program_says_so(local: Harness, tmp_path: Path) -> None:
    root = local.home / "envs" / "image"
    (root / "etc").mkdir(parents=True)
    root.chmod(0o755)
    await local.open()
    event = await local.run("a.1", "true", rootfs=str(root))
    assert event.reason == "spawn_failed"
    assert "/bin/bash" in event.message


# --- as root


@needs_root
@pytest.mark.root
async def test_a_fork_bomb_ends_in_its_node_and_the_job_next_door_finishes(local: Harness) -> None:
    await local.open("n-1", memory=3 << 30)
    await local.open("n-2")
    beside = await local.spec("next.1", "until [ -e go ]; do sleep 0.02; done; echo on", "n-2")
    await local.engine.start("n-2", beside)
    bomb = "python3 -c 'import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(600)'"
    event = await local.run("a.1", f"{bomb}; exit 1", timeout_s=60.0)
    assert event.reason == "pids", event
    assert event.message.startswith("4096 processes")
    Path(beside.cwd, "go").touch()
    assert (await local.events.exited("next.1")).exit_code == 0
    assert (await local.run("b.1", "exit 1")).reason == ""  # the node is as it was


@needs_root
@pytest.mark.root
async def test_a_memory_bomb_ends_in_its_node_and_the_job_next_door_finishes(local: Harness) -> None:
    await local.open("n-1", memory=96 << 20)
    await local.open("n-2")
    beside = await local.spec("next.1", "until [ -e go ]; do sleep 0.02; done; echo on", "n-2")
    await local.engine.start("n-2", beside)
    for attempt, bomb in (
        ("a.1", "b = bytearray(1 << 30)"),
        ("f.1", "open('/tmp/f', 'wb').write(bytes(1 << 30))"),
    ):
        event = await local.run(attempt, f'python3 -c "{bomb}"; exit $?')
        assert event.reason == "oom", event
        assert event.peak_memory is not None
        assert 48 << 20 < event.peak_memory <= 96 << 20
    Path(beside.cwd, "go").touch()
    assert (await local.events.exited("next.1")).exit_code == 0


@pytest.fixture
def devices() -> Iterator[tuple[str, str]]:
    """Two character devices that stand for GPUs: both are /dev/null."""
    paths = tuple(f"/dev/tidemill-test-gpu-{os.getpid()}-{i}" for i in range(2))
    for path in paths:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod(path, 0o666)
    yield paths  # pyright: ignore
    for path in paths:
        os.unlink(path)


@needs_root
@pytest.mark.root
async def test_a_job_is_shown_the_gpus_that_it_was_allotted(local: Harness, devices: tuple[str, str]) -> None:
    await local.engine.detach()
    await local.events.close()
    gpus = FixedGpus(("GPU-a", "GPU-b"), devices)
    engine = LocalEngine(local.home, clock=RealClock(), gpus=gpus)
    local.engine, local.events = engine, type(local.events)(engine)
    await engine.open_node(NodeSpec("n-1", Vector(1000, 1 << 29, 2), ("GPU-a", "GPU-b")))
    assert (await local.events.kind("node_ready")).limits["gpu"].enforced
    for name, given in (("none", ()), ("b", ("GPU-b",)), ("both", ("GPU-a", "GPU-b"))):
        spec = await local.spec(
            f"{name}.1", "ls /dev | grep tidemill-test; echo x > /dev/*test-gpu*-1", read_only=()
        )
        await engine.start("n-1", replace(spec, gpu_ids=given))
        await local.events.exited(f"{name}.1")
        listed = [
            line for line in (await local.log(f"{name}.1")).splitlines() if line.startswith("tidemill-test")
        ]
        assert listed == [path[5:] for path, gpu in zip(devices, gpus.known, strict=True) if gpu in given]
