"""Logged models of MLflow 3: a model that a run made, with files, params, tags and the metrics that are about
it, before (or without) being registered. Who may write to its run may write to it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tidemill.app.services import Services
from tidemill.app.tracking import tracking, tracking_artifacts
from tidemill.app.tracking.tracking_artifacts import Entry
from tidemill.app.tracking.tracking_filter import Look, Value, matches, ordered, parse_filter, parse_order
from tidemill.app.tracking.tracking_jobs import DEFAULT_ID, DEFAULT_NAME, artifact_uri, ensure_experiment
from tidemill.app.tracking.tracking_search import Search, page_of
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, Scope
from tidemill.store.tracking import LoggedModel

READY, FAILED, PENDING = "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED", "LOGGED_MODEL_PENDING"
_SHORT = {READY: "READY", FAILED: "FAILED", PENDING: "PENDING"}  # as searches name them
_TIMES = frozenset({"creation_timestamp", "creation_time", "last_updated_timestamp"})
_TEXTS = frozenset({"name", "model_id", "model_type", "status", "source_run_id", "experiment_id"})

_FOLDER = re.compile(r"[\w-][\w.-]*")  # a name that can be one


async def create(
    s: Services,
    caller: Caller,
    scope: Scope,
    experiment_id: str,
    *,
    name: str = "",
    run_id: str = "",
    model_type: str = "",
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> LoggedModel:
    """Its files go into a folder of its run, which has the model's name where no other model of the run lies
    there: as MLflow 2 has it. A job's model belongs to the job's run unless it names another."""
    if caller.kind == "job":
        run_id = run_id or (await tracking.live_job(s, caller, scope)).key.name
    if run_id:
        await tracking.may_write(s, caller, scope, run_id)
        run_id = (await tracking.get_run(s, scope, run_id)).run.id
    if experiment_id == DEFAULT_ID:
        await ensure_experiment(s, scope, DEFAULT_NAME)
    _check(params, tags)
    id, now = f"m-{s.ids.uid()}", s.clock.now()
    where = artifact_uri(run_id) if run_id else f"mlflow-artifacts:/LoggedModels/{id}"
    name = name or f"model-{s.ids.short()}"
    apart = f"{where}/models/{id}"
    model = LoggedModel(
        id=id,
        experiment_id=experiment_id,
        name=name,
        artifact_uri=f"{where}/{name}" if _FOLDER.fullmatch(name) else apart,
        run_id=run_id,
        model_type=model_type,
        created_at=now,
        updated_at=now,
        params=params or {},
        tags=tags or {},
    )
    return await s.tracking.create_logged_model(scope.arm_id, model, apart)


async def get(s: Services, scope: Scope, model_id: str) -> LoggedModel:
    return await s.tracking.get_logged_model(scope.arm_id, model_id)


async def finalize(s: Services, caller: Caller, scope: Scope, model_id: str, status: str) -> LoggedModel:
    if status not in (READY, FAILED):
        raise InvalidRequest(f"Status {status!r} ends no upload: it is {READY} or {FAILED}.", target="status")
    return await _change(s, caller, scope, model_id, lambda model: replace(model, status=status))


async def set_tags(
    s: Services, caller: Caller, scope: Scope, model_id: str, tags: Mapping[str, str]
) -> LoggedModel:
    _check(None, tags)
    return await _change(
        s, caller, scope, model_id, lambda model: replace(model, tags={**model.tags, **tags})
    )


async def delete_tag(s: Services, caller: Caller, scope: Scope, model_id: str, key: str) -> None:
    def remove(model: LoggedModel) -> LoggedModel:
        if key not in model.tags:
            raise NotFound(f"Logged model {model_id!r} has no tag {key!r}.", target=key)
        return replace(model, tags={name: value for name, value in model.tags.items() if name != key})

    await _change(s, caller, scope, model_id, remove)


async def log_params(
    s: Services, caller: Caller, scope: Scope, model_id: str, params: Mapping[str, str]
) -> LoggedModel:
    """Params are written once, as a run's are."""
    _check(params, None)

    def add(model: LoggedModel) -> LoggedModel:
        for key, value in params.items():
            if model.params.get(key, value) != value:
                raise InvalidRequest(
                    f"Param {key!r} of logged model {model_id!r} is {model.params[key]!r} and cannot be "
                    f"changed to {value!r}: params are written once.",
                    target=key,
                )
        return replace(model, params={**model.params, **params})

    return await _change(s, caller, scope, model_id, add)


async def delete(s: Services, caller: Caller, scope: Scope, model_id: str) -> None:
    """Its files stay in its run."""
    await _may_write(s, caller, scope, await get(s, scope, model_id))
    await s.tracking.delete_logged_model(scope.arm_id, model_id, s.clock.now())


async def list_files(s: Services, scope: Scope, model_id: str, below: str) -> tuple[LoggedModel, list[Entry]]:
    """What lies directly below a folder of the model's files, with paths from its root."""
    model = await get(s, scope, model_id)
    folder = f"{model.artifact_uri.removeprefix('mlflow-artifacts:/')}/{below.strip('/')}".rstrip("/")
    entries = await tracking_artifacts.list_files(s, scope, folder)
    start = f"{below.strip('/')}/" if below.strip("/") else ""
    return model, [replace(entry, path=f"{start}{entry.path}") for entry in entries]


async def search(
    s: Services,
    scope: Scope,
    experiment_ids: Sequence[str],
    search: Search,
    datasets: Sequence[tuple[str, str]] = (),
) -> tuple[list[LoggedModel], str]:
    """-> (models, token of the next page or ""). Newest first unless ordered. With `datasets` (name and
    digest; "" for any), metrics count only where they are about one of them."""
    clauses = parse_filter(search.filter, _TIMES, _TEXTS)
    orders = parse_order(search.order_by, _TIMES | _TEXTS)
    held = await s.tracking.search_logged_models(scope.arm_id, experiment_ids)

    def look(model: LoggedModel) -> Look:
        return _look(model, datasets)

    found = [model for model in held if matches(clauses, look(model))]
    return page_of(ordered(found, orders, look), search)


def _look(model: LoggedModel, datasets: Sequence[tuple[str, str]]) -> Look:
    attributes: dict[str, Value | None] = {
        "name": model.name,
        "model_id": model.id,
        "model_type": model.model_type or None,
        "status": _SHORT.get(model.status, model.status),
        "source_run_id": model.run_id or None,
        "experiment_id": model.experiment_id,
        "creation_timestamp": model.created_at // 1000,
        "creation_time": model.created_at // 1000,
        "last_updated_timestamp": model.updated_at // 1000,
    }

    def metric(key: str) -> Value | None:
        points = [
            point
            for point in model.metrics
            if point.key == key
            and (not datasets or any(_is(point.dataset, point.digest, given) for given in datasets))
        ]
        newest = max(points, key=lambda point: (point.timestamp_ms, point.step), default=None)
        return None if newest is None or math.isnan(newest.value) else newest.value

    tables: dict[str, Callable[[str], Value | None]] = {
        "attribute": attributes.get,
        "param": model.params.get,
        "tag": model.tags.get,
        "metric": metric,
    }
    return lambda entity, key: tables[entity](key)


def _is(dataset: str, digest: str, given: tuple[str, str]) -> bool:
    return dataset == given[0] and given[1] in ("", digest)


async def _change(
    s: Services,
    caller: Caller,
    scope: Scope,
    model_id: str,
    alter: Callable[[LoggedModel], LoggedModel],
) -> LoggedModel:
    await _may_write(s, caller, scope, await get(s, scope, model_id))
    return await s.tracking.change_logged_model(scope.arm_id, model_id, alter, s.clock.now())


async def _may_write(s: Services, caller: Caller, scope: Scope, model: LoggedModel) -> None:
    if model.run_id:
        await tracking.may_write(s, caller, scope, model.run_id)
    elif caller.only_own:
        raise Forbidden(
            f"Logged model {model.id!r} belongs to no run of job {caller.job!r}: a job's token writes "
            "only to what the job made."
        )


def _check(params: Mapping[str, str] | None, tags: Mapping[str, str] | None) -> None:
    for what, given in (("Param", params), ("Tag", tags)):
        for key in given or {}:
            tracking.check_key(what, key)
