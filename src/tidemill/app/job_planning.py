"""Resolving everything a job names, at submit: a job that is accepted has all it needs to run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from tidemill.app import computes
from tidemill.app.codec import decode_object
from tidemill.app.environments import plan_environment
from tidemill.app.inputs import resolve_input, resolve_output
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered
from tidemill.domain.expressions import ExpressionError, render_command
from tidemill.domain.ids import parse_workspace_id
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.model import Caller, Key, Scope
from tidemill.domain.plan import JobPlan, Place, PlannedInput, PlannedOutput
from tidemill.store.api import Read, ResourceQuery


async def plan_job(s: Services, caller: Caller, scope: Scope, name: str, job: CommandJob) -> JobPlan:
    """Raises NotFound, InvalidRequest or NotOffered with the name at fault and those that exist."""
    target = await computes.resolve(s, scope, job.compute_id)
    environment = await plan_environment(s, scope, job.environment_id)
    workspace = await s.store.read(lambda r: r.get(Key(Scope(scope.subscription, scope.group), "workspaces", scope.workspace)))
    if workspace is None:
        raise NotFound(f"Workspace {scope.workspace!r} was not found.", target=scope.workspace)
    account = str(decode_object(workspace.status)["storage_account"])
    inputs = await s.store.read(lambda r: tuple(resolve_input(s, r, scope, account, item) for item in job.inputs))
    outputs = await s.store.read(lambda r: tuple(resolve_output(s, r, scope, account, name, item) for item in job.outputs))
    code = await s.store.read(lambda r: _code(r, scope, job.code_id, s, account))
    _check_command(job, inputs, outputs)
    return JobPlan(
        job=job,
        compute_uid=target.uid,
        compute_name=target.name,
        environment=environment,
        code=code,
        inputs=inputs,
        outputs=outputs,
        team=caller.oid,
        account=account,
        artifacts=Place(account, "azureml", f"ExperimentRun/dcid.{name}/"),
    )
