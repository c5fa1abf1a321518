"""Services of a job as they are now: running or not, why not, and how each is reached."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.app.jobs.job_logs import live_attempt
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.domain.jobservices import CUSTOM, SSH, Placed, placed
from tidemill.domain.launch import first_rank_on
from tidemill.domain.model import Attempt, JobState, Resource
from tidemill.domain.plan import JobPlan
from tidemill.engines.base import Beside, EngineError, TaskKey

LAST_LINES = 4096  # bytes of a service's log that hold the reason of its end
RUNNING, STARTING, FAILED = "Running", "Starting", "Failed"


@dataclass(frozen=True, slots=True)
class ServiceState:
    """`status` RUNNING, STARTING or FAILED, then with `error`. `reach` is the command that leads there."""

    place: Placed
    status: str
    reach: str
    error: str = ""


def placed_of(s: Services, plan: JobPlan) -> tuple[Placed, ...]:
    return placed(plan.services, plan.job.node_count, s.addresses.ports.values())


async def states(s: Services, row: Resource, node: int) -> list[ServiceState]:
    """Of the services on one of the job's nodes; none while it does not run."""
    plan = job_status(row.status).plan
    attempt = await live_attempt(s, row) if plan.services and row.state == JobState.RUNNING else None
    if attempt is None or not 0 <= node < len(attempt.nodes):
        return []
    key = TaskKey(attempt.id, first_rank_on(plan.job, node))
    try:
        known = await s.engine.beside(attempt.nodes[node], key)
    except EngineError:
        return []
    places = [place for place in placed_of(s, plan) if place.node == node]
    return [await _state(s, row, attempt, key, place, known.get(place.service.name)) for place in places]


async def _state(
    s: Services, row: Resource, attempt: Attempt, key: TaskKey, place: Placed, known: Beside | None
) -> ServiceState:
    job, on = row.key.name, f" --node {place.node}" if place.node else ""
    if place.service.type == SSH:
        return ServiceState(place, RUNNING, f"tidemill ssh {job}{on}")
    reach = f"tidemill port-forward {job} {place.service.name}{on}"
    if place.service.type != CUSTOM and known is None:
        return ServiceState(place, STARTING, reach)
    if known is not None and not known.running:
        return ServiceState(place, FAILED, reach, known.why or await _reason(s, attempt, place, known))
    answers = await _answers(s, attempt.nodes[place.node], key, place.port)
    return ServiceState(place, RUNNING if answers else STARTING, reach)


async def _answers(s: Services, node_id: str, key: TaskKey, port: int) -> bool:
    try:
        (await s.engine.dial(node_id, key, port)).close()
        return True
    except EngineError:
        return False


async def _reason(s: Services, attempt: Attempt, place: Placed, known: Beside) -> str:
    """The last line that it wrote."""
    node_id = attempt.nodes[place.node]
    try:
        size = await s.engine.log_size(node_id, attempt.id, place.log)
        start = max(0, size - LAST_LINES)
        text = (await s.engine.read_log(node_id, attempt.id, place.log, start, LAST_LINES)).decode(
            errors="replace"
        )
    except EngineError:
        text = ""
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return last[:500] or f"it ended with exit code {known.exit_code}"
