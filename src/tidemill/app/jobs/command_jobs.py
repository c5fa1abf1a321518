"""A command job on its way in: everything it names is resolved, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tidemill.app.assets import images
from tidemill.app.computes import computes, implicit_computes, isolation
from tidemill.app.computes.teams import tags_of
from tidemill.app.jobs import job_planning, parallel_steps, serverless, step_reuse
from tidemill.app.jobs.prepared import Child, Prepared, nothing_besides, nothing_more
from tidemill.app.services import Services
from tidemill.domain.jobservices import read_services
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.plan import JobPlan, JobProgress, JobStatus, PlannedEnvironment
from tidemill.domain.units import plural
from tidemill.store.api import Tx


async def prepare(
    s: Services, caller: Caller, scope: Scope, name: str, properties: Mapping[str, Any], child: Child | None
) -> Prepared:
    """Raises InvalidRequest, NotFound (a compute, environment or input that does not exist, naming those
    that do), NotOffered, Conflict."""
    job, batches = parallel_steps.read(name, properties)
    tags = tags_of(properties)
    plan, sized = await job_planning.plan_job(
        s, caller, scope, name, job, tags, child.made if child is not None else ()
    )
    services = read_services(properties.get("services"))
    level = await isolation.required_of(s, plan.compute_uid, tags)
    plan = replace(plan, services=services, isolation=level, parallel=batches)
    reused = None
    key = await step_reuse.key_of(s, plan) if child is not None and child.keeps else ""
    if child is not None and child.reuse and key:
        reused = await step_reuse.find(s, scope, key)
    if reused is not None:
        return step_reuse.standing_for(s, plan, reused, key)
    ready = images.is_ready(s, plan.environment)
    preparing = () if ready else (("Preparing", _preparing(plan.environment)),)
    return Prepared(
        state=JobState.QUEUED if ready else JobState.PREPARING,
        status=JobStatus(plan, JobProgress(built_environment=not ready), result_key=key),
        job_type="Command",
        where=_where(plan),
        notes=tuple(("Note", note) for note in (*sized, *plan.environment.notes)) + preparing,
        ref=plan.compute_uid,
        check=nothing_more
        if plan.serverless
        else lambda tx: computes.check_there(tx, plan.compute_uid, plan.compute_name),
        shown=serverless.shown(plan, properties) if plan.serverless else {},
        also=_with_nodes(plan, name, tags) if plan.serverless else nothing_besides,
    )


def _where(plan: JobPlan) -> str:
    if not plan.serverless:
        return f"compute {plan.compute_name}"
    return f"serverless: {plural(plan.job.node_count, 'node')} of {plan.serverless}, for this job alone"


def _with_nodes(plan: JobPlan, name: str, tags: Mapping[str, Any]) -> Callable[[Tx, Resource], None]:
    wanted = serverless.wanted(plan, name, tags)

    def make(tx: Tx, row: Resource) -> None:
        implicit_computes.make(tx, plan.compute_uid, row, wanted, row.created_at)

    return make


def _preparing(planned: PlannedEnvironment) -> str:
    if not planned.in_image:
        return f"Environment {planned.label} is being built."
    if planned.build is not None:
        return (
            f"The image of environment {planned.label} is built from {planned.build.dockerfile} if that, its "
            "build context or an image it starts from is new."
        )
    also = ", and its packages are built in it" if planned.packages else ""
    return (
        f"Image {planned.image} of environment {planned.label} is looked up, and fetched if it is new{also}."
    )
