"""Looking up everything that a batch deployment names, when it is put: one that is accepted can run."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from tidemill.app.assets import assets
from tidemill.app.assets.environments import plan_environment
from tidemill.app.assets.model_flavors import MLFLOW_MODEL
from tidemill.app.assets.planned_models import MODEL, brought_by, find_model, with_files
from tidemill.app.assets.registries import check_usable
from tidemill.app.computes import computes
from tidemill.app.computes.compute_rules import SERVERLESS
from tidemill.app.errors import at, instead
from tidemill.app.jobs.components import find_component
from tidemill.app.jobs.job_planning import code_place
from tidemill.app.people import secretstore
from tidemill.app.rows.asset_rows import ANONYMOUS, ANONYMOUS_COMPONENT, ENVIRONMENTS
from tidemill.app.rows.batch_rows import BatchDeploymentStatus
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.data.uris import RegistryUri, parse_uri, render_uri
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.model import Caller, Scope
from tidemill.domain.plan import Place
from tidemill.domain.serving.batch import PIPELINE, BatchDeploymentSpec, pipeline_settings
from tidemill.domain.serving.plan import PlannedModel
from tidemill.store.api import Read

_CODE = "properties.codeConfiguration"
_ENVIRONMENT = "properties.environmentId"
_COMPONENT = "properties.deploymentConfiguration"
_DIGITS = 64  # of a hash
_NAMED = 8  # scripts that are listed where one is missing


async def plan(s: Services, caller: Caller, scope: Scope, spec: BatchDeploymentSpec) -> BatchDeploymentStatus:
    """Raises NotFound, InvalidRequest, NotOffered, Conflict or Forbidden, with the property at fault and what
    exists. Written is at most the environment that a model brings with it."""
    if spec.kind == PIPELINE:
        called = await s.store.read(lambda read: _look_at_pipeline(s, read, scope, spec))
        return BatchDeploymentStatus(component_label=called)
    await check_usable(s, caller, [spec.model, spec.code_id, spec.environment_id])
    await secretstore.check_usable(s, caller, scope, spec.environment_variables)
    found = await s.store.read(lambda read: _look(s, read, scope, spec))
    model = None if found.model is None else await asyncio.to_thread(with_files, s, found.model)
    if found.code is not None:
        await asyncio.to_thread(_check_script, s, found.code, spec.scoring_script)
    elif model is not None and model.type != MLFLOW_MODEL:
        raise InvalidRequest(
            f"Deployment {spec.name!r} has no scoring script, and model {model.given!r} is a {model.type}: "
            "only an mlflow_model needs none. Give code_configuration.",
            target=_CODE,
        )
    environment = await _environment(s, caller, scope, spec, model)
    if model is None:
        return BatchDeploymentStatus(environment=environment)
    return BatchDeploymentStatus(_id_of(scope, model), model.type, _label(model), environment)


@dataclass(frozen=True, slots=True)
class _Found:
    code: Place | None
    model: PlannedModel | None


def _look(s: Services, read: Read, scope: Scope, spec: BatchDeploymentSpec) -> _Found:
    workspace = require_workspace(read, scope)
    account = str(decode_object(workspace.status)["storage_account"])
    with at("properties.compute"):
        if computes.name_of(scope, spec.compute).casefold() not in ("", SERVERLESS):
            computes.resolve_in(s, read, scope, spec.compute, workspace)
    if spec.instance_type:
        with at("properties.resources.instanceType"):
            s.sizes.require(spec.instance_type)
    with at(f"{_CODE}.codeId"):
        code = code_place(s, read, scope, spec.code_id, account)
    with at(MODEL):
        model = find_model(s, read, scope, account, spec.model) if spec.model else None
    return _Found(code, model)


def _look_at_pipeline(s: Services, read: Read, scope: Scope, spec: BatchDeploymentSpec) -> str:
    """-> what people call the component."""
    workspace = require_workspace(read, scope)
    with at(f"{_COMPONENT}.componentId"):
        component = find_component(read, scope, spec.component)
    if component.kind != "pipeline":
        raise InvalidRequest(
            f"Component {spec.component!r} is of type {component.kind}: a deployment runs a pipeline "
            "component. Put it into one as a step.",
            target=f"{_COMPONENT}.componentId",
        )
    compute = str(pipeline_settings(spec).get("default_compute") or "")
    with at(f"{_COMPONENT}.settings.default_compute"):
        if computes.name_of(scope, compute).casefold() not in ("", SERVERLESS):
            computes.resolve_in(s, read, scope, compute, workspace)
    anonymous = component.name == ANONYMOUS_COMPONENT
    return component.display_name if anonymous else f"{component.name}:{component.version}"


def _check_script(s: Services, code: Place, script: str) -> None:
    """Blocks. Raises NotFound naming the scripts that are there."""
    folder = code.path if code.path.endswith("/") or not code.path else f"{code.path}/"
    if s.blobs.get(code.account, code.container, f"{folder}{script}") is not None:
        return
    if s.blobs.get(code.account, code.container, code.path) is not None:  # the code is one file
        names = [code.path.rsplit("/", 1)[-1]]
        if script in names:
            return
    else:
        page = s.blobs.list(code.account, code.container, folder, limit=1000)
        names = [blob.name[len(folder) :] for blob in page.blobs if blob.name.endswith(".py")][:_NAMED]
    raise NotFound(
        f"The code has no file {script!r}. {instead(script, names)}",
        "ScoringScriptNotFound",
        f"{_CODE}.scoringScript",
    )


async def _environment(
    s: Services, caller: Caller, scope: Scope, spec: BatchDeploymentSpec, model: PlannedModel | None
) -> str:
    """The one that is named; of an MLflow model without one what it says it needs, registered without a name
    as the SDK does it."""
    if spec.environment_id:
        with at(_ENVIRONMENT):
            await plan_environment(s, scope, spec.environment_id)
        return spec.environment_id
    _, conda = await brought_by(s, f"Deployment {spec.name!r}", model, _ENVIRONMENT)
    version = hashlib.sha256(conda.encode()).hexdigest()
    body = {"properties": {"condaFile": conda, "isAnonymous": True}}
    with at(MODEL):
        await assets.put_version(s, caller, scope, ENVIRONMENTS, ANONYMOUS, version, body)
        given = f"azureml:{ANONYMOUS}:{version}"
        await plan_environment(s, scope, given)
    return given


def _label(model: PlannedModel) -> str:
    """For people: names of models without one are hashes of 64 digits."""
    name = f"{model.name[:8]}…" if len(model.name) == _DIGITS else model.name
    return f"{name}:{model.version}" if name else model.given


def _id_of(scope: Scope, model: PlannedModel) -> str:
    """The version that a label means now: what was deployed stays deployed."""
    if not model.name:
        return model.given
    uri = parse_uri(model.given)
    if isinstance(uri, RegistryUri):
        return render_uri(RegistryUri(uri.registry, uri.kind, model.name, model.version))
    return f"{scope.arm_id}/models/{model.name}/versions/{model.version}"
