"""What the engine suite needs: a harness per engine, and a reader of its event stream with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pidspace import host_pids
from tidemill.domain.model import Vector
from tidemill.engines.base import Engine, EngineEvent, NodeSpec, TaskKey, TaskSpec
from tidemill.engines.fake import Plan
from tidemill.engines.helped import HelperHost
from tidemill.engines.local import LocalEngine
from tidemill.helper import nodedir
from tidemill.sandbox import processes

DEADLINE_S = 60.0  # of what takes milliseconds: a host may be busy with other tests


class RealClock:
    def now(self) -> int:
        return time.time_ns() // 1000

    def boottime(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Stream:
    """Collects an engine's events; `until` waits for one, with a deadline."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[EngineEvent] = []
        self._new = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._read(engine))

    async def _read(self, engine: Engine) -> None:
        async for event in engine.events():
            self.seen.append(event)
            self._new.set()

    async def until(
        self, wanted: Callable[[EngineEvent], bool], timeout_s: float = DEADLINE_S
    ) -> EngineEvent:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for event in self.seen:
                        if wanted(event):
                            return event
                    self._new.clear()
                    await self._new.wait()
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s} s; seen: {self.seen}") from None

    async def kind(self, kind: str, node_id: str = "n-1", timeout_s: float = DEADLINE_S) -> EngineEvent:
        return await self.until(lambda e: e.kind == kind and e.node_id == node_id, timeout_s)

    async def exited(self, attempt: str, rank: int = 0, timeout_s: float = DEADLINE_S) -> EngineEvent:
        key = TaskKey(attempt, rank)
        return await self.until(lambda e: e.kind == "task_exited" and e.task == key, timeout_s)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class Harness:
    """An engine, its events, and short forms of what every test does."""

    def __init__(self, engine: Engine, make: Callable[[], Engine], home: Path) -> None:
        self.runtime = ""  # of every task
        self.engine = engine
        self.home = home
        self.events = Stream(engine)
        self._make = make

    async def open(
        self, node_id: str = "n-1", memory: int = 512 << 20, cpu_milli: int = 1000, **more: Any
    ) -> EngineEvent:
        await self.engine.open_node(NodeSpec(node_id, Vector(cpu_milli, memory), **more))
        ended = ("node_ready", "node_lost")
        event = await self.events.until(lambda e: e.node_id == node_id and e.kind in ended)
        assert event.kind == "node_ready", event.message
        return event

    async def spec(self, attempt: str, script: str, node_id: str = "n-1", **more: object) -> TaskSpec:
        work = await self.engine.prepare_dir(node_id, attempt)
        argv = ("/bin/bash", "-c", script)
        more.setdefault("read_only", (sys.base_prefix, str(self.home / "envs")))
        more.setdefault("runtime", self.runtime)
        return TaskSpec(attempt, 1, 0, argv, {}, work, f"{work}/log.txt", **more)  # pyright: ignore

    async def run(self, attempt: str, script: str, node_id: str = "n-1", **more: object) -> EngineEvent:
        await self.engine.start(node_id, await self.spec(attempt, script, node_id, **more))
        return await self.events.exited(attempt)

    async def log(self, attempt: str, node_id: str = "n-1") -> str:
        return (await self.engine.read_log(node_id, attempt, "log.txt", 0, 1 << 26)).decode()

    def host_pids(self, attempt: str, inner: list[int], node_id: str = "n-1") -> list[int]:
        """Pids as this test sees them of processes that the job of `attempt` knows as `inner`."""
        marker = processes.marker(nodedir.home_id(self.home), node_id, f"{attempt}/0")
        spaces: set[str] = set()
        for pid in processes.marked(marker):
            with contextlib.suppress(OSError):  # it has ended since it was found
                spaces.add(os.readlink(f"/proc/{pid}/ns/pid"))
        spaces -= {os.readlink("/proc/self/ns/pid")}
        return host_pids(inner, spaces) if spaces else inner

    async def restart(self) -> None:
        """The server goes and another comes: a new engine on the same home."""
        await self.engine.detach()
        await self.events.close()
        self.engine = self._make()
        self.events = Stream(self.engine)

    def agent_pid(self, node_id: str = "n-1") -> int:
        return int((self.home / "nodes" / node_id / "agent" / "pid").read_text())

    async def close(self) -> None:
        for node in await self.engine.held():
            await self.engine.close_node(node.node_id)
            await self.events.kind("node_closed", node.node_id)
        for path in self.home.glob("nodes/*/work/[!.]*"):
            await self.engine.remove_dir(path.parent.parent.name, path.name)
        await self.engine.detach()
        await self.events.close()


PLANS = {
    "exit 0": Plan(),
    "exit 3": Plan(exit_code=3),
    "exit 137": Plan(exit_code=137),
    "kill -9 $$": Plan(exit_code=None, signal=9),
}


def fake_plan(spec: TaskSpec) -> Plan:
    script = spec.argv[-1]
    if script.startswith("echo "):
        return Plan(output=script[5:].encode() + b"\n")
    return PLANS.get(script, Plan(after=None))


def local_engine(home: Path, **more: Any) -> LocalEngine:
    return LocalEngine(home, clock=RealClock(), binds=[home / "envs", Path(sys.base_prefix)], **more)


# The home whose helper the suite is to use, in a process that gave root up: see test_engine_helped.py.
HELPED = os.environ.get("TIDEMILL_TEST_HELPED", "")


def helped_harness() -> Harness:
    """On one home for all tests, which each leave it empty."""
    home = Path(HELPED)

    def make() -> LocalEngine:
        return LocalEngine(home, clock=RealClock(), host=HelperHost(home))

    return Harness(make(), make, home)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def groups_of(event: EngineEvent) -> list[str]:
    return list(json.loads(event.handle).get("groups", {}).values())


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: uids of their own and cgroups")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


KEY = TaskKey("a.1", 0)
ESCAPES = (
    "trap '' TERM; (setsid bash -c 'trap \"\" TERM; echo $$ >> pids; (setsid sleep 600 & echo $! >> pids); "
)
ESCAPES += "sleep 600' &) ; (env -i setsid sleep 601 & echo $! >> pids); echo $$ >> pids"


async def pids_in(path: str, count: int) -> list[int]:
    """Waits until `count` pids were written there."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                with open(path) as file:  # noqa: ASYNC230 - a small file of the test's own
                    pids = [int(p) for p in file.read().split()]
            except FileNotFoundError:
                pids = []
            if len(pids) >= count:
                return pids
            await asyncio.sleep(0.005)
