"""Services: tasks that their node starts again, and asks whether they are ready; whoever lives."""

# ruff: noqa: ASYNC110 - small files of the test's own

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import pytest
from engine_support import KEY, Harness, alive, pids_in

from tidemill.engines.base import EngineError, EngineEvent, InvalidTask, Probe, RestartPolicy, Service

PORT = 5001
PYTHON = f"{sys.base_prefix}/bin/python3"
QUICK = Probe(PORT, period_s=0.1, timeout_s=60.0, failures=2)
# Says 200 on every path but /unwell once a file `unwell` is there; `-u`: its log is read at once.
SERVER = f"""exec {PYTHON} -u -c '
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("unwell") else 200)
        self.end_headers()
    def log_message(self, *_): pass
with open("pids", "a") as file: print(os.getpid(), file=file)
http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()'
"""


def ends(harness: Harness) -> list[EngineEvent]:
    return [e for e in harness.events.seen if e.kind == "task_restarting"]


def kinds(harness: Harness) -> list[str]:
    return [e.kind.removeprefix("task_") for e in harness.events.seen if e.task == KEY]


def is_(kind: str, restarts: int = 0) -> Callable[[EngineEvent], bool]:
    return lambda e: e.kind == kind and e.task == KEY and e.restarts >= restarts


def policy(name: str) -> Service:
    return Service(RestartPolicy(name, first_s=0.01, cap_s=0.02))


async def start(harness: Harness, script: str, service: Service) -> None:
    await harness.open(memory=1 << 30)
    await harness.engine.start("n-1", await harness.spec("a.1", script, service=service))


# --- every engine


@pytest.mark.parametrize(
    ("name", "script", "again"),
    [
        ("always", "exit 0", True),
        ("always", "exit 3", True),
        ("on-failure", "exit 3", True),
        ("on-failure", "exit 0", False),
        ("never", "exit 3", False),
    ],
)
async def test_restart_policies(any_engine: Harness, name: str, script: str, again: bool) -> None:
    await start(any_engine, script, policy(name))
    if not again:
        event = await any_engine.events.exited("a.1")
        assert (event.exit_code, ends(any_engine)) == (int(script[-1]), [])
        return
    first = await any_engine.events.until(is_("task_restarting", 1))
    assert (first.exit_code, first.signal, first.reason, first.again_in_s) == (int(script[-1]), None, "", 0.0)
    await any_engine.events.until(is_("task_started", 1))
    await any_engine.engine.stop("n-1", KEY, 1, "no longer wanted")
    event = await any_engine.events.exited("a.1")
    assert (event.reason, event.message) == ("stopped", "no longer wanted")


async def test_ready_once_it_answers(any_engine: Harness) -> None:
    await start(any_engine, SERVER, Service(ready=QUICK))
    await any_engine.events.until(is_("task_ready"))
    assert kinds(any_engine) == ["started", "ready"]


async def test_a_new_server_learns_what_happened_meanwhile(any_engine: Harness) -> None:
    await start(any_engine, SERVER, Service(ready=QUICK))
    await any_engine.events.until(is_("task_ready"))
    await any_engine.restart()
    await any_engine.engine.held()
    await any_engine.events.until(is_("task_ready"))
    assert kinds(any_engine) == ["started", "ready"]


# --- real processes


async def test_killed_it_is_back_at_once_and_told(local: Harness) -> None:
    await start(local, SERVER, Service(ready=QUICK))
    await local.events.until(is_("task_ready"))
    (inner,) = await pids_in(f"{local.engine.work_dir('n-1', 'a.1')}/pids", 1)
    (pid,) = local.host_pids("a.1", [inner])
    os.kill(pid, signal.SIGKILL)
    event = await local.events.until(is_("task_restarting", 1))
    assert (event.signal, event.again_in_s) == (9, 0.0)
    async with asyncio.timeout(60):
        while kinds(local)[-1] != "ready":
            await asyncio.sleep(0.005)
    assert kinds(local) == ["started", "ready", "restarting", "started", "ready"]
    assert not alive(pid)


async def test_it_restarts_while_no_server_is_there(local: Harness) -> None:
    await start(local, SERVER, Service(ready=QUICK))
    await local.events.until(is_("task_ready"))
    pids = f"{local.engine.work_dir('n-1', 'a.1')}/pids"
    await pids_in(pids, 1)
    await local.engine.detach()
    for count in (1, 2):
        inner = (await pids_in(pids, count))[-1]
        async with asyncio.timeout(60):
            while not (found := local.host_pids("a.1", [inner])):
                await asyncio.sleep(0.005)
        os.kill(found[-1], signal.SIGKILL)
    await pids_in(pids, 3)
    await local.restart()
    await local.engine.held()
    await local.events.until(is_("task_ready"))
    assert [e.restarts for e in ends(local)] == [1, 2]
    assert [e.signal for e in ends(local)] == [9, 9]
    assert kinds(local)[-2:] == ["started", "ready"]


async def test_out_of_memory_is_named(local: Harness) -> None:
    if not (await local.engine.isolation())["memory"].enforced:
        pytest.skip("no memory limit on this host")
    service = Service(RestartPolicy("on-failure", first_s=30.0))
    await local.open(memory=64 << 20)
    hog = f"exec {PYTHON} -c 'x = bytearray(256 << 20)'"
    await local.engine.start("n-1", await local.spec("a.1", hog, service=service))
    event = await local.events.until(is_("task_restarting", 1))
    assert event.reason == "oom", event


async def test_unready_and_ready_again(local: Harness) -> None:
    await start(local, SERVER, Service(ready=QUICK))
    await local.events.until(is_("task_ready"))
    unwell = f"{local.engine.work_dir('n-1', 'a.1')}/unwell"
    open(unwell, "w").close()  # noqa: ASYNC230
    event = await local.events.until(is_("task_unready"))
    assert event.message == "GET / answers 503"
    os.unlink(unwell)
    async with asyncio.timeout(60):
        while kinds(local)[-1] != "ready":
            await asyncio.sleep(0.005)


async def test_a_failed_liveness_probe_restarts_it(local: Harness) -> None:
    live = Probe(PORT, delay_s=0.5, period_s=0.1, timeout_s=60.0, failures=2)
    await start(local, "touch unwell; " + SERVER, Service(live=live))
    # On a busy host it may be refused a connection before it listens, and is restarted for that.
    said = "its liveness probe failed: GET / answers 503"
    event = await local.events.until(lambda e: e.kind == "task_restarting" and e.message == said)
    assert event.reason == "unhealthy"
    await local.events.until(is_("task_started", 1))


async def test_a_tcp_probe(local: Harness) -> None:
    await start(local, SERVER, Service(ready=Probe(PORT, "tcp")))
    await local.events.until(is_("task_ready"))


async def test_its_port_is_dialed(local: Harness) -> None:
    await start(local, SERVER, Service(ready=QUICK))
    await local.events.until(is_("task_ready"))
    sock = await local.engine.dial("n-1", KEY, PORT)
    with sock:
        sock.setblocking(True)
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"200" in await asyncio.to_thread(sock.recv, 100)


async def test_a_stop_while_it_waits_is_final(local: Harness) -> None:
    await start(local, "exit 3", Service(RestartPolicy("always", first_s=60.0)))
    await local.events.until(is_("task_restarting", 2))
    await local.engine.stop("n-1", KEY, 1, "no longer wanted")
    event = await local.events.exited("a.1")
    assert (event.reason, event.exit_code) == ("stopped", None)
    await local.engine.forget("n-1", KEY)
    with pytest.raises(EngineError):
        await local.engine.dial("n-1", KEY, PORT)


async def test_what_asks_for_time_to_end_gets_it(local: Harness) -> None:
    script = "trap 'sleep 0.2; echo drained; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    await start(local, script, Service())
    async with asyncio.timeout(60):
        while "up" not in await local.log("a.1"):
            await asyncio.sleep(0.005)
    await local.engine.stop("n-1", KEY, 1, "no longer wanted")
    event = await local.events.exited("a.1")
    assert (event.exit_code, event.reason) == (0, "stopped")
    assert (await local.log("a.1")).endswith("drained\n")


async def test_the_node_goes_with_what_waits_to_start(local: Harness) -> None:
    await start(local, "exit 3", Service(RestartPolicy("always", first_s=60.0)))
    await local.events.until(is_("task_restarting", 2))
    await local.engine.close_node("n-1")
    await local.events.kind("node_closed")
    assert (await local.events.exited("a.1")).reason == "stopped"


async def test_a_wrong_probe_is_refused(local: Harness) -> None:
    await local.open()
    spec = await local.spec("a.1", "exit 0", service=Service(ready=Probe(PORT, path="/a b")))
    with pytest.raises(InvalidTask, match="/a b"):
        await local.engine.start("n-1", spec)


async def test_not_ready_is_no_end(local: Harness) -> None:
    await start(local, "sleep 600", Service(ready=QUICK))
    await local.events.until(is_("task_started"))
    await local.engine.stop("n-1", KEY, 1, "no longer wanted")
    await local.events.exited("a.1")
    assert kinds(local) == ["started", "exited"]


async def test_cpu_that_a_node_has_used_is_counted_also_of_what_has_ended(local: Harness) -> None:
    if not (await local.engine.isolation())["processes"].by.startswith("cgroup v2"):
        pytest.skip("no control groups of version 2 on this host")
    await local.open()
    before = local.engine.cpu_used("n-1")
    assert before is not None
    await local.run("a.1", f"exec {PYTHON} -c 'sum(range(10_000_000))'")
    after = local.engine.cpu_used("n-1")
    assert after is not None
    assert 50_000 < after - before < 10_000_000
    assert local.engine.cpu_used("n-9") is None
