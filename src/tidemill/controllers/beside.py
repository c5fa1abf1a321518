"""Starting a job's services once its command has started. Nothing of this ever fails the job."""

from __future__ import annotations

import asyncio
import logging

from tidemill.app.jobs import job_services
from tidemill.app.jobs.job_services import FAILED, RUNNING, ServiceState
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.domain.jobservices import SSH, Placed, command
from tidemill.domain.launch import first_rank_on
from tidemill.domain.model import Attempt, Event, JobState, Resource
from tidemill.engines.base import EngineError, TaskKey, Unready
from tidemill.store.api import Tx

READY_S, PAUSE_S = 10.0, 0.05  # for the job's sandbox to be made
WATCHED_S, LOOK_S = 60.0, 0.25  # until each of them answers, or has said why not
log = logging.getLogger("tidemill.controllers")


async def start_services(s: Services, row: Resource, attempt: Attempt, node: int) -> None:
    """Of one node. Starting again what was started before changes nothing."""
    plan = job_status(row.status).plan
    places = [place for place in job_services.placed_of(s, plan) if place.node == node]
    key = TaskKey(attempt.id, first_rank_on(plan.job, node))
    root = s.engine.work_dir(attempt.nodes[node], attempt.id)
    try:
        for place in places:
            await _start(s, attempt.nodes[node], key, place, root)
        await _tell(s, row, node, len(places))
    except EngineError as error:
        log.info("services of job %s: %s", row.key.name, error)
        for place in places:
            await _record(s, row, place, f" does not run: {error}.")


async def _start(s: Services, node_id: str, key: TaskKey, place: Placed, root: str) -> None:
    argv = command(place, root)
    until = asyncio.get_running_loop().time() + READY_S
    while argv:
        try:
            return await s.engine.start_beside(node_id, key, place.service.name, argv, f"{root}/{place.log}")
        except Unready:
            if asyncio.get_running_loop().time() > until:
                raise
            await asyncio.sleep(PAUSE_S)


async def _tell(s: Services, row: Resource, node: int, count: int) -> None:
    """Once for each: that it runs, or why it does not."""
    told: set[str] = set()
    until = asyncio.get_running_loop().time() + WATCHED_S
    while len(told) < count and asyncio.get_running_loop().time() < until:
        now = await s.store.read(lambda r: r.by_uid(row.uid))
        if now is None or JobState(now.state).final:
            return
        for state in await job_services.states(s, now, node):
            name = state.place.service.name
            if name not in told and state.status in (RUNNING, FAILED):
                told.add(name)
                await _record(s, row, state.place, _sentence(state), state.status == RUNNING)
        await asyncio.sleep(LOOK_S)


def _sentence(state: ServiceState) -> str:
    if state.status != RUNNING:
        return f" does not run: {state.error}."
    return f": {state.reach}" if state.place.service.type == SSH else f" runs. Reach it with: {state.reach}"


async def _record(s: Services, row: Resource, place: Placed, said: str, runs: bool = False) -> None:
    service = place.service
    what = f"Service {service.name} ({service.type})" + (f" on node {place.node}" if place.node else "")
    code = "ServiceRunning" if runs else "ServiceNotRunning"

    def add(tx: Tx) -> None:
        if not any(event.code == code and event.message == what + said for event in tx.events(row.uid)):
            tx.add_event(Event(row.uid, "job", s.clock.now(), code, what + said))

    await s.store.write(add)
