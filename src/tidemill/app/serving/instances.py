"""Instances of deployments as rows: jobs that nobody submits or lists, one for each instance.

Key(ws, "jobs", "ENDPOINT.DEPLOYMENT-xxxxxx"), `parent_uid`: the deployment's uid; JobStatus.plan.service says
what it is, JobStatus.instance how it is doing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidemill.app.assets import images, scoring_side
from tidemill.app.jobs.endings import cancel_in
from tidemill.app.jobs.owned_rows import Told, owned_row
from tidemill.app.jobs.transitions import job_event
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.services import Services
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import AttemptState, JobState, Resource
from tidemill.domain.plan import JobError, JobPlan, JobProgress, JobStatus, Place
from tidemill.domain.serving import deciding
from tidemill.domain.serving.deciding import Phase
from tidemill.domain.serving.plan import DeploymentPlan, PlannedModel
from tidemill.domain.serving.service import (
    MODELS,
    MOUNT,
    Ended,
    InstanceProgress,
    PlannedService,
    StagedModel,
)
from tidemill.store.api import Read, ResourceQuery, Tx

SECOND = 1_000_000
NODE_US = 20 * 60 * SECOND  # that an instance of an update may wait for a node
KILLS = 3  # ends by a signal before it was ever ready, until that is held against what it runs
COMMAND = "scoring server"  # in place of a job's command, for those who read one


@dataclass(frozen=True, slots=True)
class News:
    """What a node says of a service. `kind`: "ready" | "unready" | "restarting"."""

    kind: str
    at: int
    message: str = ""  # why it is not ready
    restarts: int = 0
    again_in_s: float = 0.0
    ended: Ended | None = None


def of_deployment(read: Read, deployment: Resource) -> Sequence[Resource]:
    """Oldest first, ended ones too."""
    query = ResourceQuery("jobs", deployment.key.scope, parent_uid=deployment.uid, ascending=True)
    return read.find(query)


def new_row(
    s: Services, deployment: Resource, plan: DeploymentPlan, generation: int, why: str, now: int
) -> tuple[Resource, Told]:
    """-> (a row to insert, what to say of it in its time line)."""
    name = f"{plan.spec.label}-{s.ids.short()}"
    environment = plan.environment
    ready = images.is_ready(s, environment) and (
        environment.container is not None or scoring_side.is_settled(s, environment)
    )
    told = [("Created", f"An instance of deployment '{plan.spec.endpoint}/{plan.spec.name}': {why}.")]
    if not ready:
        told.append(("Preparing", f"Environment {plan.environment.label} is made ready."))
    job = JobStatus(
        _job_plan(plan, generation, name),
        JobProgress(built_environment=not ready),
        instance=InstanceProgress(),
    )
    environment_id = plan.spec.environment_id
    row = owned_row(s.ids.uid(), name, deployment, job, ready=ready, environment_id=environment_id, now=now)
    return row, tuple(told)


def _job_plan(plan: DeploymentPlan, generation: int, name: str) -> JobPlan:
    spec = plan.spec
    return JobPlan(
        job=CommandJob(
            COMMAND,
            display_name=f"{spec.endpoint}/{spec.name}",
            experiment=spec.endpoint,
            environment_variables=spec.environment_variables,
            instance_types=(spec.instance_type,),
        ),
        compute_uid=plan.compute_uid,
        compute_name=spec.label,
        environment=plan.environment,
        code=plan.code,
        team=plan.team,
        user=plan.user,
        acts_as=plan.acts_as,
        account=plan.account,
        isolation=plan.isolation,
        artifacts=Place(plan.account, "azureml", f"ExperimentRun/dcid.{name}/"),
        service=PlannedService(
            generation,
            spec.scoring_script,
            None if plan.model is None else staged_model(plan.model),
            "" if plan.model is None else plan.model.type,
            spec.liveness,
            spec.readiness,
            container=plan.environment.container,
            mount=spec.model_mount_path or (MOUNT if plan.environment.container else ""),
        ),
    )


def staged_model(model: PlannedModel) -> StagedModel:
    """As in Azure's containers: AZUREML_MODEL_DIR is MODELS/NAME/VERSION, and in it lies the file or the
    folder that was registered, under its own name."""
    place = model.place
    name = place.path.rstrip("/").rsplit("/", 1)[-1]
    folder = f"{MODELS}/{model.name or 'model'}/{model.version or '1'}"
    return StagedModel(place.account, place.container, place.path, folder, name)


def phase_of(row: Resource, status: JobStatus) -> Phase:
    instance = status.instance or InstanceProgress()
    state = JobState(row.state)
    if state.final:
        return Phase.ENDED
    if state is JobState.CANCEL_REQUESTED:
        return Phase.STOPPING
    if instance.parked_at is not None:
        return Phase.PARKED
    if instance.draining_at is not None:
        return Phase.DRAINING
    if state is JobState.RUNNING and instance.attempt == status.progress.attempt:
        if instance.ready:
            return Phase.READY
        if instance.ever_ready:
            return Phase.UNREADY
    return Phase.STARTING


def as_seen(row: Resource, quiet: bool) -> deciding.Instance:
    """For a decision. `quiet`: it is known to have no request."""
    status = job_status(row.status)
    instance, service = status.instance or InstanceProgress(), status.plan.service
    assert service is not None
    phase = phase_of(row, status)
    due = None
    if phase is Phase.STARTING and instance.attempt == status.progress.attempt and instance.started_at:
        probe = service.readiness
        allowed = probe.initial_delay_s + probe.failure * max(probe.period_s, probe.timeout_s)
        due = instance.started_at + round(allowed * SECOND)
    placed = True
    if row.state in (JobState.QUEUED, JobState.PROVISIONING) and phase is Phase.STARTING:
        placed, due = False, max(row.created_at, instance.woken_at or 0) + NODE_US
    return deciding.Instance(
        row.uid,
        service.generation,
        phase,
        row.created_at,
        status.progress.ended_at or 0,
        _failure(row, status, instance, phase),
        instance.draining_at,
        quiet,
        due,
        placed,
        instance.ready and instance.attempt == status.progress.attempt,
        not placed and instance.woken_at is not None,
    )


def _failure(row: Resource, status: JobStatus, instance: InstanceProgress, phase: Phase) -> JobError | None:
    if phase is Phase.ENDED:
        return status.progress.error if row.state == JobState.FAILED else None
    ended = instance.ended
    if phase is not Phase.STARTING or ended is None or instance.attempt != status.progress.attempt:
        return None
    if ended.killed and instance.restarts < KILLS:
        return None
    return JobError(ended.code, ended.message)


def record(tx: Tx, attempt_id: str, port: int, news: Sequence[News]) -> None:
    """Takes in what a node said; what was taken in before changes nothing."""
    attempt = tx.attempt(attempt_id)
    row = tx.by_uid(attempt.job_uid) if attempt is not None else None
    if attempt is None or row is None or attempt.state is AttemptState.ENDED or JobState(row.state).final:
        return
    status = job_status(row.status)
    before = status.instance or InstanceProgress()
    if before.parked_at is not None:
        return
    now = before
    if now.attempt != attempt.number:
        started = attempt.started_at or attempt.created_at
        now = InstanceProgress(attempt.number, started, port, draining_at=before.draining_at)
    for one in news:
        now = _after(tx, row, now, one)
    if now != before:
        tx.update(replace(row, status=encode(replace(status, instance=now))))


def _after(tx: Tx, row: Resource, now: InstanceProgress, news: News) -> InstanceProgress:
    if news.kind == "restarting":
        if news.restarts <= now.restarts:
            return now
        assert news.ended is not None
        again = f"starts again in {news.again_in_s:g} s" if news.again_in_s else "starts again at once"
        message = f"{news.ended.message.rstrip()}\nIt {again} (restart {news.restarts})."
        tx.add_event(job_event(row, news.at, "InstanceRestarting", message))
        return replace(now, ready=False, restarts=news.restarts, ended=news.ended)
    if news.kind == "ready" and not now.ready:
        tx.add_event(job_event(row, news.at, "InstanceReady", "Its readiness probe passes."))
        return replace(now, ready=True, ever_ready=True, unready="")
    if news.kind == "unready" and now.ready:
        message = f"Its readiness probe fails: {news.message}. It gets no requests meanwhile."
        tx.add_event(job_event(row, news.at, "InstanceNotReady", message))
        return replace(now, ready=False, unready=news.message)
    return now


def drain(tx: Tx, row: Resource, why: str, now: int) -> None:
    status = job_status(row.status)
    instance = status.instance or InstanceProgress()
    if instance.draining_at is not None or JobState(row.state).final:
        return
    tx.add_event(job_event(row, now, "InstanceDraining", f"It gets no new requests: {why}."))
    tx.update(replace(row, status=encode(replace(status, instance=replace(instance, draining_at=now)))))


def stop(tx: Tx, row: Resource, why: str, now: int) -> None:
    """TERM, and the time it was promised to end in."""
    cancel_in(tx, row, now, "the deployments controller", f"{why[:1].upper()}{why[1:]}.")
