"""Autoscaling: what the gateway and the nodes measure becomes the number of instances of a deployment.

Only deployments that are scaled (app.serving.scaled) are looked at, each by its own polling interval; one
that sleeps is not, until the gateway holds a request for it. What was measured is in memory alone: after a
restart it begins anew, so it errs towards more.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tidemill.app.rows.codec import encode
from tidemill.app.rows.endpoint_rows import (
    DEPLOYMENTS,
    deployment_status,
    deployments_of,
    event,
    find_endpoint,
)
from tidemill.app.services import Services
from tidemill.app.serving import routes
from tidemill.app.serving.scaled import Bounds, bounds_of
from tidemill.domain.model import Resource
from tidemill.domain.serving.autoscale import CPU, REQUESTS
from tidemill.domain.serving.model import DeploymentSpec, Provisioning
from tidemill.domain.serving.rules import Asked, Reading, ask
from tidemill.domain.serving.scaling import Memory, Policy, Sample, scale
from tidemill.domain.units import plural
from tidemill.store.api import Read, ResourceQuery, Tx

log = logging.getLogger("tidemill.scaling")

SECOND = 1_000_000
CALM_US = 60 * SECOND
PROFILE_S = 15.0  # between looks at which profile holds
# The gateway's names of latencies, and Azure's.
_METRICS = {
    "mean_ms": "RequestLatency",
    "p50_ms": "RequestLatency_P50",
    "p90_ms": "RequestLatency_P90",
    "p95_ms": "RequestLatency_P95",
    "p99_ms": "RequestLatency_P99",
}


@dataclass(slots=True)
class _Watched:
    """What is known of one deployment."""

    memory: Memory = field(default_factory=Memory)
    in_flight: float = 0.0
    held: int = 0
    last_at: int = 0
    measured: dict[str, float] = field(default_factory=dict[str, float])  # by the gateway's names
    readings: list[Reading] = field(default_factory=list[Reading])
    changed_at: int = 0
    cpu: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])  # by node: (at, used)
    task: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One reading of a deployment that is scaled. `nodes`: thousandths of a core, by node that answers;
    `siblings`: uids of all deployments of its endpoint."""

    row: Resource
    spec: DeploymentSpec
    bounds: Bounds
    wanted: int
    nodes: dict[str, int]
    siblings: tuple[str, ...]


class Scaling:
    def __init__(self, services: Services) -> None:
        self._s = services
        self._watched: dict[str, _Watched] = {}
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        rows = await self._s.store.read(lambda read: read.find(ResourceQuery(DEPLOYMENTS)))
        for row in rows:
            self.changed(row.uid)

    async def stop(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        tasks += [self._starting] if self._starting is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self, uid: str) -> None:
        """A deployment's row: whether it scales is seen by who follows it."""
        watched = self._watched.setdefault(uid, _Watched())
        if watched.task is None:
            watched.task = asyncio.create_task(self._follow(uid, watched), name=f"scaling {uid}")
        watched.news.set()

    def settings_changed(self) -> None:
        """An autoscale setting: a deployment that was not scaled may be now."""
        self._starting = asyncio.create_task(self.start())

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
                numbers = cast(dict[str, Any], measured[uid]).items()
                watched.measured = {k: float(v) for k, v in numbers if isinstance(v, int | float)}
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
        found = await self._s.store.read(lambda read: _see(read, uid, self._s.clock.now()))
        if found is None:
            return -1
        if found.row.state in (Provisioning.CREATING, Provisioning.UPDATING):
            return found.spec.scale.polling_s
        now = self._s.clock.now()
        cpu = self._cpu(watched, found.nodes, now)
        memory, done = watched.memory, self._by_setting(watched, found, cpu, now)
        if done is None:
            load = max(watched.in_flight, float(watched.held))
            sample = Sample(now, load, cpu, watched.held, watched.last_at)
            scaled = scale(_policy(found.spec, found.bounds), found.wanted, sample, memory)
            watched.memory, done = scaled.memory, Asked(scaled.wanted, scaled.why)
        if done.wanted != found.wanted:
            watched.changed_at = now
            await self._s.store.write(lambda tx: _write(tx, uid, found.wanted, done, now))
        profile = found.bounds.profile
        if profile is not None:
            return min((rule.trigger.grain_s / 4 for rule in profile.rules), default=PROFILE_S)
        return None if done.wanted == 0 and not watched.held else found.spec.scale.polling_s

    def _by_setting(self, watched: _Watched, found: _Seen, cpu: float | None, now: int) -> Asked | None:
        """What its autoscale setting asks for; None where it has none, or what it may not decide: a sleeping
        deployment is awake with the first request, by whatever rules."""
        profile = found.bounds.profile
        if profile is None:
            watched.readings = []
            return None
        if found.wanted == 0:
            return Asked(1, "a request came while it slept") if watched.held else Asked(0)
        own = {_METRICS[k]: v for k, v in watched.measured.items() if k in _METRICS}
        if "rate" in watched.measured:
            own[REQUESTS] = watched.measured["rate"] * 60
        if cpu is not None:
            own[CPU] = cpu * 100 / max(len(found.nodes), 1)
        watched.readings.append(Reading(now, own, self._of_endpoint(found, own)))
        spans = (rule.trigger.window_s + 2 * rule.trigger.grain_s for rule in profile.rules)
        oldest = now - round(max(spans, default=0.0) * SECOND)
        watched.readings = [one for one in watched.readings if one.at >= oldest]
        return ask(profile, found.wanted, watched.readings, watched.changed_at, now)

    def _of_endpoint(self, found: _Seen, own: dict[str, float]) -> dict[str, float]:
        """Of all its deployments: requests together, latencies by how many each answers."""
        all_ = [w.measured for uid in found.siblings if (w := self._watched.get(uid)) is not None]
        total = sum(one.get("rate", 0.0) for one in all_)
        together = {**own, REQUESTS: total * 60}
        for name, metric in _METRICS.items():
            known = [(one["rate"], one[name]) for one in all_ if one.get("rate") and name in one]
            if known:
                together[metric] = sum(rate * ms for rate, ms in known) / sum(rate for rate, _ in known)
        return together

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
    """What its instances are, or are to be; None where nothing of it is to be scaled."""
    status = deployment_status(row)
    failed = row.state == Provisioning.FAILED and status.serving_generation != status.generation
    if row.state == Provisioning.DELETING or (failed and not status.serving_generation):
        return None
    return status.serving.spec if failed and status.serving is not None else status.plan.spec


def _see(read: Read, uid: str, now: int) -> _Seen | None:
    row = read.by_uid(uid)
    spec = _serving(row) if row is not None else None
    if row is None or spec is None:
        return None
    bounds = bounds_of(read, row, spec, now)
    if bounds is None:
        return None
    targets = routes.backend(read, row, now).instances
    nodes = (read.node(target.node) for target in targets)
    sizes = {node.id: node.granted.cpu_milli for node in nodes if node is not None}
    endpoint = find_endpoint(read, row.key.scope, row.key.parent)
    siblings = tuple(one.uid for one in deployments_of(read, endpoint))
    status = deployment_status(row)
    wanted = spec.instances if status.scaled is None else status.scaled  # it may be out of its bounds
    return _Seen(row, spec, bounds, wanted, sizes, siblings)


def _policy(spec: DeploymentSpec, bounds: Bounds) -> Policy:
    settings = spec.scale
    return Policy(
        bounds.minimum,
        bounds.maximum,
        settings.target_percent,
        spec.request.max_concurrent,
        settings.target_requests,
        round(settings.idle_s * SECOND),
        CALM_US,
    )


def _write(tx: Tx, uid: str, wanted: int, done: Asked, now: int) -> None:
    seen = _see(tx, uid, now)
    if seen is None or seen.wanted != wanted:  # somebody has asked for something else meanwhile
        return
    text = f"{plural(done.wanted, 'instance')} from now on: {done.why}."
    tx.add_event(event(seen.row, now, "Scaled", text))
    status = replace(deployment_status(seen.row), scaled=done.wanted)
    tx.update(replace(seen.row, status=encode(status)))
