"""An engine for tests of controllers: no process, no waiting, time only from the clock that it is given.

Every task goes by a `Plan`; what lies in the future happens in `advance()`, after the test has moved its
clock. Directories are real (below `root`), because staging and collecting copy real files.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tidemill.agent.restarts import Restarts
from tidemill.domain.isolation import Limit
from tidemill.domain.model import Vector
from tidemill.engines.base import (
    Beside,
    EngineError,
    EngineEvent,
    HeldNode,
    HostCapacity,
    Inside,
    InvalidTask,
    NodeSpec,
    Runtime,
    TaskKey,
    TaskSpec,
    Unreachable,
)


class Clock(Protocol):
    def now(self) -> int: ...
    def boottime(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How a task goes. `after` is in microseconds; None: it runs until it is stopped or `finish`ed."""

    after: int | None = 0
    exit_code: int | None = 0
    signal: int | None = None
    reason: str = ""
    message: str = ""
    output: bytes = b""  # what it writes to its log as it starts
    ignores_term: bool = False
    ready_after: int | None = 0  # of a service with a probe: from each start; None: it never is


@dataclass(slots=True)
class _Task:
    spec: TaskSpec
    plan: Plan
    restarts: Restarts | None = None  # of a service
    started: int = 0
    runs: bool = True  # a service may be about to start again
    parked: bool = False
    stopping: str = ""
    events: list[EngineEvent] = field(default_factory=list)
    exited: bool = False


@dataclass(slots=True)
class _Node:
    spec: NodeSpec
    ready: bool = False
    alive: bool = True
    tasks: dict[TaskKey, _Task] = field(default_factory=dict)


class FakeEngine:
    """`calls` is every verb with its arguments, in order. `open_fails`: node ids whose opening is lost."""

    name = "fake"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        capacity: HostCapacity | None = None,
        plan: Callable[[TaskSpec], Plan] = lambda spec: Plan(),
        open_after: int = 0,
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.limits: dict[str, Limit] = {}  # of every node
        self.runc = Runtime("1.1.5")
        self.open_fails: set[str] = set()
        self.nodes: dict[str, _Node] = {}
        self.cpu: dict[str, int] = {}  # microseconds used, by node
        self.memory: dict[str, int] = {}  # bytes held, by node
        self.parks = True  # whether the host can
        self._root = root
        self._clock = clock
        self._capacity = capacity or HostCapacity(Vector(4000, 8 << 30, 0), (), "fake")
        self._plan = plan
        self._open_after = open_after
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    # --- what a test does

    def advance(self) -> int:
        """Does everything that is due by the clock; returns how many things that were."""
        done = 0
        while self._later and self._later[0][0] <= self._clock.now():
            heapq.heappop(self._later)[2]()
            done += 1
        return done

    def next_at(self) -> int | None:
        return self._later[0][0] if self._later else None

    def finish(self, node_id: str, key: TaskKey, exit_code: int | None = 0, **more: Any) -> None:
        """Ends the process of a running task now: a service starts again, if its policy says so."""
        task = self.nodes[node_id].tasks[key]
        self._exit(node_id, key, replace(task.plan, exit_code=exit_code, **more))

    def lose(self, node_id: str) -> None:
        """Its agent dies: nothing more is heard of its tasks."""
        self.nodes[node_id].alive = False
        self._emit("node_lost", node_id, reason="lost", message="its agent has died")

    # --- the contract

    async def capacity(self) -> HostCapacity:
        return self._capacity

    async def isolation(self) -> dict[str, Limit]:
        return self.limits

    async def runtimes(self) -> dict[str, Runtime]:
        return {"runc": self.runc}

    async def open_node(self, spec: NodeSpec) -> None:
        self.calls.append(("open_node", spec))
        if spec.node_id in self.nodes:
            if self.nodes[spec.node_id].ready:
                self._emit("node_ready", spec.node_id)
            return
        self.nodes[spec.node_id] = _Node(spec)
        self._in(self._open_after, lambda: self._opened(spec.node_id))

    async def close_node(self, node_id: str) -> None:
        self.calls.append(("close_node", node_id))
        node = self.nodes.pop(node_id, None)
        if node is not None and node.alive:
            for key, task in node.tasks.items():
                if not task.exited:
                    plan = Plan(exit_code=None, signal=9, reason="stopped", message="its node was closed")
                    self._record_exit(node_id, key, task, plan)
        self._emit("node_closed", node_id)

    async def held(self) -> Sequence[HeldNode]:
        return [HeldNode(n.spec.node_id, n.alive, n.spec.granted) for n in self.nodes.values()]

    async def resize(self, node_id: str, granted: Vector) -> None:
        self.calls.append(("resize", node_id, granted))
        node = self._need(node_id)
        node.spec = replace(node.spec, granted=granted)

    async def park(self, node_id: str) -> None:
        self.calls.append(("park", node_id))
        tasks = [task for task in self._need(node_id).tasks.values() if not task.exited]
        if not self.parks or any(task.restarts is None or not task.runs for task in tasks):
            raise InvalidTask(f"node {node_id} cannot be parked")
        for task in tasks:
            task.parked = True
            task.events = [one for one in task.events if one.kind not in ("task_ready", "task_unready")]

    async def wake(self, node_id: str) -> None:
        self.calls.append(("wake", node_id))
        for key, task in self._need(node_id).tasks.items():
            if task.parked:
                task.parked = False
                self._ready(node_id, key, task, task.started)

    async def start(self, node_id: str, task: TaskSpec) -> None:
        self.calls.append(("start", node_id, task))
        node = self._need(node_id)
        key = TaskKey(task.attempt_id, task.rank)
        known = node.tasks.get(key)
        if known is not None and task.epoch <= known.spec.epoch:
            if task.epoch < known.spec.epoch:
                raise InvalidTask(f"{key}: epoch {task.epoch} was overtaken by {known.spec.epoch}")
            return
        if known is not None and not known.exited:
            raise InvalidTask(f"{key}: epoch {known.spec.epoch} still has processes")
        again = None
        if task.service is not None:
            policy = task.service.restart
            again = Restarts(policy.policy, policy.first_s, policy.cap_s, policy.steady_s)
        node.tasks[key] = started = _Task(task, self._plan(task), again)
        self._begin(node_id, key, started)

    def _begin(self, node_id: str, key: TaskKey, task: _Task) -> None:
        plan, epoch, now = task.plan, task.spec.epoch, self._clock.now()
        task.started, task.runs = now, True
        _append(Path(task.spec.log_path), plan.output)
        count = task.restarts.count if task.restarts else 0
        event = self._emit("task_started", node_id, task=key, epoch=epoch, pid=1, restarts=count)
        task.events.append(event)
        service = task.spec.service
        if service is not None and service.ready is not None and plan.ready_after is not None:
            self._in(plan.ready_after, lambda: self._ready(node_id, key, task, now))
        if plan.after is not None:
            self._in(plan.after, lambda: self._exit(node_id, key, plan))

    def _ready(self, node_id: str, key: TaskKey, task: _Task, started: int) -> None:
        if task.runs and not task.exited and task.started == started:
            event = self._emit("task_ready", node_id, task=key, epoch=task.spec.epoch)
            task.events.append(event)

    async def stop(self, node_id: str, task: TaskKey, epoch: int, reason: str) -> None:
        self.calls.append(("stop", node_id, task, epoch, reason))
        node = self._need(node_id)
        known = node.tasks.get(task)
        plan = Plan(exit_code=None, signal=15, reason="stopped", message=reason)
        if known is None:
            never = TaskSpec(task.attempt_id, epoch, task.rank, (), {}, "", "")
            node.tasks[task] = known = _Task(never, plan)
            self._record_exit(node_id, task, known, replace(plan, signal=None))
        elif epoch == known.spec.epoch and not known.exited and not known.stopping:
            known.stopping = reason
            late = known.plan.ignores_term
            grace = int(known.spec.term_grace_s * 1e6) if late else 0
            self._in(grace, lambda: self._exit(node_id, task, replace(plan, signal=9 if late else 15)))

    async def forget(self, node_id: str, task: TaskKey) -> None:
        self.calls.append(("forget", node_id, task))
        node = self.nodes.get(node_id)
        if node is None or (known := node.tasks.get(task)) is None:
            return
        if not known.exited:
            raise InvalidTask(f"{task} still has processes")
        known.events.clear()

    async def enter(
        self, node_id: str, task: TaskKey, argv: Sequence[str], size: tuple[int, int] | None, term: str = ""
    ) -> Inside:
        raise EngineError("the fake engine runs no process that could be entered")

    async def start_beside(
        self, node_id: str, task: TaskKey, name: str, argv: Sequence[str], log_path: str
    ) -> None:
        raise EngineError("the fake engine runs no process that could be entered")

    async def beside(self, node_id: str, task: TaskKey) -> Mapping[str, Beside]:
        return {}

    async def dial(self, node_id: str, task: TaskKey, port: int) -> socket.socket:
        raise EngineError("the fake engine has no network")

    def work_dir(self, node_id: str, attempt_id: str) -> str:
        return str(self._root / node_id / "work" / attempt_id)

    async def prepare_dir(
        self,
        node_id: str,
        attempt_id: str,
        folders: Sequence[str] = (),
        links: Sequence[tuple[str, str]] = (),
    ) -> str:
        self._need(node_id)
        for folder in ("", *folders):
            os.makedirs(os.path.join(self.work_dir(node_id, attempt_id), folder), exist_ok=True)
        for path, target in links:
            with contextlib.suppress(FileExistsError):
                os.symlink(target, os.path.join(self.work_dir(node_id, attempt_id), path))
        return self.work_dir(node_id, attempt_id)

    async def settle_dir(self, node_id: str, attempt_id: str) -> None:
        self._need(node_id)

    async def remove_dir(self, node_id: str, attempt_id: str) -> None:
        shutil.rmtree(self.work_dir(node_id, attempt_id), ignore_errors=True)

    async def crowded(self, node_id: str) -> bool:
        return False

    async def keep_dirs(self, attempt_ids: Collection[str]) -> None:
        for path in self._root.glob("*/work/*"):
            if path.name not in attempt_ids:
                shutil.rmtree(path, ignore_errors=True)

    async def read_log(self, node_id: str, attempt_id: str, path: str, offset: int, limit: int) -> bytes:
        file = self._file(node_id, attempt_id, path)
        return file.read_bytes()[offset : offset + limit] if file.is_file() else b""

    async def log_size(self, node_id: str, attempt_id: str, path: str) -> int:
        file = self._file(node_id, attempt_id, path)
        return file.stat().st_size if file.is_file() else 0

    def cpu_used(self, node_id: str) -> int | None:
        return self.cpu.get(node_id)

    def memory_used(self, node_id: str) -> int | None:
        return self.memory.get(node_id, 1 << 20)

    def free_memory(self) -> int | None:
        return self._capacity.total.memory

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            yield await self._events.get()

    async def detach(self) -> None:
        self.calls.append(("detach",))

    def reattach(self) -> None:
        """What a new server sees first: every node, and every event that was not forgotten."""
        self._events = asyncio.Queue()
        for node_id, node in self.nodes.items():
            self._emit("node_ready" if node.alive else "node_lost", node_id)
            for task in node.tasks.values():
                for event in task.events:
                    self._events.put_nowait(event)

    # --- pieces

    def _opened(self, node_id: str) -> None:
        node = self.nodes.get(node_id)
        if node is None:
            return
        if node_id in self.open_fails:
            self.lose(node_id)
            return
        node.ready = True
        self._emit("node_ready", node_id)

    def _exit(self, node_id: str, key: TaskKey, plan: Plan) -> None:
        node = self.nodes.get(node_id)
        task = node.tasks.get(key) if node is not None and node.alive else None
        if task is None or task.exited:
            return
        pause = None
        if task.restarts is not None and not task.stopping:
            failed = bool(plan.exit_code != 0 or plan.reason)
            pause = task.restarts.after(failed, (self._clock.now() - task.started) / 1e6)
        if pause is None or task.restarts is None:
            return self._record_exit(node_id, key, task, plan)
        task.runs = False
        task.events = [e for e in task.events if e.kind == "task_restarting"]
        more = {**_ended(plan), "restarts": task.restarts.count, "again_in_s": pause}
        event = self._emit("task_restarting", node_id, task=key, epoch=task.spec.epoch, **more)
        task.events.append(event)
        self._in(int(pause * 1e6), lambda: self._again(node_id, key, task))

    def _again(self, node_id: str, key: TaskKey, task: _Task) -> None:
        if not task.exited:
            self._begin(node_id, key, task)

    def _record_exit(self, node_id: str, key: TaskKey, task: _Task, plan: Plan) -> None:
        task.exited = True
        what = _ended(plan)
        task.events.append(self._emit("task_exited", node_id, task=key, epoch=task.spec.epoch, **what))

    def _need(self, node_id: str) -> _Node:
        node = self.nodes.get(node_id)
        if node is None or not node.alive or not node.ready:
            raise Unreachable(f"node {node_id} does not answer")
        return node

    def _file(self, node_id: str, attempt_id: str, path: str) -> Path:
        root = Path(self.work_dir(node_id, attempt_id))
        if not root.is_dir():
            raise EngineError(f"attempt {attempt_id} has no directory on node {node_id}")
        if not (root / path).resolve().is_relative_to(root.resolve()):
            raise EngineError(f"{path!r} is not below the directory of attempt {attempt_id}")
        return root / path

    def _emit(self, kind: str, node_id: str, **more: Any) -> EngineEvent:
        if kind == "node_ready":
            more["limits"] = self.limits
        event = EngineEvent(kind, node_id, at=self._clock.now(), mono=self._clock.boottime(), **more)
        self._events.put_nowait(event)
        return event

    def _in(self, delay: int, action: Callable[[], None]) -> None:
        """Now where there is no delay, so that a test without a moving clock needs no `advance`."""
        if delay <= 0:
            action()
            return
        self._count += 1
        heapq.heappush(self._later, (self._clock.now() + delay, self._count, action))


def _ended(plan: Plan) -> dict[str, Any]:
    return {
        "exit_code": plan.exit_code,
        "signal": plan.signal,
        "reason": plan.reason,
        "message": plan.message,
    }


def _append(path: Path, output: bytes) -> None:
    if path.parent.is_dir():
        with path.open("ab") as file:
            file.write(output)
