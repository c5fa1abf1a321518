"""Resolving everything an online deployment names, when it is put: one that is accepted has all it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app import admission, isolation, secretstore
from tidemill.app.asset_rows import MODELS, find_version
from tidemill.app.codec import decode_object
from tidemill.app.endpoint_rows import assigned_in, endpoint_status
from tidemill.app.environments import plan_environment, planned
from tidemill.app.errors import at
from tidemill.app.job_planning import code_place
from tidemill.app.locations import Storage, locate
from tidemill.app.model_flavors import MLFLOW_MODEL, read_flavors
from tidemill.app.model_sources import MLMODEL
from tidemill.app.registries import check_usable
from tidemill.app.registry_rows import need_registry, scope_of_row
from tidemill.app.services import Caller, Services
from tidemill.app.teams import team_of
from tidemill.app.workspaces import require_workspace
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.isolation import level_of, strictest
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Resource, Scope
from tidemill.domain.plan import Place, PlannedEnvironment
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.domain.serving.model import DeploymentSpec
from tidemill.domain.serving.plan import DeploymentPlan, PlannedModel
from tidemill.environments.spec import from_arm
from tidemill.store.api import Read

_MODEL = "properties.model"
_ENVIRONMENT = "properties.environmentId"
_CONDA = ("conda.yaml", "conda.yml")
_MAX_FILE = 1024 * 1024  # of a model's MLmodel and conda file


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
    model = None if found.model is None else await asyncio.to_thread(_with_files, s, found.model)
    environment = await _environment(s, scope, spec, model)
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
            target=_MODEL,
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
    account = str(decode_object(require_workspace(read, scope).status)["storage_account"])
    with at("properties.codeConfiguration.codeId"):
        code = code_place(s, read, scope, spec.code_id, account)
    with at(_MODEL):
        model = _model(s, read, scope, account, spec.model) if spec.model else None
    return _Found(account, code, model)


def _model(s: Services, read: Read, scope: Scope, account: str, given: str) -> PlannedModel:
    uri = parse_uri(given, s.addresses.data_netloc)
    row: Resource | None = None
    if isinstance(uri, RegistryUri):
        there = scope_of_row(need_registry(read, scope.subscription, uri.registry))
        row = find_version(read, there, MODELS, uri.name, uri.version, uri.label)
    elif isinstance(uri, AssetName | AssetId):
        row = find_version(read, scope, MODELS, uri.name, uri.version, uri.label)
    place = locate(read, Storage(scope, account, s.addresses.data_netloc), given, MODELS).place
    if place is None:
        raise InvalidRequest(
            f"Model {given!r} lies outside of this server's storage, so no instance can read it. Register it "
            "from a folder or a datastore.",
            target=_MODEL,
        )
    if row is None:
        return PlannedModel(given, "custom_model", place)
    kind = str(decode_object(row.spec).get("modelType") or "custom_model")
    return PlannedModel(given, kind, place, row.key.parent, row.key.name)


def _with_files(s: Services, model: PlannedModel) -> PlannedModel:
    """A folder's place ends in a slash; MLflow's models have flavors. Raises NotFound, InvalidRequest."""
    place = model.place
    path = place.path.rstrip("/")
    if s.blobs.container(place.account, place.container) is None:
        raise _missing(model)
    if path and s.blobs.get(place.account, place.container, path) is not None:
        if model.type == MLFLOW_MODEL:
            raise InvalidRequest(
                f"Model {model.given!r} is an mlflow_model, but {path} is one file, not a folder with an "
                "MLmodel. Register the folder, or register it as custom_model.",
                target=_MODEL,
            )
        return replace(model, place=replace(place, path=path))
    folder = f"{path}/" if path else ""
    if not s.blobs.list(place.account, place.container, folder, limit=1).blobs:
        raise _missing(model)
    found = replace(model, place=replace(place, path=folder))
    if model.type != MLFLOW_MODEL:
        return found
    flavors = read_flavors(_read(s, found, MLMODEL) or b"")
    if not flavors:
        raise InvalidRequest(
            f"Model {model.given!r} is an mlflow_model, but its folder has no file {MLMODEL} that names "
            "flavors. Log it with mlflow, or register it as custom_model and give a scoring script.",
            target=_MODEL,
        )
    return replace(found, flavors=tuple(flavors))


def _missing(model: PlannedModel) -> NotFound:
    where = f"{model.place.container}/{model.place.path}"
    return NotFound(f"Model {model.given!r}: nothing is stored at {where}.", "ModelNotFound", _MODEL)


async def _environment(
    s: Services, scope: Scope, spec: DeploymentSpec, model: PlannedModel | None
) -> PlannedEnvironment:
    """The one that is named; of an MLflow model without one, what the model says it needs."""
    if spec.environment_id:
        with at(_ENVIRONMENT):
            return await plan_environment(s, scope, spec.environment_id)
    if model is None or model.type != MLFLOW_MODEL:
        raise InvalidRequest(
            f"Deployment {spec.name!r} has no environment: only an mlflow_model brings its own. Give one, "
            "for example azureml:NAME:VERSION.",
            target=_ENVIRONMENT,
        )
    conda = await asyncio.to_thread(_conda_of, s, model)
    if conda is None:
        raise InvalidRequest(
            f"Model {model.given!r} has no {_CONDA[0]} that says what it needs: give the deployment an "
            "environment.",
            target=_ENVIRONMENT,
        )
    with at(_MODEL):
        name, version = model.name or "model", model.version or "1"
        made = from_arm({"condaFile": conda}, name, version, s.curated, s.settings.images)
        return await planned(s, scope, model.given, made)


def _conda_of(s: Services, model: PlannedModel) -> str | None:
    for name in _CONDA:
        raw = _read(s, model, name)
        if raw is not None:
            try:
                return raw.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(
                    f"{name} of model {model.given!r} is no UTF-8 text.", target=_MODEL
                ) from error
    return None


def _read(s: Services, model: PlannedModel, name: str) -> bytes | None:
    """A file of a model's folder; None where there is none, or it is no small text."""
    place = model.place
    blob = s.blobs.get(place.account, place.container, place.path + name)
    if blob is None or blob.size > _MAX_FILE:
        return None
    return s.blobs.read_bytes(place.account, place.container, place.path + name)


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
