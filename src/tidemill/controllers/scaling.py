"""Autoscaling: what the gateway and the nodes measure becomes the number of instances of a deployment.

Only deployments with TARGET_UTILIZATION are looked at, each by its own polling interval; one that sleeps is
not, until the gateway holds a request for it. What was measured is in memory alone: after a restart it
begins anew, so it errs towards more.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tidemill.app import routes
from tidemill.app.codec import encode
from tidemill.app.endpoint_rows import DEPLOYMENTS, deployment_status, event
from tidemill.app.services import Services
from tidemill.controllers.deployments import wanted_of
from tidemill.domain.model import Resource
from tidemill.domain.serving.model import TARGET_UTILIZATION, DeploymentSpec, Provisioning
from tidemill.domain.serving.scaling import Memory, Policy, Sample, Scaled, scale
from tidemill.domain.units import plural
from tidemill.store.api import Read, ResourceQuery, Tx

log = logging.getLogger("tidemill.scaling")

SECOND = 1_000_000
CALM_US = 60 * SECOND


@dataclass(slots=True)
class _Watched:
    """What is known of one deployment."""

    memory: Memory = field(default_factory=Memory)
    in_flight: float = 0.0
    held: int = 0
    last_at: int = 0
    cpu: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])  # by node: (at, used)
    task: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Scaling:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._watched: dict[str, _Watched] = {}

    async def start(self) -> None:
        rows = await self._s.store.read(lambda read: read.find(ResourceQuery(DEPLOYMENTS)))
        for row in rows:
            self.changed(row.uid)

    async def stop(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self, uid: str) -> None:
        """A deployment's row: whether it scales is seen by who follows it."""
        watched = self._watched.setdefault(uid, _Watched())
        if watched.task is None:
            watched.task = asyncio.create_task(self._follow(uid, watched), name=f"scaling {uid}")
        watched.news.set()

    def on_report(self, report: dict[str, Any]) -> None:
        """Of the gateway; see controllers/routing.py."""
        held = cast(dict[str, Any], report.get("held") or {})
        measured = cast(dict[str, Any], report.get("deployments") or {})
        for uid, watched in self._watched.items():
            before = watched.held
            watched.held = int(held.get(uid) or 0)
            if uid in measured:
                watched.in_flight = float(measured[uid].get("in_flight") or 0)
                watched.last_at = max(watched.last_at, int(measured[uid].get("last_at") or 0))
            if watched.held > before:
                watched.news.set()

    async def _follow(self, uid: str, watched: _Watched) -> None:
        while True:
            watched.news.clear()
            pause: float | None = 1.0
            try:
                pause = await self._look(uid, watched)
            except Exception:
                log.exception("deployment %s could not be scaled; again in 1 s", uid)
            if pause is not None and pause < 0:
                if watched.news.is_set():
                    continue
                del self._watched[uid]
                return
            try:
                async with asyncio.timeout(pause):
                    await watched.news.wait()
            except TimeoutError:
                pass

    async def _look(self, uid: str, watched: _Watched) -> float | None:
        """-> seconds until the next look, None: not before there is news, -1: never."""
        found = await self._s.store.read(lambda read: _see(read, uid))
        if found is None:
            return -1
        row, spec, wanted, nodes = found
        if row.state in (Provisioning.CREATING, Provisioning.UPDATING):
            return spec.scale.polling_s
        now = self._s.clock.now()
        load = max(watched.in_flight, float(watched.held))
        sample = Sample(now, load, self._cpu(watched, nodes, now), watched.held, watched.last_at)
        done = scale(_policy(spec), wanted, sample, watched.memory)
        watched.memory = done.memory
        if done.wanted != wanted:
            await self._s.store.write(lambda tx: _write(tx, uid, wanted, done, now))
        return None if done.wanted == 0 and not watched.held else spec.scale.polling_s

    def _cpu(self, watched: _Watched, nodes: dict[str, int], now: int) -> float | None:
        """Instances' CPU in use since the last look; None where it is not counted, or was not before."""
        before, watched.cpu = watched.cpu, {}
        used, known = 0.0, False
        for node_id, milli in nodes.items():
            total = self._s.engine.cpu_used(node_id)
            if total is None:
                continue
            watched.cpu[node_id] = now, total
            if node_id in before and now > before[node_id][0] and milli:
                at, earlier = before[node_id]
                used += max(0.0, (total - earlier) / (now - at) * 1000 / milli)
                known = True
        return used if known else None


def _serving(row: Resource) -> DeploymentSpec | None:
    """What its instances are, or are to be; None where they are not scaled."""
    status = deployment_status(row)
    failed = row.state == Provisioning.FAILED and status.serving_generation != status.generation
    spec = status.serving.spec if failed and status.serving is not None else status.plan.spec
    if row.state == Provisioning.DELETING or spec.scale.kind != TARGET_UTILIZATION:
        return None
    return None if failed and not status.serving_generation else spec


def _see(read: Read, uid: str) -> tuple[Resource, DeploymentSpec, int, dict[str, int]] | None:
    """-> (its row, what it is to be, instances now wanted, thousandths of a core by node that answers)."""
    row = read.by_uid(uid)
    spec = _serving(row) if row is not None else None
    if row is None or spec is None:
        return None
    nodes = (read.node(target.node) for target in routes.backend(read, row).instances)
    sizes = {node.id: node.granted.cpu_milli for node in nodes if node is not None}
    return row, spec, wanted_of(spec, deployment_status(row), proved=True), sizes


def _policy(spec: DeploymentSpec) -> Policy:
    settings = spec.scale
    return Policy(
        settings.minimum,
        settings.maximum,
        settings.target_percent,
        spec.request.max_concurrent,
        settings.target_requests,
        round(settings.idle_s * SECOND),
        CALM_US,
    )


def _write(tx: Tx, uid: str, wanted: int, done: Scaled, now: int) -> None:
    row = tx.by_uid(uid)
    spec = _serving(row) if row is not None else None
    if row is None or spec is None:
        return
    status = deployment_status(row)
    if wanted_of(spec, status, proved=True) != wanted:  # somebody has asked for something else meanwhile
        return
    tx.add_event(event(row, now, "Scaled", f"{plural(done.wanted, 'instance')} from now on: {done.why}."))
    tx.update(replace(row, status=encode(replace(status, scaled=done.wanted))))
