"""From what a deployment is to be to instances that answer, and back: `domain.serving.deciding` decides.

One deployment is carried by one task at a time, woken by commits on its row or on one of its instances. All
that a decision changes is one commit, made of the rows as they then are; a kill at any instant loses nothing
and starts nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tidemill.app.computes import implicit_computes
from tidemill.app.jobs.owned_rows import Told
from tidemill.app.jobs.transitions import Moment, job_event
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.rows.endpoint_rows import DEPLOYMENTS, deployment_status, event
from tidemill.app.services import Services
from tidemill.app.serving import instances, parked, routes
from tidemill.app.serving.online_deployments import finish_deletion
from tidemill.app.serving.scaled import Bounds, bounds_of, wanted_of
from tidemill.controllers import ended_children
from tidemill.controllers.carrying import Carrying
from tidemill.domain.model import JobState, Resource
from tidemill.domain.serving import deciding
from tidemill.domain.serving.deciding import Drain, Park, Serve, Start, Stop, Wake
from tidemill.domain.serving.model import DeploymentSpec, Provisioning
from tidemill.domain.serving.plan import DeploymentPlan, DeploymentStatus
from tidemill.domain.serving.routes import Backend
from tidemill.domain.settling import Fail, Finish, Gone
from tidemill.domain.units import plural
from tidemill.store.api import Read, ResourceQuery, Tx

SECOND = 1_000_000
DRAIN_MARGIN_S = 5.0  # beyond the longest that a request may take


class Router(Protocol):
    """What the gateway knows and does. See controllers/routing.py."""

    def changed(self) -> None:
        """Rows that it goes by have changed."""
        ...

    def is_current(self, backend: Backend) -> bool:
        """Whether the gateway serves a deployment as it is here."""
        ...

    def is_quiet(self, instance_uid: str) -> bool:
        """Whether the gateway sends no more requests to that instance, and has none under way."""
        ...


class Deployments:
    def __init__(self, services: Services, router: Router) -> None:
        self._s = services
        self._router = router
        self._owner: dict[str, str] = {}  # deployment by instance: whose commits are ours to look at
        self._waiting: set[str] = set()  # deployments for which the gateway may be waited for
        self._carrying = Carrying(services, "deployment", self._look)
        self._looks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.look_again()

    async def stop(self) -> None:
        for task in self._looks:
            task.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
        await self._carrying.stop()

    async def look_again(self) -> None:
        """At the start, and a net under the wake-ups."""
        for row in await self._s.store.read(lambda read: read.find(ResourceQuery(DEPLOYMENTS))):
            self.wake(row.uid)

    def settings_changed(self) -> None:
        """An autoscale setting: how many instances a deployment may have."""
        task = asyncio.create_task(self.look_again())
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    def job_changed(self, uid: str) -> bool:
        """-> whether it is an instance of a deployment."""
        owner = self._owner.get(uid)
        if owner is not None:
            self.wake(owner)
        return owner is not None

    def router_news(self) -> None:
        for uid in self._waiting:
            self.wake(uid)

    def wake(self, uid: str) -> None:
        """Something of this deployment has changed."""
        self._carrying.wake(uid)

    async def _look(self, uid: str) -> int | None:
        """Decides until nothing is to be done -> when to look again at the latest."""
        while True:
            now = self._s.clock.now()
            seen = await self._s.store.read(lambda read: _see(read, uid, now))  # noqa: B023
            if seen is None:
                self._waiting.discard(uid)
                return None
            for row in seen.instances:
                self._owner[row.uid] = uid
            (self._waiting.discard if _is_settled(seen) else self._waiting.add)(uid)
            decided = self._decide(seen, now)
            if not decided.decisions:
                await self._prune(seen)
                return decided.again_at
            drafts = self._drafts(seen, decided, now)
            self._owner.update({row.uid: uid for rows in drafts.values() for row, _ in rows})
            if Gone() in decided.decisions:
                await ended_children.remove_logs(self._s, seen.instances)
            gone = await self._s.store.write(
                lambda tx: self._carry_out(tx, uid, decided, drafts, now)  # noqa: B023
            )
            self._router.changed()
            if gone:
                self._forget(gone)
                return None

    async def _prune(self, seen: Seen) -> None:
        """Ended instances whose logs nobody needs any more, with their logs."""
        uids = deciding.superseded(self._view(seen))
        if not uids:
            return
        gone = [row for row in seen.instances if row.uid in uids]
        await ended_children.remove(self._s, gone)
        self._forget(gone)

    def _forget(self, gone: Sequence[Resource]) -> None:
        for row in gone:
            self._owner.pop(row.uid, None)

    def _decide(self, seen: Seen, now: int) -> deciding.Decided:
        return deciding.decide(self._view(seen), now)

    def _view(self, seen: Seen) -> deciding.Deployment:
        status = deployment_status(seen.row)
        serving = status.serving or status.plan
        proved = status.serving_generation == status.generation
        quiet = self._router.is_quiet
        return deciding.Deployment(
            seen.row.state,
            status.generation,
            wanted_of(status.plan.spec, status, seen.bounds, proved=proved),
            status.serving_generation,
            wanted_of(serving.spec, status, seen.serving_bounds, proved=True),
            [instances.as_seen(row, quiet(row.uid)) for row in seen.instances],
            seen.row.modified_at,
            self._router.is_current(seen.backend),
            round((serving.spec.request.timeout_s + DRAIN_MARGIN_S) * SECOND),
            seen.serving_bounds is not None and self._parks(serving.spec),
            seen.bounds is not None,
        )

    def _parks(self, spec: DeploymentSpec) -> bool:
        """What holds a GPU's memory would hold the GPU."""
        size = self._s.sizes.get(spec.instance_type)
        may = spec.scale.parks and self._s.settings.parked_memory > 0
        return may and size is not None and not size.gpus

    def _drafts(self, seen: Seen, decided: deciding.Decided, now: int) -> Drafts:
        """Rows of the instances to start, by generation: what they need to be made is looked up here."""
        status = deployment_status(seen.row)
        return {
            one.generation: [
                instances.new_row(
                    self._s, seen.row, plan_of(status, one.generation), one.generation, one.why, now
                )
                for _ in range(one.count)
            ]
            for one in decided.decisions
            if isinstance(one, Start)
        }

    def _carry_out(
        self, tx: Tx, uid: str, decided: deciding.Decided, drafts: Drafts, now: int
    ) -> Sequence[Resource]:
        """If it is still what the rows ask for. -> the instances of a deployment that is gone."""
        seen = _see(tx, uid, now)
        if seen is None or self._decide(seen, now) != decided:
            return ()
        row, by_uid = seen.row, {one.uid: one for one in seen.instances}
        status = deployment_status(row)
        for one in decided.decisions:
            match one:
                case Start():
                    _start(tx, row, drafts[one.generation], one, now)
                case Drain():
                    for instance in one.uids:
                        instances.drain(tx, by_uid[instance], one.why, now)
                case Stop():
                    for instance in one.uids:
                        instances.stop(tx, by_uid[instance], one.why, now)
                case Park():
                    when = Moment(now, self._s.clock.boottime(), "")
                    parked.park(tx, by_uid[one.uid], one.why, when)
                case Wake():
                    _make_room(tx, row, 0, now)
                    tx.add_event(event(row, now, "Waking", f"Its parked instance goes on: {one.why}."))
                    parked.wake(tx, by_uid[one.uid], one.why, now)
                case Serve():
                    status = replace(status, serving=None, serving_generation=status.generation, error=None)
                    tx.add_event(event(row, now, "Serving", one.message))
                    row = tx.update(replace(row, status=encode(status)))
                case Finish():
                    tx.add_event(event(row, now, Provisioning.SUCCEEDED, one.message))
                    status = replace(status, error=None)
                    row = tx.update(replace(row, state=Provisioning.SUCCEEDED, status=encode(status)))
                case Fail():
                    tx.add_event(event(row, now, Provisioning.FAILED, one.error.message))
                    status = replace(status, error=one.error)
                    row = tx.update(replace(row, state=Provisioning.FAILED, status=encode(status)))
                case Gone():
                    for instance in seen.instances:
                        tx.delete(instance)
                    finish_deletion(tx, row, now)
                    return seen.instances
        return ()


Drafts = dict[int, list[tuple[Resource, Told]]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One reading of a deployment and its instances."""

    row: Resource
    instances: Sequence[Resource]
    backend: Backend  # as the route table is to have it
    bounds: Bounds | None  # of what was asked for last
    serving_bounds: Bounds | None  # of what serves meanwhile


def _see(read: Read, uid: str, now: int) -> Seen | None:
    row = read.by_uid(uid)
    if row is None:
        return None
    status = deployment_status(row)
    serving = (status.serving or status.plan).spec
    return Seen(
        row,
        instances.of_deployment(read, row),
        routes.backend(read, row, now),
        bounds_of(read, row, status.plan.spec, now),
        bounds_of(read, row, serving, now),
    )


def _is_settled(seen: Seen) -> bool:
    """Nothing of it waits for the gateway."""
    status = {one.uid: job_status(one.status) for one in seen.instances if not JobState(one.state).final}
    draining = any(s.instance is not None and s.instance.draining_at is not None for s in status.values())
    return seen.row.state in (Provisioning.SUCCEEDED, Provisioning.FAILED) and not draining


def plan_of(status: DeploymentStatus, generation: int) -> DeploymentPlan:
    """Of the generation that was asked for, or of the one that serves meanwhile."""
    if generation == status.generation or status.serving is None:
        return status.plan
    return status.serving


def _start(tx: Tx, row: Resource, drafts: Sequence[tuple[Resource, Told]], start: Start, now: int) -> None:
    _make_room(tx, row, start.count, now)
    tx.add_event(event(row, now, "Starting", f"Starts {plural(start.count, 'instance')}: {start.why}."))
    for draft, told in drafts:
        tx.insert(draft)
        for code, message in told:
            tx.add_event(job_event(draft, now, code, message))


def _make_room(tx: Tx, row: Resource, count: int, now: int) -> None:
    """For so many instances beside those that are there."""
    live = [one for one in instances.of_deployment(tx, row) if not JobState(one.state).final]
    implicit_computes.resize(tx, row, 0, len(live) + count, now)
