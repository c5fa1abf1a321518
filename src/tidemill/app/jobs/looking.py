"""Looking inside a running job: where it is, and whether this caller may go there.

The action `jobs/exec/action` lets in. Inside is everything the job has, so a job that acts for an identity or
holds secrets lets in only who submitted it, and who could give themselves the roles anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.app.jobs import job_logs, jobs
from tidemill.app.people.access import authorise, check_lives, decide
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest
from tidemill.domain.jobspec import KEEP
from tidemill.domain.launch import first_rank_on
from tidemill.domain.looking import ACTION, GRANTING
from tidemill.domain.model import JobState, Resource, Scope
from tidemill.domain.secretrefs import references
from tidemill.engines.base import TaskKey


@dataclass(frozen=True, slots=True)
class Target:
    """A task that runs now."""

    row: Resource
    node_id: str
    task: TaskKey


async def target_of(s: Services, caller: Caller, scope: Scope, name: str, node: int = 0) -> Target:
    """The first rank on the job's node number `node`. Raises NotFound, Forbidden, Conflict (it does not run),
    InvalidRequest."""
    row = await jobs.get(s, scope, name)
    await _check_private(s, caller, row)
    if row.state != JobState.RUNNING:
        raise Conflict(f"Job {name!r} {_why_not(row)}", "JobNotRunning", name)
    attempt = await job_logs.live_attempt(s, row)
    if attempt is None or attempt.started_at is None:
        raise Conflict(f"Job {name!r} is just starting or ending. Try again.", "JobNotRunning", name)
    if not 0 <= node < len(attempt.nodes):
        raise InvalidRequest(
            f"Job {name!r} runs on {len(attempt.nodes)} node(s), numbered from 0; there is no node {node}.",
            target="node",
        )
    rank = first_rank_on(job_status(row.status).plan.job, node)
    return Target(row, attempt.nodes[node], TaskKey(attempt.id, rank))


async def check_still(s: Services, caller: Caller, target: Target) -> None:
    """While somebody is inside: the sign-in, the principal, the role and the job are still there. Raises
    what a new request would be refused with."""
    await check_lives(s, caller)
    name = target.row.key.name
    row = await s.store.read(lambda r: r.by_uid(target.row.uid))
    if row is None or JobState(row.state).final:
        raise Conflict(f"Job {name!r} has ended.", "JobNotRunning", name)
    await check_may_enter(s, caller, row)


async def check_may_enter(s: Services, caller: Caller, row: Resource) -> None:
    """Whether or not it runs now. Raises AccessDenied, Forbidden."""
    await authorise(s, caller, ACTION, row.key.scope, f"jobs/{row.key.name}")
    await _check_private(s, caller, row)


async def _check_private(s: Services, caller: Caller, row: Resource) -> None:
    plan = job_status(row.status).plan
    borrowed = bool(plan.acts_as)
    secrets = references(plan.job.environment_variables)
    if plan.user == (caller.acts_as or caller.oid) or not (borrowed or secrets):
        return
    if (await decide(s, caller, GRANTING, row.key.scope)).allowed:
        return
    kind = plan.job.identity.kind
    has = f"acts for an identity ({kind})" if borrowed else "holds secrets that its submitter may read"
    raise Forbidden(
        f"Job {row.key.name!r} {has}, so only {row.created_by}, who submitted it, and those who may grant "
        f"roles in workspace {row.key.scope.workspace!r} can look inside.",
        target=row.key.name,
    )


def _why_not(row: Resource) -> str:
    if JobState(row.state).final:
        return (
            f"has ended ({row.state}): there is nothing left to look into. Its files: tidemill job download. "
            f"Nodes of jobs with the property {KEEP} stay when they fail."
        )
    if row.state in (JobState.CANCEL_REQUESTED, JobState.FINALIZING):
        return f"is ending ({row.state})."
    return f"does not run yet ({row.state}). See why: tidemill job why --name {row.key.name}"
