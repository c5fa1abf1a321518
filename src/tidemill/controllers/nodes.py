"""The nodes controller: opens and closes nodes at the engine, follows their lives, keeps their ledger rows.

A node's interval starts when the engine has it and ends at its observed close, or, if it was lost, at its
last fsynced heartbeat. Nodes the engine holds and the store does not know are orphans: they are closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from tidemill.app.computes import computes, egress
from tidemill.app.jobs import kept_nodes
from tidemill.app.jobs.transitions import Moment, close_intervals, node_in
from tidemill.app.rows.codec import encode
from tidemill.app.services import Services
from tidemill.app.waiting import wait_set
from tidemill.controllers.parking import Parking
from tidemill.domain.isolation import Limit, reached
from tidemill.domain.model import Event, Interval, Node, NodeState, Vector
from tidemill.domain.scheduling.capacity import elastic_grants
from tidemill.domain.scheduling.types import Host
from tidemill.domain.units import human_bytes, human_cpus, plural
from tidemill.engines.base import EngineError, EngineEvent, NodeSpec, Unreachable
from tidemill.store.api import Read, Tx

log = logging.getLogger("tidemill.nodes")

HEARTBEAT_S = 10.0
OPEN_DEADLINE_S = 60.0
SILENT_CHECKS = 2  # of the watchdog's sweeps
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between openings that fail, doubled each time


class Nodes:
    def __init__(
        self,
        services: Services,
        moment: Callable[[], Moment],
        host: Host,
        size_of: Callable[[str], Vector | None],
        parking: Parking,
    ) -> None:
        self._s = services
        self._parking = parking
        self._moment = moment
        self._host = host
        self._size_of = size_of  # compute uid -> full size of one of its nodes
        self._live: set[str] = set()
        self._lost_unseen: set[str] = set()  # lost while no server looked: since when is not known
        self._opening: set[str] = set()
        self._checking: set[str] = set()
        self._silent: dict[str, int] = {}  # checks in a row without an answer
        self._failed_opens: dict[str, int] = {}  # by compute: openings in a row that came to nothing
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._came = asyncio.Event()  # a node is being opened
        self._went = asyncio.Event()  # a node has closed
        self._background: set[asyncio.Task[None]] = set()
        self._heart: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------

    async def recover(self) -> None:
        """After a start: what the rows say and what the engine holds are brought together."""
        known = {node.id: node for node in await self._s.store.read(lambda r: r.live_nodes())}
        held = {node.node_id: node for node in await self._s.engine.held()}
        for node_id in held.keys() - known.keys():
            log.warning("node %s is held by the engine and known to nobody: closing it", node_id)
            await self._s.engine.close_node(node_id)
        for node in known.values():
            self._live.add(node.id)
            found = held.get(node.id)
            if node.state is NodeState.OPENING and (found is None or node.attempt_id):
                self.open(node)
            elif found is None:
                await self._gone(node.id, lost=True, message="The engine does not hold it any more.")
            elif node.state in (NodeState.CLOSING, NodeState.LOST) or not found.alive:
                if node.state is not NodeState.CLOSING:
                    self._lost_unseen.add(node.id)
                    await self._lost(node.id)
                self.close(node.id)
            elif node.state is NodeState.OPENING:
                await self._ready(node.id, self._s.clock.now(), found.limits, found.handle)
        self._heart = asyncio.create_task(self._beat(), name="node heartbeats")

    async def close_idle(self, seconds: float) -> None:
        """At a clean stop: nodes that run nothing are closed, so that nothing is left and nothing is billed.
        Nodes that run a job stay, and the job goes on. Waits at most `seconds` for the proof."""
        now = self._s.clock.now()
        leaving = await self._s.store.write(lambda tx: _leave_idle(tx, now))
        for node_id in leaving:
            self.close(node_id)
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._live.isdisjoint(leaving):
            self._went.clear()
            if not await wait_set(self._went, deadline - asyncio.get_running_loop().time()):
                log.warning("idle nodes are still closing; the next start finishes that")
                return

    async def stop(self) -> None:
        for handle in self._deadlines.values():
            handle.cancel()
        tasks = [*self._background, *([self._heart] if self._heart else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what others tell us -------------------------------------------------------------------

    def open(self, node: Node) -> None:
        """Opens it at the engine; a node that is being opened already is left to that."""
        if node.id in self._opening:
            return
        self._live.add(node.id)
        self._came.set()
        self._opening.add(node.id)
        self._spawn(self._open(node))

    def check(self, node: Node) -> None:
        """Asks its agent for a word. One that is silent for too long is lost: whatever ran there might go on,
        and end, without anybody being told."""
        if node.id not in self._checking:
            self._checking.add(node.id)
            self._spawn(self._check(node))

    def close(self, node_id: str) -> None:
        self._spawn(self._s.engine.close_node(node_id))

    async def on_engine_event(self, event: EngineEvent) -> None:
        if event.kind == "node_ready":
            await self._ready(event.node_id, event.at or self._s.clock.now(), event.limits, event.handle)
        elif event.kind == "node_lost":
            await self._lost(event.node_id, event.message)
            self.close(event.node_id)
        elif event.kind == "node_closed":
            await self._gone(event.node_id, lost=False, message="Closed; every process on it is gone.")

    # --- steps ---------------------------------------------------------------------------------

    async def _open(self, node: Node) -> None:
        failed = self._failed_opens.get(node.compute_uid, 0)
        if failed:  # the scheduler asks for another at once: one that fails again and again is paced
            await asyncio.sleep(min(FIRST_PAUSE_S * 2 ** (failed - 1), LONGEST_PAUSE_S))
            now = await self._s.store.read(lambda r: r.node(node.id))
            if now is None or now.state is not NodeState.OPENING:
                return
        loop = asyncio.get_running_loop()
        self._deadlines[node.id] = loop.call_later(OPEN_DEADLINE_S, self._opening_too_long, node.id)
        if node.attempt_id:
            return await self._wake(node)
        try:
            size = self._s.sizes.get(node.size)
            _, tags, _ = await self._s.store.read(lambda r: computes.bill_of(r, node.compute_uid))
            line = egress.line_of(tags, self._s.settings.egress)
            disk = size.disk if size else 0
            spec = NodeSpec(node.id, node.granted, node.gpu_ids, egress=line, disk=disk)
            await self._s.engine.open_node(spec)
        except EngineError as error:
            log.warning("node %s could not be opened: %s", node.id, error)
            await self._gone(node.id, lost=False, message=f"Could not be opened: {error}")

    async def _wake(self, node: Node) -> None:
        """One that was parked, with what it runs: a new interval of the ledger begins."""
        try:
            await self._s.engine.resize(node.id, node.granted)
            await self._parking.wake(node.id)
        except EngineError as error:  # its instance starts anew elsewhere
            log.warning("node %s could not be woken: %s", node.id, error)
            return self.close(node.id)
        when = self._moment()

        def change(tx: Tx) -> list[Node]:
            now = tx.node(node.id)
            if now is None or now.state is not NodeState.OPENING:
                return []
            now = tx.update_node(
                node_in(now, NodeState.IDLE, idle_since=when.at, heartbeat_at=when.at, ready_at=when.at)
            )
            held = _interval(tx, now, when, self._s.settings.region)
            tx.open_interval(replace(held, id=f"{node.id}:{when.at}"))
            tx.add_event(Event(node.id, "node", when.at, "NodeWoken", f"Node {node.id} goes on."))
            return self._share_out(tx, when.at)

        changed = await self._s.store.write(change)
        self._opened(node.id)
        return await self._resize(changed)

    async def _check(self, node: Node) -> None:
        try:
            await self._s.engine.resize(node.id, node.granted)
        except Unreachable as error:
            silent = self._silent.get(node.id, 0) + 1
            log.warning("node %s does not answer (%d of %d): %s", node.id, silent, SILENT_CHECKS, error)
            self._silent[node.id] = silent
            if silent >= SILENT_CHECKS:
                await self._lost(node.id)
                self.close(node.id)
        except EngineError as error:  # an answer
            log.warning("node %s: %s", node.id, error)
        else:
            self._silent.pop(node.id, None)
        finally:
            self._checking.discard(node.id)

    def _opening_too_long(self, node_id: str) -> None:
        self._deadlines.pop(node_id, None)
        log.warning("node %s was not ready within %.0f s: closing it", node_id, OPEN_DEADLINE_S)
        self.close(node_id)

    async def _ready(self, node_id: str, at: int, limits: Mapping[str, Limit], handle: bytes) -> None:
        when = self._moment()

        def change(tx: Tx) -> tuple[list[Node], str]:
            node = tx.node(node_id)
            if node is None or node.state is not NodeState.OPENING:
                return [], ""
            report = encode(
                {
                    name: {"enforced": r.enforced, "by": r.by, "why_not": r.why_not}
                    for name, r in limits.items()
                }
            )
            node = tx.update_node(
                node_in(
                    node,
                    NodeState.IDLE,
                    ready_at=when.at,
                    idle_since=when.at,
                    heartbeat_at=when.at,
                    limits=report,
                    handle=handle,
                )
            )
            tx.open_interval(_interval(tx, node, when, self._s.settings.region))
            tx.add_event(Event(node.id, "node", when.at, "NodeReady", _ready_sentence(node, limits)))
            return self._share_out(tx, when.at), node.compute_uid

        changed, compute_uid = await self._s.store.write(change)
        self._opened(node_id)
        self._failed_opens.pop(compute_uid, None)
        await self._resize(changed)

    def _opened(self, node_id: str) -> None:
        """Its opening is over, one way or the other."""
        self._opening.discard(node_id)
        deadline = self._deadlines.pop(node_id, None)
        if deadline is not None:
            deadline.cancel()

    def _share_out(self, tx: Tx, now: int) -> list[Node]:
        """Elastic capacity: every node gets min(its size, the host divided by the number of nodes).
        -> the nodes whose share changed."""
        if self._host.strict:
            return []
        away = (NodeState.CLOSING, NodeState.PARKED)
        nodes = {n.id: n for n in tx.live_nodes() if n.state not in away}
        sizes = {n.id: self._size_of(n.compute_uid) or n.granted for n in nodes.values()}
        changed: list[Node] = []
        for node_id, granted in elastic_grants(self._host, sizes).items():
            node = nodes[node_id]
            if node.granted == granted:
                continue
            changed.append(tx.update_node(replace(node, granted=granted)))
            tx.add_event(Event(node.id, "node", now, "NodeShare", _share_sentence(granted, len(nodes))))
        return changed

    async def _resize(self, nodes: list[Node]) -> None:
        for node in nodes:
            if node.state in (NodeState.IDLE, NodeState.RUNNING):
                try:
                    await self._s.engine.resize(node.id, node.granted)
                except EngineError as error:  # its old limits stay; the others get theirs
                    log.warning("node %s was not resized: %s", node.id, error)

    async def _lost(self, node_id: str, why: str = "") -> None:
        """`why` is the engine's sentence."""
        when = self._moment()

        def change(tx: Tx) -> tuple[str, str] | None:
            node = tx.node(node_id)
            if node is None or node.state in (NodeState.CLOSED, NodeState.LOST, NodeState.CLOSING):
                return None
            reason = why or "its agent does not answer"
            tx.update_node(node_in(node, NodeState.LOST, reason=f"{reason[:1].upper()}{reason[1:]}."))
            message = f"Node {node.id} was lost: {reason}. Its processes are being ended."
            tx.add_event(Event(node.id, "node", when.at, "NodeLost", message))
            tx.add_event(Event(node.compute_uid, "compute", when.at, "NodeLost", message))
            compute = tx.by_uid(node.compute_uid)
            return message, "" if compute is None else compute.key.scope.arm_id

        lost = await self._s.store.write(change)
        if lost is not None:
            message, scope = lost
            self._s.activity.system(
                when.at, "Tidemill.Server/nodes/lost/action", scope, f"nodes/{node_id}", message
            )

    async def _gone(self, node_id: str, *, lost: bool, message: str) -> None:
        when = self._moment()
        observed = not lost and node_id not in self._lost_unseen

        def change(tx: Tx) -> tuple[list[Node], str]:
            node = tx.node(node_id)
            if node is None or node.state is NodeState.CLOSED:
                return [], ""
            failed = node.compute_uid if node.ready_at is None and node.state is not NodeState.CLOSING else ""
            was_lost = lost or node.state is NodeState.LOST
            tx.update_node(node_in(node, NodeState.CLOSED, closed_at=when.at, attempt_id="", reason=message))
            close_intervals(tx, node_id, when, "NodeLost" if was_lost else "NodeClosed", observed)
            kept_nodes.node_gone(tx, node, when.at, when.mono)
            tx.add_event(Event(node_id, "node", when.at, "NodeClosed", message))
            tx.add_event(
                Event(node.compute_uid, "compute", when.at, "NodeClosed", f"Node {node_id}: {message}")
            )
            return self._share_out(tx, when.at), failed

        changed, failed = await self._s.store.write(change)
        self._opened(node_id)
        self._live.discard(node_id)
        self._went.set()
        self._silent.pop(node_id, None)
        self._lost_unseen.discard(node_id)
        if failed:
            self._failed_opens[failed] = self._failed_opens.get(failed, 0) + 1
        await self._resize(changed)

    async def _beat(self) -> None:
        while True:
            if not self._live:  # no timer while there is nothing to keep alive
                self._came.clear()
                await self._came.wait()
            await asyncio.sleep(HEARTBEAT_S)
            now = self._s.clock.now()
            try:
                await self._s.store.write(lambda tx: tx.heartbeat_intervals(self._beating(tx), now))  # noqa: B023
            except Exception:
                log.exception("a heartbeat could not be written")

    def _beating(self, read: Read) -> list[str]:
        """Open intervals, but for those of nodes that were lost while nobody looked: they end in the past."""
        held = read.intervals(open_only=True)
        return [interval.id for interval in held if interval.node_id not in self._lost_unseen]

    def _spawn(self, coroutine: object) -> None:
        task = asyncio.ensure_future(coroutine)  # type: ignore[arg-type]
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a node step failed", exc_info=task.exception())


def _interval(read: Read, node: Node, when: Moment, home_region: str) -> Interval:
    scope, tags, region = computes.bill_of(read, node.compute_uid)
    return Interval(
        id=node.id,
        kind="node",
        node_id=node.id,
        compute_uid=node.compute_uid,
        workspace=scope,
        size=node.size,
        tier=node.tier,
        region=region or home_region,
        started_at=when.at,
        started_mono=when.mono,
        boot_id=when.boot_id,
        last_seen_at=when.at,
        tags=tags,
    )


def _ready_sentence(node: Node, limits: Mapping[str, Limit]) -> str:
    loose = [name for name, report in limits.items() if not report.enforced]
    took = (node.ready_at or node.created_at) - node.created_at
    text = f"Node {node.id} is ready after {took / 1000:.0f} ms. Isolation: {reached(limits)}."
    if loose:
        text += f" Not enforced here: {', '.join(sorted(loose))}."
    return text


def _share_sentence(granted: Vector, count: int) -> str:
    return (
        f"Shares this host with {plural(count - 1, 'other node')}: "
        f"it has {human_cpus(granted.cpu_milli)} and {human_bytes(granted.memory)} now."
    )


def _leave_idle(tx: Tx, now: int) -> set[str]:
    """Marks every node as closing that does nothing -> their ids."""
    message = "The server was stopped, and this node ran nothing."
    left: set[str] = set()
    for node in tx.live_nodes():
        if node.state in (NodeState.IDLE, NodeState.PARKED):  # nobody could wake it meanwhile
            tx.update_node(node_in(node, NodeState.CLOSING, reason=message))
            tx.add_event(Event(node.id, "node", now, "NodeClosing.ServerStopped", message))
            left.add(node.id)
    return left
