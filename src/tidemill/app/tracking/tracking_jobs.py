"""A job is a run: its id is the job's name. The run's row is made at the first look or word; status, times
and name are the job's own, read when asked for. Runs that a job starts besides carry its name in JOB_TAG."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from tidemill.app.jobs import jobs
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.services import Services
from tidemill.domain.errors import Conflict, NotFound
from tidemill.domain.model import JobState, Resource, Scope
from tidemill.store.api import Read, ResourceQuery
from tidemill.store.rows import fold
from tidemill.store.tracking import ACTIVE, Experiment, Run, RunRecord

JOB_TAG = "tidemill.job"  # on a job's run and on every run that the job started
PARENT_TAG, ROOT_TAG = "mlflow.parentRunId", "mlflow.rootRunId"
RUN_NAME_TAG = "mlflow.runName"
DEFAULT_ID, DEFAULT_NAME = "0", "Default"  # MLflow's clients expect experiment "0" to exist
ENDED = ("FINISHED", "FAILED", "KILLED")

_STATUS = {JobState.COMPLETED: "FINISHED", JobState.FAILED: "FAILED", JobState.CANCELED: "KILLED"}
_PAGE = 200
# A job younger than this may have been committed after a later one was seen: it is looked for again.
_SETTLED_US = 60 * 1_000_000


def artifact_uri(run_id: str) -> str:
    """Where `mlflow.log_artifact` puts files: beside the job's logs and outputs in the artifact store."""
    return f"mlflow-artifacts:/ExperimentRun/dcid.{run_id}"


async def ensure_experiment(s: Services, scope: Scope, name: str, *, restore: bool = False) -> Experiment:
    """The experiment of that name, made if it does not exist, brought back if `restore` and it is deleted."""
    workspace = scope.arm_id
    try:
        found = await s.tracking.get_experiment_by_name(workspace, name)
    except NotFound:
        now = s.clock.now()
        fresh = Experiment(
            DEFAULT_ID if name == DEFAULT_NAME else s.ids.uid(), name, created_at=now, updated_at=now
        )
        fresh = replace(fresh, artifact_location=f"mlflow-artifacts:/experiments/{fresh.id}")
        with suppress(Conflict):  # somebody else made it at the same moment
            return await s.tracking.create_experiment(workspace, fresh)
        found = await s.tracking.get_experiment_by_name(workspace, name)
    if restore and found.lifecycle != ACTIVE:
        with suppress(NotFound):
            await s.tracking.restore_experiment(workspace, found.id, s.clock.now())
    return found


async def ensure_job_run(s: Services, scope: Scope, run_id: str) -> str | None:
    """-> the id of the job's run as it is spelled, made if it was not there; None: there is no such job."""
    row = await s.store.read(lambda r: jobs.find(r, scope, run_id))
    if row is None:
        return None
    experiment = await ensure_experiment(s, scope, _experiment_of(row), restore=True)
    await _create(s, scope, row, experiment.id)
    return row.key.name


async def sync(s: Services, scope: Scope) -> None:
    """Makes the runs of jobs that nobody has looked at yet, so that searches find them. It costs by
    what is new."""
    mark = f"tracking-synced/{fold(scope.arm_id)}"
    stored = await s.store.read(lambda r: r.meta(mark))
    after = stored.decode() if stored else None
    settled = after
    while True:
        query = ResourceQuery(jobs.TYPE, scope, ascending=True, limit=_PAGE, after=after)
        rows = await s.store.read(lambda r, q=query: r.find(q))
        await asyncio.gather(*(_sync_one(s, scope, row) for row in rows))
        old = [row for row in rows if row.created_at < s.clock.now() - _SETTLED_US]
        settled = old[-1].uid if old else settled
        if len(rows) < _PAGE:
            break
        after = rows[-1].uid
    if settled is not None and settled.encode() != stored:
        value = settled.encode()
        await s.store.write(lambda tx: tx.set_meta(mark, value))


async def _sync_one(s: Services, scope: Scope, row: Resource) -> None:
    with suppress(NotFound):
        await s.tracking.latest(scope.arm_id, row.key.name)
        return
    experiment = await ensure_experiment(s, scope, _experiment_of(row))
    if experiment.lifecycle == ACTIVE:  # a deleted one stays deleted: only a job that logs brings it back
        await _create(s, scope, row, experiment.id)


async def _create(s: Services, scope: Scope, row: Resource, experiment_id: str) -> None:
    name, status = row.key.name, job_status(row.status)
    run = Run(
        id=name,
        experiment_id=experiment_id,
        name=_display_name(row),
        user=row.created_by,
        artifact_uri=artifact_uri(name),
        start_at=row.created_at,
    )
    tags = (
        ("mlflow.user", row.created_by),
        ("mlflow.source.type", "JOB"),
        ("mlflow.source.name", status.plan.job.command or status.kind),
        (JOB_TAG, name),
    )
    if status.child is not None:
        tags = (*tags, (PARENT_TAG, status.child.parent), (ROOT_TAG, status.child.root))
    with suppress(Conflict):  # it exists
        await s.tracking.create_run(scope.arm_id, run, tags)


async def live(s: Services, scope: Scope, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records with what their jobs say now."""
    names = {record.tags[JOB_TAG] for record in records if JOB_TAG in record.tags}
    if not names:
        return [_named(record) for record in records]

    def look(read: Read) -> dict[str, Resource]:
        rows = {name: jobs.find(read, scope, name) for name in names}
        return {name: row for name, row in rows.items() if row is not None}

    rows = await s.store.read(look)
    return [_named(_with_job(record, rows.get(record.tags.get(JOB_TAG, "")))) for record in records]


def _with_job(record: RunRecord, row: Resource | None) -> RunRecord:
    run = record.run
    if row is None:
        # The job was deleted: what it left running runs no more.
        gone = JOB_TAG in record.tags and run.status not in ENDED
        return replace(record, run=replace(run, status="KILLED")) if gone else record
    progress = job_status(row.status).progress
    status = _STATUS.get(JobState(row.state), "RUNNING")
    if run.id == row.key.name:
        started = progress.started_at or row.created_at
        own = {str(key): str(value) for key, value in decode_object(row.tags).items()}
        run = replace(run, status=status, start_at=started, end_at=progress.ended_at, name=_display_name(row))
        return replace(record, run=run, tags={**own, **record.tags})
    if JobState(row.state).final and run.status not in ENDED:
        # The job ended without ending this run: nobody else will.
        return replace(record, run=replace(run, status=status, end_at=progress.ended_at))
    return record


def _named(record: RunRecord) -> RunRecord:
    return replace(record, tags={**record.tags, RUN_NAME_TAG: record.run.name})


def _display_name(row: Resource) -> str:
    return str(decode_object(row.spec).get("displayName") or row.key.name)


def _experiment_of(row: Resource) -> str:
    return job_status(row.status).plan.job.experiment or DEFAULT_NAME
