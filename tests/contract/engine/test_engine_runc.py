"""Containers of runc: what holds for the sandbox holds for them, and nothing of them is ever left."""

# ruff: noqa: ASYNC110, ASYNC240 - small files of the test's own

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_engine_inside as inside
import test_engine_limits as limits
import test_engine_local as tasks
import test_engine_sandbox as sandbox
import test_engine_services as services
from engine_support import ESCAPES, HELPED, KEY, Harness, RealClock, Stream, alive, needs_root, pids_in

from tidemill.engines.base import EngineError, InvalidTask, TaskKey
from tidemill.engines.local import LocalEngine
from tidemill.helper import nodedir
from tidemill.sandbox import cgroups, init, tiers, uids

pytestmark = [
    pytest.mark.kill,
    pytest.mark.root,
    needs_root,
    pytest.mark.skipif(
        not (shutil.which("runc") and shutil.which("bwrap")) and os.environ.get("CI") != "true",
        reason="runc or bubblewrap is not installed (apt install runc bubblewrap)",
    ),
    pytest.mark.skipif(not init.program(os.uname().machine), reason="no init of ours for this machine"),
]
Test = Callable[[Harness], Coroutine[Any, Any, None]]


@pytest.fixture
async def contained(local: Harness) -> AsyncIterator[Harness]:
    local.runtime = "runc"
    yield local
    await local.close()
    local.events = type(local.events)(local.engine)
    await until_nothing_is_left_of(local)


async def until_nothing_is_left_of(harness: Harness) -> None:
    """The agent and its relay end a moment after the node is told to be closed."""
    try:
        async with asyncio.timeout(60):
            while left_of(harness):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(left_of(harness)) from None


def left_of(harness: Harness, node_id: str = "") -> list[str]:
    """Mounts and control groups of the home's nodes, here and in every other process's view."""
    prefix = nodedir.group_name(nodedir.home_id(harness.home), node_id)
    mounts = {
        line.split()[4]
        for path in Path("/proc").glob("[0-9]*/mountinfo")
        for line in _lines(path)
        if str(harness.home) in line
    }
    return [*cgroups.stale(prefix), *sorted(mounts)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@pytest.mark.parametrize(
    "test",
    [
        tasks.test_stop_ends_a_tree_that_ignores_term_within_its_grace,
        tasks.test_what_escapes_is_gone_before_the_exit_is_told,
        tasks.test_a_timeout_is_a_reason_of_its_own,
        sandbox.test_read_only_inputs_cannot_be_written_even_by_their_owner,
        sandbox.test_term_reaches_the_job_and_its_children,
        sandbox.test_codes_that_are_no_signals_stay_codes,
        services.test_killed_it_is_back_at_once_and_told,
        services.test_it_restarts_while_no_server_is_there,
        services.test_out_of_memory_is_named,
        services.test_a_failed_liveness_probe_restarts_it,
        services.test_its_port_is_dialed,
        services.test_a_stop_while_it_waits_is_final,
        services.test_what_asks_for_time_to_end_gets_it,
        inside.test_it_sees_what_the_job_sees,
        inside.test_its_namespaces_are_the_jobs,
        inside.test_exit_codes_and_streams,
        inside.test_a_terminal,
        inside.test_it_ends_with_the_task,
        limits.test_more_memory_than_the_node_has_is_told_as_such,
        limits.test_a_job_reaches_its_own_files_and_no_others,
    ],
    ids=lambda test: test.__name__,
)
async def test_as_in_the_sandbox(contained: Harness, test: Test) -> None:
    await test(contained)


async def test_an_image_without_the_program_says_so(contained: Harness, tmp_path: Path) -> None:
    await sandbox.test_an_image_without_the_program_says_so(contained, tmp_path)


async def test_it_is_shown_what_a_job_is_shown(contained: Harness) -> None:
    await contained.open()
    script = "ls -A / /dev /etc /tmp; id; hostname; umask; ulimit -n; ulimit -c; env | sort; pwd"
    logs: list[list[str]] = []
    for attempt, runtime in (("a.1", "runc"), ("b.1", "")):
        event = await contained.run(attempt, script, runtime=runtime)
        assert event.exit_code == 0
        logs.append((await contained.log(attempt)).replace(attempt, "A").splitlines())
    assert logs[0] == logs[1]


async def test_its_first_process_and_its_host_are_closed_to_it(contained: Harness) -> None:
    await contained.open()
    tries = {
        "first": "for f in environ maps fd/3 root/etc/group; do head -c1 /proc/1/$f && exit 0; done; false",
        "memory": "exec 3<> /proc/1/mem",
        "write": "for p in / /usr /etc /dev /sys /proc/sys; do touch $p/x && exit 0; done; false",
        "settings": "echo x > /proc/sys/kernel/hostname",
        "node": "python3 -c 'import os; os.mknod(\"/tmp/d\", 0o020666, os.makedev(1, 1))'",
        "space": "unshare --user true || unshare --mount true",
        "group": "ls /sys/fs/cgroup",
        "tty": "exec 3<> /dev/tty",
        "held": "ls /proc/self/fd | grep -v '^[0-3]$'",
    }
    script = "".join(f"( {what} ) > /dev/null 2>&1 && echo {name}\n" for name, what in tries.items())
    await contained.run("a.1", script + "true")
    assert await contained.log("a.1") == ""


async def test_volumes(contained: Harness) -> None:
    await contained.open()
    work = await contained.engine.prepare_dir("n-1", "a.1", ("v", "v/kept", "v/room"))
    Path(work, "v/kept/f").write_text("kept\n")
    await contained.engine.settle_dir("n-1", "a.1")
    script = (
        "cat /mnt/kept/f; touch /mnt/kept/x 2> /dev/null || echo refused; echo y > /data/room/f; cat v/room/f"
    )
    kept, room = (f"{work}/v/kept", "/mnt/kept"), (f"{work}/v/room", "/data/room")
    event = await contained.run(
        "a.1", f"{script}; touch /data/x || exit 5", shown_at=(kept,), writable_at=(room,)
    )
    assert (await contained.log("a.1")).splitlines()[:3] == ["kept", "refused", "y"]
    assert event.exit_code == 5


async def test_a_container_that_ends_before_its_runc(contained: Harness) -> None:
    await contained.open(cpu_milli=2000)
    names = [f"a.{number}" for number in range(24)]
    specs = [await contained.spec(name, f"exit {at % 4}") for at, name in enumerate(names)]
    await asyncio.gather(*(contained.engine.start("n-1", spec) for spec in specs))
    for at, name in enumerate(names):
        event = await contained.events.exited(name)
        assert (event.exit_code, event.reason) == (at % 4, ""), event
        started = [e for e in contained.events.seen if e.kind == "task_started" and e.task == event.task]
        assert [e.pid for e in started] == [event.pid] != [0]


async def test_a_stop_while_runc_makes_it(contained: Harness) -> None:
    await contained.open()
    for at in range(8):
        spec = await contained.spec(f"s.{at}", "sleep 600", term_grace_s=600.0)
        await contained.engine.start("n-1", spec)
        await asyncio.sleep(at * 0.006)
        await contained.engine.stop("n-1", TaskKey(f"s.{at}", 0), 1, "canceled")
        event = await contained.events.exited(f"s.{at}")
        assert event.reason == "stopped", event


async def test_its_environment_is_on_no_disk(contained: Harness) -> None:
    await contained.open()
    spec = await contained.spec("a.1", "touch up; sleep 600")
    await contained.engine.start("n-1", replace(spec, env={"HIDDEN": "hush" * 9}))
    async with asyncio.timeout(60):
        while not Path(spec.cwd, "up").exists():
            await asyncio.sleep(0.01)
    names = [path for path in contained.home.rglob("*") if path.is_file() and path.name != "disk.img"]
    assert names
    assert not [path for path in names if b"hush" * 9 in path.read_bytes()]


async def test_nothing_of_it_outlives_its_node_when_its_agent_is_killed(contained: Harness) -> None:
    """bubblewrap's jobs go with the agent; a container goes when its node is closed, as a lost node is."""
    await contained.open()
    spec = await contained.spec("a.1", ESCAPES + "; sleep 600")
    await contained.engine.start("n-1", spec)
    pids = contained.host_pids("a.1", await pids_in(f"{spec.cwd}/pids", 4))
    assert all(alive(pid) for pid in pids)
    os.kill(contained.agent_pid(), signal.SIGKILL)
    await contained.events.kind("node_lost")
    await contained.engine.close_node("n-1")
    await contained.events.kind("node_closed")
    assert not [pid for pid in pids if alive(pid)]
    prefix = nodedir.group_name(nodedir.home_id(contained.home), "n-1")
    assert cgroups.stale(prefix) == []


FAULTS = {
    'echo \'{"level":"error","msg":"no such thing"}\' > $4; exit 1': "no such thing",
    "kill -9 $$": "runc was ended by SIGKILL",
    "exit 3": "runc ended with exit code 3",
    ": > $4; exit 4": "runc ended with exit code 4",
    'echo \'{"level":"warning","msg":"well"}\' > $4; kill -9 $$': "runc was ended by SIGKILL",
    "exit 0": "runc did not say which process it made",
}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """A runc of the test's own, on nodes that are opened from now on. -> the folder it lies in."""
    if HELPED:
        pytest.skip("the helper finds runc by itself")
    with tempfile.TemporaryDirectory(prefix="tidemill-runc-", dir="/tmp") as made:  # where an agent sees it
        folder = Path(made)
        folder.chmod(0o755)

        def be(does: str) -> Path:
            (folder / "runc").write_text(f"#!/bin/sh\n{does}\n")
            (folder / "runc").chmod(0o755)
            monkeypatch.setattr(tiers, "runc", lambda: f"{folder}/runc")
            return folder

        yield be


@pytest.mark.parametrize("does", FAULTS, ids=range(len(FAULTS)))
async def test_a_runc_that_makes_nothing(
    contained: Harness, does: str, pretend: Callable[[str], Path]
) -> None:
    pretend(does)
    await contained.open()
    event = await contained.run("a.1", "true")
    assert event.reason == "spawn_failed"
    assert event.message.startswith(FAULTS[does])


async def test_a_runc_that_never_ends_is_killed(contained: Harness, pretend: Callable[[str], Path]) -> None:
    folder = pretend("echo $$ > ${0%runc}pid; exec sleep 600")
    await contained.open()
    await contained.engine.start("n-1", await contained.spec("a.1", "true", term_grace_s=0.2))
    (pid,) = await pids_in(f"{folder}/pid", 1)
    with pytest.raises(EngineError, match="just being made"):
        await contained.engine.dial("n-1", KEY, 80)
    await contained.engine.stop("n-1", KEY, 1, "canceled")
    assert (await contained.events.exited("a.1")).reason == "stopped"
    assert not alive(pid)


async def test_where_there_is_none(contained: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await contained.engine.runtimes())["runc"].why_not == ""
    if HELPED:
        pytest.skip("the helper finds runc by itself")
    monkeypatch.setattr(tiers, "runc", str)
    await contained.restart()
    found = (await contained.engine.runtimes())["runc"]
    assert (found.version, "apt install runc" in found.why_not) == ("", True)
    await contained.open()
    with pytest.raises(InvalidTask, match="this host has no runc"):
        await contained.run("a.1", "true")
    assert (await contained.run("b.1", "true", runtime="")).exit_code == 0
    with pytest.raises(InvalidTask, match="no runtime 'kata'"):
        await contained.run("c.1", "true", runtime="kata")


async def test_without_users_of_their_own_there_is_none(local: Harness) -> None:
    await local.engine.detach()
    await local.events.close()
    local.engine = LocalEngine(local.home, clock=RealClock(), own_uids=False)
    local.events = Stream(local.engine)
    assert "no user of their own" in (await local.engine.runtimes())["runc"].why_not


async def test_mounts_for_one_go_with_it(contained: Harness) -> None:
    """From the view that runc is started in, too, which lives as long as the agent."""
    await contained.open()
    counts = set[int]()
    for number in range(3):
        assert (await contained.run(f"a.{number}", "true")).exit_code == 0
        counts.add(mounts_of_views(contained.agent_pid()))
    assert len(counts) == 1, counts


def mounts_of_views(agent: int) -> int:
    """In mount namespaces, but for the host's, of which the agent holds descriptors: its own, and runc's."""
    host, links = os.readlink("/proc/self/ns/mnt"), Path(f"/proc/{agent}/fd").iterdir()
    found = [link for link in links if os.readlink(link).startswith("mnt:") and os.readlink(link) != host]
    assert len(found) == 2
    tables = [
        subprocess.run(
            ["nsenter", f"--mount={link}", "cat", "/proc/self/mounts"],
            capture_output=True,
            check=True,
            timeout=20,
        ).stdout
        for link in found
    ]
    return sum(table.count(b"\n") for table in tables)


@pytest.mark.parametrize("runtime", ["runc", ""])
async def test_a_volume_that_became_a_link_is_not_followed(contained: Harness, runtime: str) -> None:
    """A container that starts again would see the host's files."""
    await contained.open()
    work = await contained.engine.prepare_dir("n-1", "a.1", ("v", "v/room"))
    await contained.engine.settle_dir("n-1", "a.1")
    for at, swap in enumerate(
        ("rm -r v/room; ln -s /etc v/room", "rm -r v; ln -s / v; ln -s /etc /tmp/room")
    ):
        first = await contained.spec("a.1", swap, runtime=runtime)
        await contained.engine.start("n-1", replace(first, rank=2 * at))
        assert (await contained.events.exited("a.1", 2 * at)).exit_code == 0
        for key in ("shown_at", "writable_at"):
            again = await contained.spec(
                f"{key[0]}{at}.1", "ls /room", runtime=runtime, **{key: ((f"{work}/v/room", "/room"),)}
            )
            await contained.engine.start("n-1", again)
            event = await contained.events.exited(again.attempt_id)
            assert event.reason == "spawn_failed"
            assert event.message.endswith("is a symbolic link there"), event


@pytest.mark.parametrize("runtime", ["runc", ""])
async def test_an_input_that_became_a_link_is_not_followed(contained: Harness, runtime: str) -> None:
    """What is shown read-only in its own place, and is there again when it starts again."""
    await contained.open()
    work = await contained.engine.prepare_dir("n-1", "a.1", ("in",))
    await contained.engine.settle_dir("n-1", "a.1")
    first = await contained.spec("a.1", "rmdir in; ln -s /etc in", runtime=runtime)
    await contained.engine.start("n-1", first)
    assert (await contained.events.exited("a.1", 0)).exit_code == 0
    again = await contained.spec("a.1", "ls in/", runtime=runtime, read_only=(f"{work}/in", f"{work}/none"))
    await contained.engine.start("n-1", replace(again, rank=1))
    event = await contained.events.exited("a.1", 1)
    assert (event.reason, event.message.endswith("is a symbolic link there")) == ("spawn_failed", True), event


async def test_a_volumes_folder_that_is_pinned_stays(contained: Harness) -> None:
    """`controllers.containers` shows each container of a group the volumes' folder read-only."""
    await contained.open()
    work = await contained.engine.prepare_dir("n-1", "a.1", ("v", "v/room"))
    await contained.engine.settle_dir("n-1", "a.1")
    tries = ("mv v w", "mv v/room v/x", "rmdir v/room", "rm -rf v", "ln -s /etc v/new", "touch v/room/file")
    script = "; ".join(f"{what} 2> /dev/null && echo done: {what}" for what in tries)
    room = (f"{work}/v/room", "/room")
    for rank, runtime in enumerate(("runc", "")):
        spec = await contained.spec(
            "a.1",
            f"{script}; touch /room/own",
            runtime=runtime,
            read_only=(f"{work}/v",),
            writable_at=(room,),
        )
        await contained.engine.start("n-1", replace(spec, rank=rank))
        assert (await contained.events.exited("a.1", rank)).exit_code == 0
    assert await contained.log("a.1") == ""
    assert Path(work, "v/room/own").exists()


async def test_shared_memory_can_be_written(contained: Harness) -> None:
    await contained.open()
    lock = "python3 -c 'from multiprocessing import Lock; Lock()'"
    event = await contained.run("a.1", f"stat -c %a /dev/shm; {lock}")
    assert (event.exit_code, await contained.log("a.1")) == (0, "1777\n")


async def test_nothing_is_shown_that_its_user_could_not_reach(contained: Harness) -> None:
    """runc mounts as root, whom no closed folder stops."""
    with tempfile.TemporaryDirectory(prefix="tidemill-closed-", dir="/tmp") as folder:
        closed = Path(folder, "closed")
        (closed / "inner").mkdir(parents=True)
        (closed / "inner" / "file").write_text("for everyone, in a folder of root's alone")
        Path(folder).chmod(0o755)
        closed.chmod(0o700)
        await contained.open()
        for at, field in enumerate(("shown_at", "writable_at")):
            event = await contained.run(f"a.{at}", "ls /mnt", **{field: ((str(closed / "inner"), "/mnt"),)})
            assert event.reason == "spawn_failed"
            assert event.message == f"could not show '{closed}/inner': Permission denied"
        closed.chmod(0o755)
        event = await contained.run("b.1", "cat /mnt/file", shown_at=((str(closed / "inner"), "/mnt"),))
        assert event.exit_code == 0


async def test_what_was_mounted_for_it_goes_with_it(contained: Harness) -> None:
    await contained.open()
    agent = Path(f"/proc/{contained.agent_pid()}")
    known = {os.readlink(agent / "ns/mnt"), os.readlink("/proc/self/ns/mnt")}
    counts: list[int] = []
    for at in range(3):
        await contained.run(f"a.{at}", "true")
        links = {os.readlink(fd): fd for fd in (agent / "fd").iterdir()}
        (view,) = (fd for link, fd in links.items() if link.startswith("mnt:[") and link not in known)
        argv = ["nsenter", f"--mount={view}", "cat", "/proc/self/mountinfo"]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=10, check=True)
        counts.append(len(done.stdout.splitlines()))
    assert len(set(counts)) == 1, counts
    mounts = [line.split()[4] for line in (agent / "mountinfo").read_text().splitlines()]
    assert uids.REGISTRY in mounts, "where nobody but root can put anything"
