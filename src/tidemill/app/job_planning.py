"""Resolving everything a job names, at submit: a job that is accepted has all it needs to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.app import admission, computes, secretstore
from tidemill.app.asset_rows import CODES, find_version
from tidemill.app.codec import decode_object
from tidemill.app.environments import plan_environment
from tidemill.app.identities import acts_as
from tidemill.app.inputs import check_inputs_exist, resolve_input, resolve_output
from tidemill.app.locations import Storage, locate
from tidemill.app.output_assets import not_registrable
from tidemill.app.services import Services
from tidemill.app.teams import team_of
from tidemill.app.workspaces import require_workspace
from tidemill.data.uris import AssetId, AssetName, parse_uri
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.expressions import render_command
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Caller, Scope
from tidemill.domain.plan import JobPlan, Place, PlannedInput, PlannedOutput
from tidemill.domain.scheduling.types import ClusterSpec
from tidemill.store.api import Read


async def plan_job(
    s: Services, caller: Caller, scope: Scope, name: str, job: CommandJob, tags: Mapping[str, Any]
) -> JobPlan:
    """Raises NotFound, InvalidRequest or NotOffered with the name at fault and those that exist."""
    if job.instance_type and not job.compute_id:
        s.sizes.require(job.instance_type)
    await secretstore.check_usable(s, caller, scope, job.environment_variables)
    environment = await plan_environment(s, scope, job.environment_id)
    found = await s.store.read(lambda read: _look(s, read, caller, scope, name, job))
    team = await team_of(s, caller, tags)
    await admission.check(s, caller, found.compute, job, team)
    _check_command(job)
    if any(item.place is not None for item in found.inputs):
        await check_inputs_exist(s, found.inputs)
    return JobPlan(
        job=job,
        compute_uid=found.compute.uid,
        compute_name=found.compute.name,
        environment=environment,
        code=found.code,
        inputs=found.inputs,
        outputs=found.outputs,
        team=team,
        user=caller.acts_as or caller.oid,
        acts_as=found.acts_as,
        account=found.account,
        artifacts=Place(found.account, "azureml", f"ExperimentRun/dcid.{name}/"),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What one reading of the store gives a plan."""

    compute: ClusterSpec
    account: str
    inputs: tuple[PlannedInput, ...]
    outputs: tuple[PlannedOutput, ...]
    code: Place | None
    acts_as: str


def _look(s: Services, read: Read, caller: Caller, scope: Scope, name: str, job: CommandJob) -> _Found:
    workspace = require_workspace(read, scope)
    account = str(decode_object(workspace.status)["storage_account"])
    compute = computes.resolve_in(s, read, scope, job.compute_id, workspace)
    return _Found(
        compute,
        account,
        tuple(resolve_input(s, read, scope, account, item) for item in job.inputs),
        _outputs(s, read, scope, account, name, job),
        _code(s, read, scope, job.code_id, account),
        acts_as(s, read, caller, job, compute.uid, compute.name),
    )


def _outputs(
    s: Services, read: Read, scope: Scope, account: str, name: str, job: CommandJob
) -> tuple[PlannedOutput, ...]:
    """Raises Conflict for one that is to be an asset that exists: versions never change."""
    outputs = tuple(resolve_output(s, read, scope, account, name, item) for item in job.outputs)
    for output in outputs:
        problem = not_registrable(read, scope, output) if output.asset_name else ""
        if problem:
            target = f"properties.outputs.{output.name}"
            raise Conflict(f"Output {output.name!r}: {problem}", "OutputNotRegistrable", target)
    return outputs


def _code(s: Services, read: Read, scope: Scope, code_id: str, account: str) -> Place | None:
    if not code_id:
        return None
    given = parse_uri(code_id, s.addresses.data_netloc)
    if not isinstance(given, AssetName | AssetId):
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
