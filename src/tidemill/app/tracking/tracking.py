"""MLflow runs: who may write to which, and what is read. A job's token writes to its own run and to runs that
it started, while the job lives; the owner writes to all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from tidemill.app.computes.compute_rules import object_at
from tidemill.app.jobs import jobs
from tidemill.app.services import Services
from tidemill.app.tracking.tracking_jobs import (
    DEFAULT_ID,
    DEFAULT_NAME,
    JOB_TAG,
    PARENT_TAG,
    RUN_NAME_TAG,
    artifact_uri,
    ensure_experiment,
    ensure_job_run,
    live,
)
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.store.tracking import Metric, ModelMetric, Run, RunRecord

T = TypeVar("T")
Pairs = Sequence[tuple[str, str]]

INPUTS_TAG = "tidemill.inputs"  # the datasets of log-inputs, JSON; shown as the run's inputs
MODELS_IN_TAG, MODELS_OUT_TAG = "tidemill.models.in", "tidemill.models.out"  # logged models, likewise
MODELS_TAG = "mlflow.log-model.history"
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")

MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100  # of one batch, as in MLflow
_MAX_KEY, _MAX_PARAM, _MAX_TAG = 250, 6000, 8000  # characters, as in MLflow
_SHOWN_APART = (INPUTS_TAG, MODELS_IN_TAG, MODELS_OUT_TAG)
_OURS = (JOB_TAG, *_SHOWN_APART)


async def get_run(s: Services, scope: Scope, run_id: str) -> RunRecord:
    """Raises NotFound."""
    record = await _with_run(s, scope, run_id, lambda id: s.tracking.get_run(scope.arm_id, id))
    return (await live(s, scope, [record]))[0]


async def create_run(
    s: Services,
    caller: Caller,
    scope: Scope,
    experiment_id: str,
    *,
    name: str = "",
    user: str = "",
    start_at: int | None = None,
    tags: Pairs = (),
) -> RunRecord:
    """A run of its own, or a child of the caller's job. Raises NotFound for experiment or parent."""
    marks = dict(_checked_tags(tags))
    if caller.kind == "job":
        job = await live_job(s, caller, scope)
        marks.setdefault(PARENT_TAG, job.key.name)
        if caller.only_own:
            await _check_own(s, scope, job, marks[PARENT_TAG])
        marks[JOB_TAG] = job.key.name
    if experiment_id == DEFAULT_ID:
        await ensure_experiment(s, scope, DEFAULT_NAME)
    run_id = s.ids.uid()
    run = Run(
        id=run_id,
        experiment_id=experiment_id,
        name=name or marks.get(RUN_NAME_TAG) or f"run-{s.ids.short()}",
        user=user or marks.get("mlflow.user") or caller.name,
        artifact_uri=artifact_uri(run_id),
        start_at=s.clock.now() if start_at is None else start_at,
    )
    record = await s.tracking.create_run(scope.arm_id, run, tuple(marks.items()))
    return (await live(s, scope, [record]))[0]


async def log(
    s: Services,
    caller: Caller,
    scope: Scope,
    run_id: str,
    metrics: Sequence[Metric] = (),
    params: Pairs = (),
    tags: Pairs = (),
    about: Mapping[str, Sequence[ModelMetric]] | None = None,
) -> None:
    """All or nothing. `about`: those of the metrics that are about logged models, by the models' ids. Raises
    InvalidRequest naming the limit passed, NotFound, Forbidden, Conflict."""
    _check_sizes(metrics, params, tags)
    marks = _checked_tags(tags)
    await may_write(s, caller, scope, run_id)
    now = s.clock.now()
    await _with_run(
        s,
        scope,
        run_id,
        lambda id: s.tracking.log_batch(scope.arm_id, id, metrics, params, marks, about, now),
    )
    name = dict(marks).get(RUN_NAME_TAG)
    if name:
        await _rename(s, caller, scope, run_id, name)


async def delete_tag(s: Services, caller: Caller, scope: Scope, run_id: str, key: str) -> None:
    _check_not_ours(key)
    await may_write(s, caller, scope, run_id)
    await _with_run(s, scope, run_id, lambda id: s.tracking.delete_tag(scope.arm_id, id, key))


async def update_run(
    s: Services,
    caller: Caller,
    scope: Scope,
    run_id: str,
    *,
    status: str | None = None,
    end_at: int | None = None,
    name: str = "",
) -> RunRecord:
    """The state of a job's run is the job's: status and end are accepted and change nothing there."""
    if status is not None and status not in STATUSES:
        raise InvalidRequest(
            f"Run status {status!r} does not exist. It is one of {', '.join(STATUSES)}.", target="status"
        )
    await may_write(s, caller, scope, run_id)
    record = await get_run(s, scope, run_id)
    if record.tags.get(JOB_TAG) != record.run.id and (status is not None or end_at is not None):
        await s.tracking.update_run(scope.arm_id, record.run.id, status=status, end_at=end_at)
    if name:
        await _rename(s, caller, scope, record.run.id, name)
    return await get_run(s, scope, record.run.id)


async def delete_run(s: Services, caller: Caller, scope: Scope, run_id: str) -> None:
    await may_write(s, caller, scope, run_id)
    now = s.clock.now()
    await _with_run(s, scope, run_id, lambda id: s.tracking.delete_run(scope.arm_id, id, now))


async def restore_run(s: Services, caller: Caller, scope: Scope, run_id: str) -> None:
    await may_write(s, caller, scope, run_id)
    now = s.clock.now()
    await _with_run(s, scope, run_id, lambda id: s.tracking.restore_run(scope.arm_id, id, now))


async def metric_history(
    s: Services, scope: Scope, run_id: str, key: str, after: Metric | None, limit: int
) -> tuple[Metric, ...]:
    return await _with_run(
        s, scope, run_id, lambda id: s.tracking.metric_history(scope.arm_id, id, key, after, limit)
    )


async def curve(
    s: Services,
    scope: Scope,
    run_id: str,
    key: str,
    most: int,
    steps: tuple[int, int] = (-(2**63), 2**63 - 1),
) -> tuple[Metric, ...]:
    """A metric thinned out to at most `most` points, lowest and highest kept. Raises NotFound for a run."""
    id = await _with_run(s, scope, run_id, lambda id: _spelled(s, scope, id))
    return await s.tracking.sampled(scope.arm_id, id, key, max(most, 4), steps)


async def _spelled(s: Services, scope: Scope, run_id: str) -> str:
    return (await s.tracking.get_run(scope.arm_id, run_id)).run.id


async def log_inputs(
    s: Services,
    caller: Caller,
    scope: Scope,
    run_id: str,
    datasets: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Datasets and logged models that the run read. One of the same name and digest (id) is replaced."""
    await may_write(s, caller, scope, run_id)
    record = await get_run(s, scope, run_id)
    if datasets:
        await _merge(s, scope, record, INPUTS_TAG, datasets, _identity)
    if models:
        await _merge(s, scope, record, MODELS_IN_TAG, models, _model_id)


async def log_outputs(
    s: Services, caller: Caller, scope: Scope, run_id: str, models: Sequence[Mapping[str, Any]]
) -> None:
    """Logged models that the run made, each `{"model_id", "step"}`."""
    await may_write(s, caller, scope, run_id)
    await _merge(s, scope, await get_run(s, scope, run_id), MODELS_OUT_TAG, models, _model_id)


async def _merge(
    s: Services,
    scope: Scope,
    record: RunRecord,
    tag: str,
    given: Sequence[Mapping[str, Any]],
    identity: Callable[[Mapping[str, Any]], object],
) -> None:
    merged = {identity(item): item for item in (*listed(record, tag), *given)}
    await _keep(s, scope, record, tag, list(merged.values()))


def listed(record: RunRecord, tag: str) -> list[Mapping[str, Any]]:
    """What is kept in one of our tags: INPUTS_TAG, MODELS_IN_TAG, MODELS_OUT_TAG."""
    return msgspec.json.decode(record.tags.get(tag, "[]"), type=list[Mapping[str, Any]])


async def log_model(s: Services, caller: Caller, scope: Scope, run_id: str, model: str) -> None:
    """`model` is JSON; kept in the tag where MLflow's clients look for it."""
    await may_write(s, caller, scope, run_id)
    record = await get_run(s, scope, run_id)
    try:
        known = msgspec.json.decode(record.tags.get(MODELS_TAG, "[]"), type=list[Any])
        given = msgspec.json.decode(model, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"model_json is not a JSON object: {error}.", target="model_json") from error
    await _keep(s, scope, record, MODELS_TAG, [*known, given])


async def _keep(s: Services, scope: Scope, record: RunRecord, tag: str, value: list[Any]) -> None:
    await s.tracking.set_tag(scope.arm_id, record.run.id, tag, msgspec.json.encode(value).decode())


def _identity(item: Mapping[str, Any]) -> tuple[str, str]:
    dataset = object_at(item, "dataset", "datasets")
    name = dataset.get("name")
    if not name:
        raise InvalidRequest("Each of 'datasets' needs a 'dataset' with a 'name'.", target="datasets")
    return str(name), str(dataset.get("digest", ""))


def _model_id(item: Mapping[str, Any]) -> str:
    model_id = item.get("model_id")
    if not isinstance(model_id, str) or not model_id:
        raise InvalidRequest("Each of 'models' needs a 'model_id'.", target="models")
    return model_id


async def may_write(s: Services, caller: Caller, scope: Scope, run_id: str) -> None:
    """Raises Forbidden: a job's token after the job's end, or at a run that the job did not start."""
    if caller.only_own:
        await _check_own(s, scope, await live_job(s, caller, scope), run_id)


async def live_job(s: Services, caller: Caller, scope: Scope) -> Resource:
    """The job that the token belongs to."""
    row = await s.store.read(lambda r: jobs.find(r, scope, caller.job))
    if row is None or row.uid != caller.oid:
        raise Forbidden(f"Job {caller.job!r} does not exist any more: its token may not write.")
    if JobState(row.state).final:
        raise Forbidden(
            f"Job {caller.job!r} has ended ({row.state}): its token may not write any more. "
            "To add to its run afterwards, use a token of your own."
        )
    return row


async def _check_own(s: Services, scope: Scope, job: Resource, run_id: str) -> None:
    if run_id == job.key.name:
        return
    if await _job_of(s, scope, run_id) != job.key.name:
        raise Forbidden(
            f"Run {run_id!r} is not one of job {job.key.name!r}: a job's token writes only to the job's own "
            "run and to runs that the job started."
        )


async def _job_of(s: Services, scope: Scope, run_id: str) -> str | None:
    try:
        return (await s.tracking.get_run(scope.arm_id, run_id)).tags.get(JOB_TAG)
    except NotFound:
        if await s.store.read(lambda r: jobs.find(r, scope, run_id)) is None:
            raise
        return run_id


async def _with_run(s: Services, scope: Scope, run_id: str, use: Callable[[str], Awaitable[T]]) -> T:
    """`use` with the run's id; a job's run that is not there yet is made."""
    try:
        return await use(run_id)
    except NotFound as error:
        if await _exists(s, scope, run_id):
            raise
        job = await ensure_job_run(s, scope, run_id)
        if job is None:
            raise NotFound(
                f"No run {run_id!r} in workspace {scope.workspace!r}: neither a run nor a job has that name.",
                error.code,
                run_id,
            ) from error
        return await use(job)


async def _exists(s: Services, scope: Scope, run_id: str) -> bool:
    try:
        await s.tracking.latest(scope.arm_id, run_id)
    except NotFound:
        return False
    return True


async def _rename(s: Services, caller: Caller, scope: Scope, run_id: str, name: str) -> None:
    run = await s.tracking.update_run(scope.arm_id, run_id, name=name)
    job = await s.store.read(lambda r: jobs.find(r, scope, run_id))
    if job is not None and job.key.name == run.id:
        await jobs.patch(s, caller, scope, run_id, {"displayName": name})


def _check_sizes(metrics: Sequence[Metric], params: Pairs, tags: Pairs) -> None:
    for what, count, most in (
        ("metrics", len(metrics), MAX_METRICS),
        ("params", len(params), MAX_PARAMS),
        ("tags", len(tags), MAX_TAGS),
    ):
        if count > most:
            raise InvalidRequest(
                f"A batch has {count} {what}; it may have {most}. Send more batches.", target=what
            )
    for metric in metrics:
        check_key("Metric", metric.key)
    for key, value in params:
        check_key("Param", key)
        if len(value) > _MAX_PARAM:
            raise InvalidRequest(
                f"Param {key!r} has {len(value)} characters; it may have {_MAX_PARAM}. Log an artifact.",
                target=key,
            )


def _checked_tags(tags: Pairs) -> Pairs:
    for key, value in tags:
        check_key("Tag", key)
        _check_not_ours(key)
        if len(value) > _MAX_TAG:
            raise InvalidRequest(
                f"Tag {key!r} has {len(value)} characters; it may have {_MAX_TAG}. Log it as an artifact.",
                target=key,
            )
    return tags


def check_key(what: str, key: str) -> None:
    if not key or len(key) > _MAX_KEY:
        raise InvalidRequest(
            f"{what} key {key[:80]!r} has {len(key)} characters: it must have 1 to {_MAX_KEY}.",
            target=key[:80],
        )


def _check_not_ours(key: str) -> None:
    if key in _OURS:
        raise InvalidRequest(f"Tag {key!r} is set by the server and cannot be changed.", target=key)


def visible(record: RunRecord) -> RunRecord:
    """Without the tags that are shown as something else."""
    return replace(record, tags={key: value for key, value in record.tags.items() if key not in _SHOWN_APART})
