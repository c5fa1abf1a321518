"""Resolving everything a job names, at submit: a job that is accepted has all it needs to run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.assets.environments import plan_environment
from tidemill.app.assets.inputs import check_inputs_exist, resolve_input, resolve_output
from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.mltables import with_parts
from tidemill.app.assets.output_assets import not_registrable
from tidemill.app.computes import computes
from tidemill.app.computes.compute_rules import SERVERLESS
from tidemill.app.computes.identities import acts_as
from tidemill.app.computes.teams import team_of
from tidemill.app.errors import at
from tidemill.app.jobs import admission, serverless
from tidemill.app.people import secretstore
from tidemill.app.rows.asset_rows import CODES, find_version
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.registry_rows import need_registry, scope_of_row
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import account_of, require_workspace
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.expressions import render_command
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.plan import JobPlan, Place, PlannedInput, PlannedOutput
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.store.api import Read


async def plan_job(
    s: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    job: CommandJob,
    tags: Mapping[str, Any],
    made: Collection[str] = (),
) -> tuple[JobPlan, tuple[str, ...]]:
    """-> (the plan, lines for the time line). `made`: inputs that other steps made. Raises NotFound,
    InvalidRequest or NotOffered with the name at fault and those that exist."""
    await secretstore.check_usable(s, caller, scope, job.environment_variables)
    with at("properties.environmentId"):
        environment = await plan_environment(s, scope, job.environment_id)
    found = await s.store.read(lambda read: _look(s, read, caller, scope, name, job))
    team = await team_of(s, caller, tags)
    compute, notes = found.compute, ()
    if compute is None:
        choice = await serverless.choose(s, caller, found.workspace, name, job, team)
        compute, notes = choice.spec, choice.notes
    else:
        await admission.check(s, caller, compute, job, team)
    _check_command(job)
    inputs = tuple(replace(i, may_be_empty=True) if i.name in made else i for i in found.inputs)
    if any(item.place is not None for item in inputs):
        await check_inputs_exist(s, inputs)
        inputs = await with_parts(s, caller, scope, found.account, inputs)
    plan = JobPlan(
        job=job,
        compute_uid=compute.uid,
        compute_name=compute.name,
        environment=environment,
        code=found.code,
        inputs=inputs,
        outputs=found.outputs,
        team=team,
        user=caller.acts_as or caller.oid,
        acts_as=found.acts_as,
        account=found.account,
        artifacts=Place(found.account, "azureml", f"ExperimentRun/dcid.{name}/"),
        serverless=compute.size if found.compute is None else "",
    )
    return plan, notes


@dataclass(frozen=True, slots=True)
class _Found:
    """What one reading of the store gives a plan. `compute` None: the job is to have its own."""

    workspace: Resource
    compute: ClusterSpec | None
    account: str
    inputs: tuple[PlannedInput, ...]
    outputs: tuple[PlannedOutput, ...]
    code: Place | None
    acts_as: str


def _look(s: Services, read: Read, caller: Caller, scope: Scope, name: str, job: CommandJob) -> _Found:
    workspace = require_workspace(read, scope)
    account = str(decode_object(workspace.status)["storage_account"])
    with at("properties.computeId"):
        own = computes.name_of(scope, job.compute_id).casefold() in ("", SERVERLESS)
        compute = None if own else computes.resolve_in(s, read, scope, job.compute_id, workspace)
    with at("properties.codeId"):
        code = code_place(s, read, scope, job.code_id, account)
    uid, called = (compute.uid, compute.name) if compute else ("", SERVERLESS)
    return _Found(
        workspace,
        compute,
        account,
        _inputs(s, read, scope, account, job),
        _outputs(s, read, scope, account, name, job),
        code,
        acts_as(s, read, caller, job, uid, called),
    )


def _outputs(
    s: Services, read: Read, scope: Scope, account: str, name: str, job: CommandJob
) -> tuple[PlannedOutput, ...]:
    """Raises Conflict for one that is to be an asset that exists: versions never change."""
    outputs: list[PlannedOutput] = []
    for item in job.outputs:
        with at(f"properties.outputs.{item.name}.uri"):
            outputs.append(resolve_output(s, read, scope, account, name, item))
    for output in outputs:
        problem = not_registrable(read, scope, output) if output.asset_name else ""
        if problem:
            target = f"properties.outputs.{output.name}"
            raise Conflict(f"Output {output.name!r}: {problem}", "OutputNotRegistrable", target)
    return tuple(outputs)


def _inputs(s: Services, read: Read, scope: Scope, account: str, job: CommandJob) -> tuple[PlannedInput, ...]:
    inputs: list[PlannedInput] = []
    for item in job.inputs:
        with at(f"properties.inputs.{item.name}"):
            inputs.append(resolve_input(s, read, scope, account, item))
    return tuple(inputs)


def code_place(s: Services, read: Read, scope: Scope, code_id: str, account: str) -> Place | None:
    """Where a registered code version lies; None for none. Raises NotFound or InvalidRequest."""
    if not code_id:
        return None
    given = parse_uri(code_id, s.addresses.data_netloc)
    if isinstance(given, RegistryUri):
        registry = need_registry(read, scope.subscription, given.registry)
        scope, account = scope_of_row(registry), account_of(registry)
    elif not isinstance(given, AssetName | AssetId):
        raise InvalidRequest(
            f"codeId {code_id!r} is not a registered code version. Register the code first.",
            target="properties.codeId",
        )
    row = find_version(read, scope, CODES, given.name, given.version, given.label)
    uri = str(decode_object(row.spec).get("codeUri", ""))
    found = locate(read, Storage(scope, account, s.addresses.data_netloc), uri)
    if found.place is None:
        raise InvalidRequest(
            f"Code {given.name!r} lies at {uri}, which is not our storage.", target="properties.codeId"
        )
    return found.place


def _check_command(job: CommandJob) -> None:
    """Every expression of the command must name an input or an output. Raises InvalidRequest."""
    inputs = {**dict.fromkeys(job.unset_inputs), **{item.name: item.value for item in job.inputs}}
    outputs = {item.name: item.name for item in job.outputs}
    render_command(job.command, inputs, outputs)
