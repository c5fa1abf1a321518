"""MLflow experiments of a workspace. A job may make one and tag it; renaming and
deleting are the owner's."""

from __future__ import annotations

from collections.abc import Mapping

from tidemill.app.services import Services
from tidemill.app.tracking.tracking import check_key, live_job
from tidemill.app.tracking.tracking_jobs import DEFAULT_ID, DEFAULT_NAME, ensure_experiment, sync
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound
from tidemill.domain.model import Caller, Scope
from tidemill.store.tracking import Experiment

_MAX_NAME = 500
_MAX_TAG = 20_000


async def create(
    s: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    location: str = "",
    tags: Mapping[str, str] | None = None,
) -> Experiment:
    """Raises Conflict (RESOURCE_ALREADY_EXISTS), InvalidRequest for a name that is empty or too long."""
    _check_name(name)
    for key, value in (tags or {}).items():
        _check_tag(key, value)
    if caller.kind == "job":
        await live_job(s, caller, scope)
    now = s.clock.now()
    id = DEFAULT_ID if name == DEFAULT_NAME else s.ids.uid()
    location = location or f"mlflow-artifacts:/experiments/{id}"
    experiment = Experiment(id, name, location, created_at=now, updated_at=now, tags=dict(tags or {}))
    return await s.tracking.create_experiment(scope.arm_id, experiment)


async def get(s: Services, scope: Scope, experiment_id: str) -> Experiment:
    """Raises NotFound. The default one is made when it is first asked for."""
    if experiment_id == DEFAULT_ID:
        return await ensure_experiment(s, scope, DEFAULT_NAME)
    return await s.tracking.get_experiment(scope.arm_id, experiment_id)


async def get_by_name(s: Services, scope: Scope, name: str) -> Experiment:
    if name == DEFAULT_NAME:
        return await ensure_experiment(s, scope, DEFAULT_NAME)
    try:
        return await s.tracking.get_experiment_by_name(scope.arm_id, name)
    except NotFound:
        await sync(s, scope)  # it may be that of a job nobody has looked at yet
        return await s.tracking.get_experiment_by_name(scope.arm_id, name)


async def rename(s: Services, caller: Caller, scope: Scope, experiment_id: str, name: str) -> None:
    _check_name(name)
    _refuse_job(caller, "rename")
    await s.tracking.rename_experiment(scope.arm_id, experiment_id, name, s.clock.now())


async def delete(s: Services, caller: Caller, scope: Scope, experiment_id: str) -> None:
    _refuse_job(caller, "delete")
    if experiment_id == DEFAULT_ID:
        raise InvalidRequest("The default experiment cannot be deleted.", target=experiment_id)
    await s.tracking.delete_experiment(scope.arm_id, experiment_id, s.clock.now())


async def restore(s: Services, caller: Caller, scope: Scope, experiment_id: str) -> None:
    _refuse_job(caller, "restore")
    await s.tracking.restore_experiment(scope.arm_id, experiment_id, s.clock.now())


async def set_tag(
    s: Services, caller: Caller, scope: Scope, experiment_id: str, key: str, value: str
) -> None:
    _check_tag(key, value)
    if caller.kind == "job":
        await live_job(s, caller, scope)
    await get(s, scope, experiment_id)
    await s.tracking.set_experiment_tag(scope.arm_id, experiment_id, key, value)


def _refuse_job(caller: Caller, verb: str) -> None:
    if caller.only_own:
        raise Forbidden(
            f"Job {caller.job!r} may not {verb} experiments: they belong to the "
            "workspace. Use a token of your own."
        )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _MAX_NAME:
        raise InvalidRequest(
            f"Experiment name {name[:80]!r} has {len(name)} characters: it must have 1 to {_MAX_NAME}, "
            "and not only spaces.",
            target="name",
        )


def _check_tag(key: str, value: str) -> None:
    check_key("Tag", key)
    if len(value) > _MAX_TAG:
        raise InvalidRequest(f"Tag {key!r} has {len(value)} characters; it may have {_MAX_TAG}.", target=key)
