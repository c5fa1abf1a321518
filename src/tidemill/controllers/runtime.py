"""What happens without being asked: started with the server, woken by commits and engine events."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from tidemill.app.jobs import notice_sending, notices
from tidemill.app.jobs.transitions import Moment
from tidemill.app.rows.container_rows import GROUPS
from tidemill.app.rows.endpoint_rows import AUTOSCALE, DEPLOYMENTS, ENDPOINTS
from tidemill.app.rows.package_rows import PACKAGES
from tidemill.app.schedules import schedule_runs, schedules
from tidemill.app.services import Services
from tidemill.controllers.attempts import Attempts
from tidemill.controllers.bayesian import Bayesian
from tidemill.controllers.cleaning import Cleaner
from tidemill.controllers.composites import Carrier, Composites
from tidemill.controllers.container_groups import ContainerGroups
from tidemill.controllers.deletions import Deletions
from tidemill.controllers.deployments import Deployments
from tidemill.controllers.due import DueRows
from tidemill.controllers.environments import Environments
from tidemill.controllers.kept import Kept
from tidemill.controllers.nodes import Nodes
from tidemill.controllers.packages import Packages
from tidemill.controllers.parking import Parking
from tidemill.controllers.pipelines import Pipelines
from tidemill.controllers.pool import COMPUTES, Pool
from tidemill.controllers.routing import Routing
from tidemill.controllers.scaling import Scaling
from tidemill.controllers.sweeps import Sweeps
from tidemill.controllers.watchdog import Watchdog
from tidemill.domain.errors import OutOfSpace
from tidemill.domain.model import Touched, Vector
from tidemill.domain.plan import PIPELINE, SWEEP
from tidemill.domain.scheduling.types import Host
from tidemill.engines.base import EngineEvent

log = logging.getLogger("tidemill.runtime")

CLOSE_IDLE_S = 3.0

FULL_PAUSE_S = 1.0
SCHEDULES_AT_ONCE = 50
NOTICES_AT_ONCE = 4


@dataclass(slots=True)
class Runtime:
    services: Services
    pool: Pool
    nodes: Nodes
    attempts: Attempts
    environments: Environments
    composites: Composites
    deletions: Deletions
    cleaner: Cleaner
    watchdog: Watchdog
    schedules: DueRows
    routing: Routing
    deployments: Deployments
    kept: Kept
    scaling: Scaling
    notices: DueRows
    parking: Parking
    packages: Packages
    container_groups: ContainerGroups
    _events: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Lets go of everything that runs, in the order that starts nothing new; closes what runs nothing."""
        await self.watchdog.stop()
        await self.schedules.stop()
        await self.kept.stop()
        await self.parking.stop()
        await self.notices.stop()
        await self.packages.stop()
        await self.pool.stop()
        await self.nodes.close_idle(CLOSE_IDLE_S)
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
        await self.scaling.stop()
        await self.deployments.stop()
        await self.container_groups.stop()
        await self.routing.stop()
        await self.composites.stop()
        await self.environments.stop()
        await self.deletions.stop()
        await self.cleaner.stop()
        await self.attempts.stop()
        await self.nodes.stop()
        await self.services.engine.detach()

    def on_commit(self, touched: frozenset[Touched]) -> None:
        self.watchdog.wake()
        for item in touched:
            self.pool.touched(item.kind, item.uid)
            if item.kind in COMPUTES:
                self.deletions.compute_changed()
            elif item.kind in ("node", "resource:jobs"):
                self.deletions.node_changed()
            if item.kind == "node":
                self.parking.node_changed()
            if item.kind == "resource:jobs":
                self.composites.job_changed(item.uid)
                self.kept.job_changed(item.uid)
                self.container_groups.job_changed(item.uid)
                if self.deployments.job_changed(item.uid):
                    self.routing.changed()
            elif item.kind == f"resource:{GROUPS}":
                self.container_groups.wake(item.uid)
            elif item.kind == f"resource:{DEPLOYMENTS}":
                self.deployments.wake(item.uid)
                self.scaling.changed(item.uid)
                self.routing.changed()
            elif item.kind == f"resource:{ENDPOINTS}":
                self.routing.changed()
            elif item.kind == f"resource:{AUTOSCALE}":
                self.routing.changed()
                self.deployments.settings_changed()
                self.scaling.settings_changed()
            elif item.kind == f"resource:{schedules.TYPE}":
                self.schedules.changed()
            elif item.kind == f"resource:{notices.TYPE}":
                self.notices.changed()
            elif item.kind == f"resource:{PACKAGES}":
                self.packages.changed(item.uid)

    async def _tell_nodes(self, event: EngineEvent) -> None:
        """What becomes of a node is told once: on a full disk it is written as soon as there is space."""
        while True:
            try:
                return await self.nodes.on_engine_event(event)
            except OutOfSpace as error:
                log.warning("node %s: %s", event.node_id, error)
                await asyncio.sleep(FULL_PAUSE_S)

    async def follow_engine(self) -> None:
        async for event in self.services.engine.events():
            # Each by itself: what went wrong with a node must not keep its attempts from learning of it.
            try:
                if event.kind.startswith("node_"):
                    await self._tell_nodes(event)
            except Exception:
                log.exception("engine event %s of %s", event.kind, event.node_id)
            try:
                self.attempts.on_engine_event(event)
            except Exception:
                log.exception("engine event %s of %s: its attempts", event.kind, event.node_id)


async def start(services: Services) -> Runtime:
    """Brings rows and reality together, then starts deciding."""
    capacity = await services.engine.capacity()
    host = Host(capacity.total, capacity.gpu_ids, services.settings.capacity)
    boot_id = read_boot_id()

    def moment() -> Moment:
        return Moment(services.clock.now(), services.clock.boottime(), boot_id)

    def size_of(compute_uid: str) -> Vector | None:
        return pool.size_of(compute_uid)

    parking = Parking(services, lambda node_id: nodes.close(node_id))
    nodes = Nodes(services, moment, host, size_of, parking)
    cleaner = Cleaner(services.engine)
    kept = Kept(services, cleaner)
    attempts = Attempts(services, moment, cleaner, kept)
    environments = Environments(services)
    pool = Pool(
        services, moment, host, attempts.take, nodes.open, nodes.close, environments.follow, attempts.stop_job
    )
    composites = Composites(services, carriers(services))
    deletions = Deletions(services)
    routing = Routing(services)
    deployments = Deployments(services, routing)
    scaling = Scaling(services)
    services.live.routed = routing.settled
    routing.on_news = deployments.router_news
    routing.on_report = scaling.on_report
    container_groups = ContainerGroups(services)
    carried = (deployments, container_groups)
    watchdog = Watchdog(services, pool, attempts, nodes, environments, composites, deletions, carried)
    runtime = Runtime(
        services,
        pool,
        nodes,
        attempts,
        environments,
        composites,
        deletions,
        cleaner,
        watchdog,
        DueRows(services, schedules.TYPE, SCHEDULES_AT_ONCE, schedule_runs.run_due),
        routing,
        deployments,
        kept,
        scaling,
        DueRows(services, notices.TYPE, NOTICES_AT_ONCE, notice_sending.send),
        parking,
        Packages(services),
        container_groups,
    )
    cleaner.start()
    await nodes.recover()
    live = await services.store.read(lambda r: r.live_attempts())
    for attempt in live:
        attempts.take(attempt)
    await services.engine.keep_dirs({attempt.id for attempt in live} | await kept.load())
    services.store.on_commit(runtime.on_commit)
    runtime._events = asyncio.create_task(runtime.follow_engine(), name="engine events")
    await pool.start()
    await runtime.environments.start()
    await runtime.composites.start()
    await runtime.deletions.start()
    await runtime.routing.start()
    await runtime.deployments.start()
    await container_groups.start()
    await runtime.scaling.start()
    runtime.schedules.start()
    kept.start()
    runtime.notices.start()
    parking.start()
    await runtime.packages.start()
    watchdog.start()
    return runtime


def carriers(services: Services) -> dict[str, Carrier]:
    """By the kind of job that each carries."""
    return {PIPELINE: Pipelines(services), SWEEP: Sweeps(services, Bayesian())}


def read_boot_id() -> str:
    """Tells apart the monotonic clocks of two boots; "" where the kernel does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
