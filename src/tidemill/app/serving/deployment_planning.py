"""Resolving everything an online deployment names, when it is put: one that is accepted has all it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.app.assets.environments import plan_environment, planned
from tidemill.app.assets.planned_models import MODEL, brought_by, find_model, with_files
from tidemill.app.assets.registries import check_usable
from tidemill.app.computes import isolation
from tidemill.app.computes.teams import team_of
from tidemill.app.errors import at
from tidemill.app.jobs import admission
from tidemill.app.jobs.job_planning import code_place
from tidemill.app.people import secretstore
from tidemill.app.rows.endpoint_rows import assigned_in, endpoint_status
from tidemill.app.services import Caller, Services
from tidemill.app.workspaces.workspaces import account_of, require_workspace
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.isolation import level_of, strictest
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Resource, Scope
from tidemill.domain.plan import Place, PlannedEnvironment
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.domain.serving.model import DeploymentSpec
from tidemill.domain.serving.plan import DeploymentPlan, PlannedModel
from tidemill.environments.spec import from_arm
from tidemill.store.api import Read

_ENVIRONMENT = "properties.environmentId"


async def plan_deployment(
    s: Services,
    caller: Caller,
    scope: Scope,
    endpoint: Resource,
    spec: DeploymentSpec,
    tags: Mapping[str, Any],
    compute_uid: str,
) -> DeploymentPlan:
    """Raises NotFound, InvalidRequest, NotOffered, Conflict or Forbidden, with the name at fault and those
    that exist. Nothing is written."""
    with at("properties.instanceType"):
        s.sizes.require(spec.instance_type)
    await check_usable(s, caller, [spec.model, spec.code_id, spec.environment_id])
    await secretstore.check_usable(s, caller, scope, spec.environment_variables)
    found = await s.store.read(lambda read: _look(s, read, scope, spec))
    model = None if found.model is None else await asyncio.to_thread(with_files, s, found.model)
    environment = await environment_for(
        s, scope, f"Deployment {spec.name!r}", spec.environment_id, model, _ENVIRONMENT
    )
    _check_serves(spec, environment)
    level = strictest(s.settings.require_isolation, level_of(tags, "tags"))
    if level:
        await isolation.check_host(s, level)
    team = await team_of(s, caller, tags)
    await _admit(s, caller, scope, spec, team, compute_uid)
    return DeploymentPlan(
        spec,
        environment,
        found.code,
        model,
        compute_uid,
        found.account,
        team,
        caller.acts_as or caller.oid,
        identity_of(endpoint),
        level,
    )


def _check_serves(spec: DeploymentSpec, environment: PlannedEnvironment) -> None:
    """Something answers: a script, a model that needs none, or the environment's image itself. Raises
    InvalidRequest."""
    if environment.container is not None and not environment.in_image:
        raise InvalidRequest(
            f"Environment {environment.label} has an inference_config, so its image is to serve by itself; "
            f"but it has no image that this server uses. {environment.host_instead}".rstrip(),
            target=_ENVIRONMENT,
        )
    if not (spec.code_id or spec.model or environment.container):
        raise InvalidRequest(
            f"Deployment {spec.name!r} has neither a scoring script nor a model, and its environment no "
            "inference_config: there is nothing to serve.",
            target=MODEL,
        )


def identity_of(endpoint: Resource) -> str:
    """Object id of the principal that an endpoint's instances act as: its own identity, or the first that was
    assigned to it; "" for none."""
    identity = endpoint_status(endpoint).identity or {}
    return str(identity.get("principalId") or next(iter(assigned_in(identity)), ""))


@dataclass(frozen=True, slots=True)
class _Found:
    """What one reading of the store gives a plan."""

    account: str
    code: Place | None
    model: PlannedModel | None


def _look(s: Services, read: Read, scope: Scope, spec: DeploymentSpec) -> _Found:
    account = account_of(require_workspace(read, scope))
    with at("properties.codeConfiguration.codeId"):
        code = code_place(s, read, scope, spec.code_id, account)
    with at(MODEL):
        model = find_model(s, read, scope, account, spec.model) if spec.model else None
    return _Found(account, code, model)


async def environment_for(
    s: Services, scope: Scope, what: str, environment_id: str, model: PlannedModel | None, target: str
) -> PlannedEnvironment:
    """The one that is named; of an MLflow model without one, what the model says it needs. `what` wants it,
    for sentences; `target`: the property. Raises NotFound, InvalidRequest."""
    if environment_id:
        with at(target):
            return await plan_environment(s, scope, environment_id)
    model, conda = await brought_by(s, what, model, target)
    with at(MODEL):
        name, version = model.name or "model", model.version or "1"
        made = from_arm({"condaFile": conda}, name, version, s.curated, s.settings.images)
        return await planned(s, scope, model.given, made)


async def _admit(
    s: Services, caller: Caller, scope: Scope, spec: DeploymentSpec, team: str, compute_uid: str
) -> None:
    """By the same rules as a job of so many nodes."""
    size = s.sizes.require(spec.instance_type)
    cluster = ClusterSpec(
        uid=compute_uid,
        name=spec.label,
        workspace=scope,
        size=size.name,
        node=size.vector,
        min_nodes=0,
        max_nodes=max(1, spec.instances, spec.scale.maximum),
        idle_us=0,
        region=s.settings.region,
        family=size.family,
        purpose=f"deployment '{spec.endpoint}/{spec.name}'",
    )
    asked = CommandJob("", display_name=f"{spec.endpoint}/{spec.name}", node_count=max(1, spec.instances))
    with at("sku.capacity"):
        await admission.check(s, caller, cluster, asked, team)
