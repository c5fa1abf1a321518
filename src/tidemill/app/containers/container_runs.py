"""Runs of container groups as rows: jobs that nobody submits or lists, all containers on one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tidemill.app.containers import container_images
from tidemill.app.jobs.endings import cancel_in
from tidemill.app.jobs.owned_rows import Told, owned_row
from tidemill.app.rows.codec import encode, job_status
from tidemill.app.rows.container_rows import group_status, place_of
from tidemill.app.services import Services
from tidemill.domain.containers.plan import ContainerRecord, PlannedGroup
from tidemill.domain.containers.records import ContainerNews, after, begun
from tidemill.domain.jobspec import CommandJob, Distribution
from tidemill.domain.model import AttemptState, JobState, Resource
from tidemill.domain.plan import JobPlan, JobProgress, JobStatus
from tidemill.store.api import Tx

COMMAND = "container group"  # in place of a job's command, for those who read one


def new_row(s: Services, group: Resource, why: str, now: int) -> tuple[Resource, Told]:
    """-> (a row to insert, what to say of it in its time line)."""
    name = f"{group.key.name}-{s.ids.short()}"
    status = group_status(group)
    ready = container_images.is_ready(status.images)
    told = [("Created", f"A run of container group '{group.key.name}': {why}.")]
    if not ready:
        told.append(("Preparing", "Its images are fetched."))
    job = JobStatus(_job_plan(group, name), JobProgress())
    row = owned_row(s.ids.uid(), name, group, job, ready=ready, environment_id="", now=now)
    return row, tuple(told)


def _job_plan(group: Resource, name: str) -> JobPlan:
    status = group_status(group)
    place = place_of(group.key.scope, name)
    return JobPlan(
        job=CommandJob(
            COMMAND,
            display_name=group.key.name,
            experiment=group.key.name,
            instance_types=(status.size,),
            distribution=Distribution("containers", len(status.spec.every)),
        ),
        compute_uid=status.compute_uid,
        compute_name=status.spec.label,
        environment=status.images[0],
        team=status.team,
        user=status.user,
        account=place.account,
        isolation=status.isolation,
        artifacts=place,
        group=PlannedGroup(group.uid, status.generation, status.spec),
        images=status.images,
    )


def record(tx: Tx, attempt_id: str, news: Mapping[int, Sequence[ContainerNews]]) -> None:
    """Takes in what a node said, by the container's number; what was taken in before changes nothing."""
    attempt = tx.attempt(attempt_id)
    row = tx.by_uid(attempt.job_uid) if attempt is not None else None
    if attempt is None or row is None or attempt.state is AttemptState.ENDED or JobState(row.state).final:
        return
    status = job_status(row.status)
    assert status.plan.group is not None
    held = dict(enumerate(status.containers))
    records: list[ContainerRecord] = []
    for number, spec in enumerate(status.plan.group.spec.every):
        before = held.get(number)
        now = before
        if now is None or now.attempt != attempt.number:
            now = begun(spec.name, attempt.number, before, spec.readiness is not None)
        for one in news.get(number, ()):
            now = after(now, one)
        records.append(now)
    if tuple(records) != status.containers:
        tx.update(replace(row, status=encode(replace(status, containers=tuple(records)))))


def stop(tx: Tx, row: Resource, why: str, now: int) -> None:
    """TERM, and the time it was promised to end in."""
    cancel_in(tx, row, now, "the container groups controller", f"{why[:1].upper()}{why[1:]}.")
