"""What jobs that start others have in common: how they begin and end, and in whose name they submit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tidemill.app.assets.output_assets import register_outputs
from tidemill.app.computes.teams import TAG as TEAM_TAG
from tidemill.app.computes.teams import tags_of, team_of
from tidemill.app.jobs import notices
from tidemill.app.jobs.transitions import job_event, with_progress
from tidemill.app.people.on_behalf import in_name_of
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.domain.isolation import TAG as ISOLATION_TAG
from tidemill.domain.jobspec import read_header
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.plan import JobError, JobPlan, Place
from tidemill.store.api import Tx

INHERITED_TAGS = (TEAM_TAG, ISOLATION_TAG)


async def header(
    s: Services, caller: Caller, scope: Scope, name: str, properties: Mapping[str, Any]
) -> JobPlan:
    """The plan of a job that has no command of its own. Raises InvalidRequest, NotFound."""
    job = read_header(name, properties)
    team = await team_of(s, caller, tags_of(properties))
    workspace = await s.store.read(lambda read: require_workspace(read, scope))
    account = str(decode_object(workspace.status)["storage_account"])
    return JobPlan(
        job=job,
        compute_uid="",
        compute_name="",
        team=team,
        user=caller.acts_as or caller.oid,
        account=account,
        artifacts=Place(account, "azureml", f"ExperimentRun/dcid.{name}/"),
    )


async def submitter(s: Services, row: Resource) -> Caller:
    """Whoever submitted the job, with the roles that they have now. Raises Forbidden where they may not
    submit any more."""
    whose = f"Job {row.key.name!r} was submitted by {row.created_by}"
    return await in_name_of(s, job_status(row.status).plan.user, row.key.scope, whose)


def child_name(parent: Resource, step: str) -> str:
    """The same for the same parent and step, whenever it is asked: a child is never started twice."""
    mark = hashlib.sha256(f"{parent.uid}/{step}".encode()).hexdigest()[:16]
    word = re.sub(r"[^A-Za-z0-9]+", "_", step).strip("_")[:60]
    return f"{word}_{mark}" if word else mark


def inherited_tags(parent: Resource) -> dict[str, str]:
    """Tags that decide whose job it is and how it is kept apart: they hold for all that it starts."""
    tags = decode_object(parent.tags)
    return {name: str(tags[name]) for name in INHERITED_TAGS if tags.get(name)}


def end(tx: Tx, row: Resource, state: JobState, code: str, message: str, now: int) -> Resource:
    """Ends a job whose children have all ended, and registers its named outputs if it is Completed."""
    status = job_status(row.status)
    completed = state is JobState.COMPLETED
    progress = replace(
        status.progress,
        ended_at=now,
        error=None if completed else JobError(code, message),
        registered=register_outputs(tx, row, status.plan.outputs if completed else (), now),
    )
    tx.add_event(job_event(row, now, state.value, message.split("\n", 1)[0]))
    notices.post(tx, row, status.plan, progress, state, status.kind)
    return tx.update(with_progress(row, status, state, now, progress))


def restated(row: Resource, **plan: Any) -> Resource:
    """The row with other fields of its plan, to be stored."""
    status = job_status(row.status)
    return replace(row, status=encode(replace(status, plan=replace(status.plan, **plan))))
