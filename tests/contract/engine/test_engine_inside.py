"""Processes that are started inside a running task: what they see, how they end, what they may not."""

# ruff: noqa: ASYNC110, ASYNC240 - small files of the test's own

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_support import Harness, alive, local_engine
from test_engine_local import KEY

from tidemill.engines.base import EngineError, Inside, InvalidTask, TaskKey
from tidemill.engines.local import LocalEngine

pytestmark = [
    pytest.mark.kill,
    pytest.mark.skipif(
        shutil.which("bwrap") is None and os.environ.get("CI") != "true",
        reason="bubblewrap is not installed (apt install bubblewrap)",
    ),
]


async def said(inside: Inside, stream: int = 1) -> str:
    text = b""
    async with asyncio.timeout(60):
        while data := await inside.read(stream):
            text += data
    return text.decode()


async def started(local: Harness, script: str, **more: object) -> None:
    """The task of KEY runs, is told to, and has said "up": a container says so before its runc has ended."""
    await local.engine.start("n-1", await local.spec("a.1", f"{script}echo up; sleep 600", **more))
    await local.events.until(lambda event: event.kind == "task_started" and event.task == KEY)
    async with asyncio.timeout(60):
        while "up" not in await local.log("a.1"):
            await asyncio.sleep(0.005)


async def ran(local: Harness, *argv: str) -> tuple[str, str, int | None]:
    inside = await local.engine.enter("n-1", KEY, argv, None)
    try:
        inside.close_input()
        out, err = await asyncio.gather(said(inside), said(inside, 2))
        async with asyncio.timeout(60):
            return out, err, await inside.wait()
    finally:
        inside.close()


async def test_it_sees_what_the_job_sees(local: Harness) -> None:
    await local.open()
    Path(local.home, "secret").write_text("secret")
    await started(local, "echo mine > /tmp/own; echo here > file; export X=1; ")
    work = local.engine.work_dir("n-1", "a.1")
    out, err, code = await ran(local, "sh", "-c", "cat /tmp/own file; pwd; hostname; id -u; ps -e | wc -l")
    assert (err, code) == ("", 0)
    lines = out.splitlines()
    assert lines[:4] == ["mine", "here", work, "n-1"]
    assert lines[4] == str(Path(work).stat().st_uid)
    out, _, _ = await ran(local, "cat", str(Path(local.home, "secret")))
    assert out == ""
    out, _, _ = await ran(local, "sh", "-c", "ls /proc | grep -c '^[0-9]'")
    assert int(out) < 10  # the job's processes and its own, not the host's
    out, _, _ = await ran(local, "cat", "/proc/self/status")
    facts = dict(line.split(":", 1) for line in out.splitlines())
    for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[caps], 16) == 0, caps
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"


async def test_its_namespaces_are_the_jobs(local: Harness) -> None:
    await local.open()
    await started(local, "for n in net mnt pid ipc uts user cgroup; do readlink /proc/self/ns/$n; done; ")
    out, _, _ = await ran(
        local, "sh", "-c", "for n in net mnt pid ipc uts user cgroup; do readlink /proc/self/ns/$n; done"
    )
    assert out == (await local.log("a.1")).removesuffix("up\n")


async def test_exit_codes_and_streams(local: Harness) -> None:
    await local.open()
    await started(local, "")
    assert await ran(local, "sh", "-c", "echo out; echo err >&2; exit 7") == ("out\n", "err\n", 7)
    assert (await ran(local, "sh", "-c", "kill -9 $$"))[2] == 128 + 9
    assert (await ran(local, "no-such-program"))[2] == 127
    inside = await local.engine.enter("n-1", KEY, ["cat"], None)
    data = os.urandom(3 << 20)  # more than any pipe holds
    try:
        got = bytearray()

        async def read() -> None:
            while piece := await inside.read(1):
                got.extend(piece)

        async with asyncio.timeout(60):
            reading = asyncio.create_task(read())
            await inside.write(data)
            inside.close_input()
            await reading
            assert await inside.wait() == 0
        assert bytes(got) == data
    finally:
        inside.close()


async def test_a_terminal(local: Harness) -> None:
    await local.open()
    await started(local, "")
    inside = await local.engine.enter("n-1", KEY, [], (33, 101), "xterm-256color")
    try:
        await inside.started()
        await inside.write(b"stty size; tty; echo $TERM; stty size\n")
        await inside.write(b"sh -c 'echo be\"\"gun; exec sleep 600'\n")
        text = ""
        async with asyncio.timeout(60):
            while "begun" not in text:
                text += (await inside.read(1)).decode()
        inside.resize(44, 90)
        await inside.write(b"\x03")
        await inside.write(b"stty size; exit 5\n")
        text += await said(inside)
        assert "33 101" in text
        assert "/dev/pts/0" in text
        assert "xterm-256color" in text
        assert "44 90" in text
        async with asyncio.timeout(60):
            assert await inside.wait() == 5
    finally:
        inside.close()


async def test_it_ends_with_the_task(local: Harness) -> None:
    await local.open()
    await started(local, "")
    inside = await local.engine.enter("n-1", KEY, ["sh", "-c", "echo $$; exec sleep 600"], None)
    try:
        inner = int(await inside.read(1))
        pids = local.host_pids("a.1", [inner])
        assert pids
        assert all(alive(pid) for pid in pids)
        await local.engine.stop("n-1", KEY, 1, "enough")
        await local.events.exited("a.1")
        assert not any(alive(pid) for pid in pids)
        async with asyncio.timeout(60):
            await inside.wait()
    finally:
        inside.close()
    with pytest.raises(InvalidTask, match="does not run"):
        await local.engine.enter("n-1", KEY, [], None)


async def test_it_ends_with_its_client(local: Harness) -> None:
    await local.open()
    await started(local, "")
    inside = await local.engine.enter("n-1", KEY, ["sh", "-c", "sleep 600 & echo $$ $!; wait"], None)
    inner = [int(word) for word in (await inside.read(1)).split()]
    pids = local.host_pids("a.1", inner)
    assert len(pids) == 2
    inside.close()
    async with asyncio.timeout(60):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.01)
    out, _, _ = await ran(local, "echo", "still")  # the job goes on
    assert out == "still\n"


async def test_what_it_uses_is_the_jobs(local: Harness) -> None:
    ready = await local.open(memory=256 << 20)
    if not ready.limits["memory"].enforced:
        pytest.skip("no memory limit here")
    await started(local, "")
    python = shutil.which("python3", path="/usr/bin") or "/usr/bin/python3"
    _, _, code = await ran(local, python, "-c", "x = bytearray(1 << 30)")
    assert code == 128 + signal.SIGKILL


async def test_a_port_of_the_job(local: Harness) -> None:
    await local.open()
    server = (
        '/usr/bin/python3 -c "import socket; '
        "s = socket.create_server(('127.0.0.1', 7777)); print('up', flush=True)\n"
        'while True: c, _ = s.accept(); c.sendall(c.recv(100).upper()); c.close()"; '
    )
    await started(local, server)
    sock = await local.engine.dial("n-1", KEY, 7777)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await loop.sock_sendall(sock, b"hello")
        assert await loop.sock_recv(sock, 100) == b"HELLO"
    sock.close()
    with pytest.raises(EngineError, match="7778"):
        await local.engine.dial("n-1", KEY, 7778)
    with pytest.raises(EngineError, match="does not run"):
        await local.engine.dial("n-1", TaskKey("b.1", 0), 7777)


@pytest.fixture(params=[True, False], ids=["groups", "shepherds"])
async def plain(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    home = tmp_path / "plain"
    home.mkdir(mode=0o700)
    (home / "envs").mkdir()

    def make() -> LocalEngine:
        return local_engine(home, isolation="plain", cgroups=request.param)

    harness = Harness(make(), make, home)
    yield harness
    await harness.close()


async def test_without_a_sandbox_it_is_the_jobs_user_in_its_folder(plain: Harness) -> None:
    await plain.open()
    await started(plain, "echo here > file; ")
    work = plain.engine.work_dir("n-1", "a.1")
    out, _, code = await ran(plain, "sh", "-c", "cat file; pwd; id -u; exit 3")
    assert out.splitlines() == ["here", work, str(Path(work).stat().st_uid)]
    assert code == 3
    inside = await plain.engine.enter("n-1", KEY, [], (24, 80))
    await inside.started()
    await inside.write(b"sleep 300 & echo pids $$ $!.\n")
    text = ""
    async with asyncio.timeout(60):
        while (found := re.search(r"pids (\d+) (\d+)\.", text)) is None:
            text += (await inside.read(1)).decode()
    pids = [int(found[1]), int(found[2])]
    assert all(alive(pid) for pid in pids)
    inside.close()
    async with asyncio.timeout(60):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.01)


async def test_without_a_sandbox_it_ends_with_the_task(plain: Harness) -> None:
    await plain.open()
    await started(plain, "")
    inside = await plain.engine.enter("n-1", KEY, ["sh", "-c", "setsid sleep 300 & echo $$ $!; wait"], None)
    pids = [int(word) for word in (await inside.read(1)).split()]
    await plain.engine.stop("n-1", KEY, 1, "enough")
    await plain.events.exited("a.1")
    assert not any(alive(pid) for pid in pids)
    inside.close()
