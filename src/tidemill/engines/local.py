"""The local engine: a node is a slice of this host, held by an agent process that outlives the server.

`home/nodes/<node-id>/` is the truth about which nodes there are; this object only keeps a connection to each.
Linux only: it needs /proc, pidfd and, for limits, control groups.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tidemill.agent import protocol
from tidemill.agent.contained import NAME as RUNC
from tidemill.domain.isolation import Limit
from tidemill.domain.launch import DEFAULT_PATH
from tidemill.domain.model import Vector
from tidemill.engines import words
from tidemill.engines.base import (
    EngineError,
    EngineEvent,
    HeldNode,
    HostCapacity,
    InvalidTask,
    NodeSpec,
    Runtime,
    TaskKey,
    TaskSpec,
    Unreachable,
)
from tidemill.engines.directories import Directories
from tidemill.engines.gpus import GpuInventory, NvmlGpus
from tidemill.engines.host import DirectHost, Host
from tidemill.engines.link import AgentLink, attach
from tidemill.engines.processors import Processors, Reached
from tidemill.engines.trial import trial, trial_of_runtime
from tidemill.engines.visits import Visits
from tidemill.sandbox import tiers

log = logging.getLogger("tidemill.engine")

SHUTDOWN_TIMEOUT_S = 8.0
HELD_TIMEOUT_S = 3.0  # for agents to be reached; one that hangs counts as not alive until it answers
PATIENCE_S = 3.0  # for what an agent left to end by itself
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}")


class Clock(Protocol):
    def now(self) -> int: ...
    def boottime(self) -> int: ...


@dataclass(slots=True)
class _Node:
    """What this process knows of a node. `link` is None while its agent is not connected."""

    node_id: str
    config: dict[str, Any]
    link: AgentLink | None = None
    hello: dict[str, Any] = field(default_factory=dict)
    opening: asyncio.Task[None] | None = None
    closing: asyncio.Task[None] | None = None
    lost: bool = False
    parked: bool = False


class LocalEngine(Directories, Visits):
    """See `engines.base.Engine`. `binds` are paths that a job's own uid must be able to read although a
    folder above them is closed (environments, the Python they were made from, the CA bundle).
    `own_uids=False` keeps the server's user for jobs, `cgroups=False` makes no groups, `isolation="plain"`
    no sandbox and no network: each is reported as not enforced. `services` are the ports of this host's
    loopback that jobs may reach, by name. `host`: who makes nodes and ends them (None: this process)."""

    name = "local"

    def __init__(
        self,
        home: Path,
        *,
        clock: Clock,
        capacity: HostCapacity | None = None,
        gpus: GpuInventory | None = None,
        binds: Sequence[Path] = (),
        own_uids: bool = True,
        cgroups: bool = True,
        isolation: str = "auto",
        services: Mapping[str, int] | None = None,
        python: str = sys.executable,
        look_s: float = 30.0,
        host: Host | None = None,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise EngineError(f"The local engine needs Linux (/proc, pidfd); this is {sys.platform}.")
        self._home = home.resolve()
        nodes = self._home / "nodes"
        if host is None:
            nodes.mkdir(parents=True, exist_ok=True, mode=0o700)
            for bind in binds:  # a path that is not there when a node opens would never be seen by it
                if self._home in bind.absolute().parents and not bind.exists():
                    bind.mkdir(parents=True)
            shown = [str(bind.absolute()) for bind in binds]
            host = DirectHost(
                self._home, shown, own_uids=own_uids, groups=cgroups, look_s=look_s, python=python
            )
        super().__init__(nodes, host)
        self._isolation = isolation
        self._clock = clock
        self._capacity = capacity
        self._gpus = gpus or NvmlGpus()
        self._like = partial(
            LocalEngine,
            clock=clock,
            gpus=gpus,
            own_uids=own_uids,
            cgroups=cgroups,
            isolation=isolation,
            python=python,
        )
        self._trial: asyncio.Task[dict[str, Limit]] | None = None
        self._runc: Runtime | None = None
        self._trying = asyncio.Lock()
        self._services = dict(services or {})
        self._processors = Processors(self._reached)
        self._nodes: dict[str, _Node] = {}
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._jobs: set[asyncio.Task[Any]] = set()  # keeps background work alive
        self._detached = False
        self._swept = False

    async def capacity(self) -> HostCapacity:
        if self._capacity is None:
            ids = self._gpus.ids()
            total = Vector(len(os.sched_getaffinity(0)) * 1000, words.host_memory(), len(ids))
            self._capacity = HostCapacity(total, ids, os.uname().nodename)
        return self._capacity

    async def isolation(self) -> Mapping[str, Limit]:
        if self._trial is None:
            self._trial = asyncio.create_task(self._try())
        return await asyncio.shield(self._trial)

    async def _try(self) -> dict[str, Limit]:
        with self._another() as (engine, node_id):
            return await trial(engine, node_id)

    async def runtimes(self) -> Mapping[str, Runtime]:
        async with self._trying:
            if self._runc is None or self._runc.why_not:
                self._runc = await self._try_runc()
        return {RUNC: self._runc}

    async def _try_runc(self) -> Runtime:
        version = await asyncio.to_thread(tiers.version_of_runc)
        if why := tiers.why_no_runc(version):
            return Runtime(version, why)
        with self._another() as (engine, node_id):
            return Runtime(version, await trial_of_runtime(engine, node_id, RUNC))

    @contextmanager
    def _another(self) -> Iterator[tuple[LocalEngine, str]]:
        """An engine like this one, and the id of a node that it may open."""
        if not isinstance(self._host, DirectHost):  # it makes nodes of this home alone
            yield self._like(self._home, host=self._host), f"trial-{secrets.token_hex(4)}"
            return
        with tempfile.TemporaryDirectory(prefix="trial-", dir=self._home) as home:
            yield self._like(Path(home)), "trial"

    # --- nodes

    async def open_node(self, spec: NodeSpec) -> None:
        known = self._find(spec.node_id)
        if known is None:
            if not _NODE_ID.fullmatch(spec.node_id):
                raise InvalidTask(f"node id {spec.node_id!r} is not valid: letters, digits, - _ and . only")
            node = self._nodes[spec.node_id] = _Node(spec.node_id, {})
            node.opening = self._background(self._open(node, spec))
        elif known.link is not None:
            self._emit_ready(known)
        elif known.opening is None and known.closing is None:
            known.opening = self._background(self._readopt(known))

    async def close_node(self, node_id: str) -> None:
        node = self._find(node_id)
        if node is None:
            self._emit("node_closed", node_id)
        elif node.closing is None or node.closing.done():  # done and still here: it failed half-way
            node.closing = self._background(self._close(node))

    async def held(self) -> Sequence[HeldNode]:
        if not self._swept:
            self._swept = True
            await asyncio.to_thread(self._sweep)
        names = await asyncio.to_thread(self._host.names)
        for name in names:
            try:
                await asyncio.to_thread(self._host.show, name)
            except OSError as error:
                log.warning("what is left of node %s cannot be reached: %s", name, error)
        nodes = [n for name in names if (n := self._find(name)) is not None]
        for node in nodes:
            if node.link is None and node.opening is None and node.closing is None:
                node.opening = self._background(self._readopt(node))
        opening = [n.opening for n in nodes if n.opening is not None]
        if opening:
            await asyncio.wait(opening, timeout=HELD_TIMEOUT_S)
        return [self._held(node) for node in nodes]

    async def resize(self, node_id: str, granted: Vector) -> None:
        node, link = self._need(node_id)
        before = {use: line["enforced"] for use, line in node.hello["limits"].items()}
        answer = await link.call("resize", cpu_milli=granted.cpu_milli, memory=granted.memory)
        node.hello["limits"] = answer["limits"]
        if not words.size(granted).items() <= node.config.items():
            node.config.update(words.size(granted))
            await asyncio.to_thread(self._host.resized, node_id, words.size(granted))
        await self._processors.share()
        for use, line in answer["limits"].items():
            if before.get(use) and not line["enforced"]:
                raise EngineError(f"node {node_id} keeps its old {use} limit: {line['why_not']}")

    async def park(self, node_id: str) -> None:
        node, link = self._need(node_id)
        if node.hello["version"] < protocol.PARKS_SINCE:
            raise InvalidTask(f"node {node_id} was opened by an earlier Tidemill, which parks nothing")
        await link.call("park")
        node.parked = True
        self._background(self._processors.share())

    async def wake(self, node_id: str) -> None:
        node, link = self._need(node_id)
        await link.call("wake")
        node.parked = False
        self._background(self._processors.share())

    # --- tasks

    async def start(self, node_id: str, task: TaskSpec) -> None:
        node, link = self._need(node_id)
        unknown = set(task.gpu_ids) - set(node.config["gpu_ids"])
        if unknown:
            raise InvalidTask(f"GPUs {sorted(unknown)} were not allotted to node {node_id}")
        if task.rootfs and node.hello["version"] < protocol.IMAGES_SINCE:
            raise InvalidTask(f"node {node_id} was opened by an earlier Tidemill, which runs no images")
        if task.service is not None and node.hello["version"] < protocol.SERVICES_SINCE:
            raise InvalidTask(f"node {node_id} was opened by an earlier Tidemill, which runs no services")
        if task.runtime and node.hello["version"] < protocol.RUNTIMES_SINCE:
            raise InvalidTask(f"node {node_id} was opened by an earlier Tidemill, without {task.runtime}")
        fields = words.start(task)
        fields["env"] = {"PATH": DEFAULT_PATH, "HOME": task.cwd, **task.env}
        fields["devices"] = self._gpus.devices(task.gpu_ids)
        if task.network_of not in ("", node_id):
            fields["network"] = self._need(task.network_of)[0].hello.get("network")
        await link.call("start", **fields)

    async def stop(self, node_id: str, task: TaskKey, epoch: int, reason: str) -> None:
        _, link = self._need(node_id)
        await link.call("stop", attempt=task.attempt_id, rank=task.rank, epoch=epoch, reason=reason)

    async def forget(self, node_id: str, task: TaskKey) -> None:
        node = self._nodes.get(node_id)
        if node is not None and node.link is not None:
            await node.link.call("forget", attempt=task.attempt_id, rank=task.rank)

    # --- files

    async def keep_dirs(self, attempt_ids: Collection[str]) -> None:
        if left := self._unknown_dirs(attempt_ids):
            self._background(self._remove_dirs(left))

    async def _remove_dirs(self, left: Sequence[tuple[str, str]]) -> None:
        for node_id, attempt_id in left:
            await self.remove_dir(node_id, attempt_id)

    def cpu_used(self, node_id: str) -> int | None:
        node = self._nodes.get(node_id)
        return words.cpu_used(node.hello) if node is not None else None

    def memory_used(self, node_id: str) -> int | None:
        node = self._nodes.get(node_id)
        return words.memory_used(node.hello) if node is not None else None

    def free_memory(self) -> int | None:
        return words.free_memory()

    # --- the stream

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            yield await self._events.get()

    async def detach(self) -> None:
        self._detached = True
        for node in self._nodes.values():
            if node.link is not None:
                node.link.close()
                node.link = None
        for job in list(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    # --- opening, adopting, losing, closing

    async def _open(self, node: _Node, spec: NodeSpec) -> None:
        try:
            host = await self.capacity()
            order: dict[str, Any] = {
                "node": node.node_id,
                "gpu_ids": list(spec.gpu_ids),
                "host_gpus": len(host.gpu_ids),
                "egress": spec.egress,
                "disk": spec.disk,
                "services": self._services,
                "isolation": self._isolation,
                **words.size(spec.granted),
            }
            node.config = order
            await self._host.open(order)
            node.config = self._host.config(node.node_id) or order
            await self._attach(node)
        except (OSError, EngineError) as error:
            self._lose(node, str(error))
        finally:
            node.opening = None

    async def _attach(self, node: _Node) -> None:
        """Connects, tells the world it is ready, and asks for every event that was not forgotten."""

        def on_event(event: dict[str, Any]) -> None:
            self._events.put_nowait(words.task_event(node.node_id, event))

        def on_closed() -> None:
            node.link = None
            if not self._detached and node.closing is None and node.opening is None:
                node.opening = self._background(self._readopt(node))

        link = await attach(await asyncio.to_thread(self._host.connect, node.node_id), on_event, on_closed)
        try:
            hello = await link.call("hello")
        except EngineError:
            link.close()
            raise
        if not protocol.VERSION - 1 <= hello["version"] <= protocol.VERSION:
            link.close()
            raise EngineError(f"the agent speaks protocol {hello['version']}, this server {protocol.VERSION}")
        if hello["version"] >= protocol.NETWORKS_SINCE:
            await link.call("serve", services=self._services)
        node.hello, node.link, node.lost = hello, link, False
        self._emit_ready(node)
        await link.call("watch", since=0)
        self._background(self._processors.share())  # a loss meanwhile is `on_closed`'s to tell

    async def _readopt(self, node: _Node) -> None:
        """Reconnects to an agent that lives; tells of the loss of one that does not."""
        pause = 0.005
        try:
            while await asyncio.to_thread(self._host.lives, node.node_id):
                try:
                    await self._attach(node)
                    return
                except EngineError as error:
                    log.warning("node %s: %s", node.node_id, error)
                    await asyncio.sleep(pause)
                    pause = min(1.0, pause * 2)
            self._lose(node, "its agent has died; what it ran is not proved gone until the node is closed")
        finally:
            if node.opening is asyncio.current_task():
                node.opening = None

    def _lose(self, node: _Node, message: str) -> None:
        """What the dead agent had on disk first, then the loss; once."""
        if node.lost or node.closing is not None:
            return
        node.lost = True
        for (attempt, rank), record in self._host.journal(node.node_id).tasks.items():
            if record.exit is not None:
                event = {"kind": "task_exited", "attempt": attempt, "rank": rank, **record.exit}
                self._events.put_nowait(words.task_event(node.node_id, event))
        self._emit("node_lost", node.node_id, reason="lost", message=message)

    async def _close(self, node: _Node) -> None:
        """Asks the agent to end everything; where it does not, kills it and everything marked as its own."""
        node_id = node.node_id
        if node.opening is not None:
            node.opening.cancel()  # an agent that is just starting is found by its marker below
            await asyncio.wait([node.opening])
        proved = False
        if node.link is not None:
            try:
                await node.link.call("shutdown", wait_s=SHUTDOWN_TIMEOUT_S)
                proved = True
            except EngineError as error:
                log.warning("node %s: closing it the hard way: %s", node_id, error)
        await self._agent_gone(node, patience_s=2.0 if proved else 0.0)
        pause, waited = 0.005, 0.0
        while not proved:
            proved = await asyncio.to_thread(self._host.end_rest, node_id, waited > PATIENCE_S)
            if not proved:
                await asyncio.sleep(pause)
                waited += pause
                pause = min(1.0, pause * 2)
        await asyncio.to_thread(self._host.remove, node_id)
        if node.link is not None:
            node.link.close()
        del self._nodes[node_id]
        self._emit("node_closed", node_id)
        await self._processors.share()

    async def _agent_gone(self, node: _Node, patience_s: float) -> None:
        pause, waited = 0.001, 0.0
        while await asyncio.to_thread(self._host.lives, node.node_id):
            if waited >= patience_s:
                await asyncio.to_thread(self._host.end_agent, node.node_id)
            await asyncio.sleep(pause)
            waited += pause
            pause = min(0.1, pause * 2)

    def _sweep(self) -> None:
        left = self._host.sweep(list(self._nodes))
        if left:
            log.warning("cgroups that still hold processes: %s", ", ".join(left))

    # --- pieces

    def _reached(self) -> list[Reached]:
        return [
            # What stands still needs no processor of its own.
            Reached(key, 0 if n.parked else n.config["cpu_milli"], n.hello, n.link)
            for key, n in self._nodes.items()
            if n.link is not None and n.closing is None
        ]

    def _visited(self, node_id: str) -> tuple[int, Callable[[], socket.socket], AgentLink]:
        node, link = self._need(node_id)
        return node.hello["version"], partial(self._host.connect, node_id), link

    def _owner_on(self, node_id: str) -> int:
        node, _ = self._need(node_id)
        return 0 if self._host.own_files else node.hello["uid"]

    def _stays(self, node_id: str) -> bool:
        node = self._nodes.get(node_id)
        return node is not None and node.closing is None

    def _find(self, node_id: str) -> _Node | None:
        """The node as known, or as found on disk (an orphan of an earlier server)."""
        node = self._nodes.get(node_id)
        if node is None and _NODE_ID.fullmatch(node_id):
            config = self._host.config(node_id)
            if config is not None:
                node = self._nodes[node_id] = _Node(node_id, config)
        return node

    def _need(self, node_id: str) -> tuple[_Node, AgentLink]:
        node = self._find(node_id)
        if node is None:
            raise Unreachable(f"node {node_id} does not exist")
        if node.link is None or node.closing is not None:
            opening = "is opening" if node.opening else "has lost its agent"
            state = "is being closed" if node.closing else opening
            raise Unreachable(f"node {node_id} {state}")
        return node, node.link

    def _held(self, node: _Node) -> HeldNode:
        c = node.config
        granted = Vector(c["cpu_milli"], c["memory"], c["gpus"])
        alive = node.link is not None
        return HeldNode(node.node_id, alive, granted, words.limits(node.hello), words.handle(node.hello))

    def _emit_ready(self, node: _Node) -> None:
        limits, handle = words.limits(node.hello), words.handle(node.hello)
        self._emit("node_ready", node.node_id, limits=limits, handle=handle)

    def _emit(self, kind: str, node_id: str, **more: Any) -> None:
        at, mono = self._clock.now(), self._clock.boottime()
        self._events.put_nowait(EngineEvent(kind, node_id, at=at, mono=mono, **more))

    def _background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._jobs.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work on a node failed", exc_info=error)
