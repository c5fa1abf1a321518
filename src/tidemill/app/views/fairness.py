"""Quotas and the queue as people read them. Everybody sees what access lets them see: of jobs elsewhere only
the size and the times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.computes import computes, quotas, teams
from tidemill.app.computes.compute_rules import SERVERLESS
from tidemill.app.jobs import admission, jobs, serverless
from tidemill.app.people import access
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Caller, Services
from tidemill.app.times import iso
from tidemill.app.workspaces.workspaces import require_workspace
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.domain.ids import PROVIDER
from tidemill.domain.jobspec import HIGH, LOW, MEDIUM
from tidemill.domain.model import JobState, Resource, Scope
from tidemill.domain.quota import (
    ANY,
    COMPUTE,
    USER,
    WORKSPACE,
    Equation,
    Quotas,
    measured,
    short,
    unit,
    waits_sentence,
)
from tidemill.domain.roles import AccessIndex
from tidemill.domain.scheduling.allowance import admit_quotas
from tidemill.domain.scheduling.pool import PoolState
from tidemill.domain.scheduling.types import ClusterSpec, JobRequest
from tidemill.domain.scheduling.views import Holder, Waiting
from tidemill.store.api import Read, ResourceQuery

READ_JOBS = f"{PROVIDER}/workspaces/jobs/read"
READ_QUOTAS = f"{PROVIDER}/locations/quotas/read"
WRITE_QUOTAS = f"{PROVIDER}/locations/updateQuotas/action"
RUNS_LOOKED_AT = 200  # of the newest in a workspace, for how long a job of an experiment runs
MOST_QUEUED = 1000
PRIORITIES = {LOW: "low", MEDIUM: "medium", HIGH: "high"}


def scheduler(s: Services) -> PoolState:
    assert s.live.scheduler is not None, "the controllers run before requests are answered"
    return s.live.scheduler()


# ------------------------------------------------------------ who may see what


@dataclass(slots=True)
class Eyes:
    """What one caller may see of jobs, asked once for each workspace."""

    s: Services
    caller: Caller
    known: dict[Scope, bool]

    async def may_see(self, workspace: Scope) -> bool:
        if workspace not in self.known:
            decision = await access.decide(self.s, self.caller, READ_JOBS, workspace)
            self.known[workspace] = decision.allowed
        return self.known[workspace]


# ------------------------------------------------------------ quota show


async def show(s: Services, caller: Caller) -> list[dict[str, Any]]:
    """Every quota with what is used of it: all to whoever may read quotas, else those that hold for the
    caller (own, own teams', those of workspaces whose jobs one may read)."""
    found = await s.store.read(quotas.rules)
    subscription = Scope(s.settings.subscription)
    if not (await access.decide(s, caller, READ_QUOTAS, subscription)).allowed:
        mine = {caller.acts_as or caller.oid, ANY, *(await teams.teams_of(s, caller))}
        eyes = Eyes(s, caller, {})
        found = [rule for rule in found if rule.id in mine or await _sees(eyes, rule)]
    used = scheduler(s).used([(rule.kind, rule.id, measure) for rule in found for measure in rule.limits])
    index = await s.access.current()
    return [_shown(rule, used, index) for rule in found]


async def held(s: Services, caller: Caller) -> list[dict[str, Any]]:
    """`show`, and of each limit its `holders`. Of a limit of each user, what the caller holds."""
    eyes, ends = Eyes(s, caller, {}), Ends(s)
    found = await show(s, caller)
    for rule in found:
        id = (caller.acts_as or caller.oid) if (rule["kind"], rule["id"]) == (USER, ANY) else rule["id"]
        for line in rule["limits"]:
            key, measure = (rule["kind"], id, line["measure"]), line["measure"]
            line["text"] = measured(measure, line["limit"] * unit(measure))
            line["holders"] = [
                await _holder(s, holder, measure, eyes, ends) for holder in scheduler(s).holders(key)
            ]
            if id != ANY:
                line["used"] = _whole(measure, scheduler(s).used([key]).get(key, 0))
    return found


async def _sees(eyes: Eyes, rule: quotas.Rule) -> bool:
    if rule.kind not in (WORKSPACE, COMPUTE) or rule.id == ANY:
        return False
    parts = rule.id.split("/")
    return await eyes.may_see(Scope(parts[2], parts[4], parts[8]))


def name_of_team(index: AccessIndex, rule: quotas.Rule) -> str | None:
    """Of a user's default team."""
    team = index.principal(rule.default_team)
    return team.name if team else None


def _shown(rule: quotas.Rule, used: dict[tuple[str, str, str], int], index: AccessIndex) -> dict[str, Any]:
    return {
        "kind": rule.kind,
        "id": rule.id,
        "name": rule.name,
        "weight": rule.weight,
        "default_team": name_of_team(index, rule),
        "limits": [
            {
                "measure": measure,
                "limit": limit,
                "used": None
                if rule.id == ANY
                else _whole(measure, used.get((rule.kind, rule.id, measure), 0)),
            }
            for measure, limit in rule.limits.items()
        ],
    }


def _whole(measure: str, amount: int) -> float | int:
    value = amount / unit(measure)
    return int(value) if value == int(value) else value


# ------------------------------------------------------------ quota explain


@dataclass(frozen=True, slots=True)
class Ask:
    """A job that is there (`job`), or one that is only thought of: nodes of a compute, or of a size."""

    job: str = ""
    compute: str = ""
    size: str = ""
    nodes: int = 1
    team: str = ""


async def explain(s: Services, caller: Caller, scope: Scope, ask: Ask) -> dict[str, Any]:
    """Every quota that holds for the ask as an equation: limit, used, asked, and each holder with when it
    began and when it is expected to give back. Raises NotFound, InvalidRequest."""
    spec, request = await (_of_job(s, scope, ask.job) if ask.job else _of_thought(s, caller, scope, ask))
    pool = scheduler(s)
    own = await quotas.serverless_nodes(s) if spec.purpose else 0
    limits = await s.store.read(lambda r: quotas.load(r, own))
    found = pool.equations(spec, request)
    wait = pool.explain(request.uid, s.clock.now()) if request.uid else None
    over = next((each for each in found if not each.fits), None)
    never = admit_quotas(request, spec, limits)
    if wait is not None:
        verdict = wait.sentence
    elif never is not None:
        verdict = never.message
    elif over is not None:
        verdict = waits_sentence(limits, over)
    else:
        verdict = "Every quota that holds for it has room." if found else "No quota holds for it."
    eyes, ends = Eyes(s, caller, {}), Ends(s)
    return {
        "job": request.name if request.uid else None,
        "size": spec.size,
        "nodes": request.node_count,
        "compute": spec.name,
        "fits": over is None,
        "verdict": verdict,
        "equations": [await _equation(s, each, limits, eyes, ends) for each in found],
    }


async def _of_job(s: Services, scope: Scope, name: str) -> tuple[ClusterSpec, JobRequest]:
    row = await jobs.get(s, scope, name)
    plan = job_status(row.status).plan
    spec = await computes.resolve_uid(s, plan.compute_uid)
    if spec is None:
        raise NotFound(f"The compute of job {name!r} does not exist any more.", target=name)
    if JobState(row.state).final:
        raise InvalidRequest(f"Job {name!r} has ended: it asks for nothing any more.", target="job")
    request = JobRequest(
        row.uid,
        row.key.name,
        row.key.scope,
        plan.team,
        spec.uid,
        plan.job.node_count,
        plan.job.priority,
        row.created_at,
        user=plan.user or plan.team,
    )
    return spec, request


async def _of_thought(s: Services, caller: Caller, scope: Scope, ask: Ask) -> tuple[ClusterSpec, JobRequest]:
    if ask.compute.casefold() in ("", SERVERLESS):
        workspace = await s.store.read(lambda r: require_workspace(r, scope))
        size = s.sizes.require(ask.size or serverless.DEFAULT_SIZES[0])
        spec = serverless.cluster(s, workspace, f"new:{size.name}", "this", size, ask.nodes)
        if ask.size and not ask.compute:  # a compute that is not there yet
            spec = replace(spec, name="new", purpose="")
    else:
        spec = await computes.resolve(s, scope, ask.compute)
        size = s.sizes.require(ask.size or spec.size)
        if size.name != spec.size:
            raise InvalidRequest(
                f"Compute {spec.name!r} has nodes of {spec.size}, not of {size.name}: give one of the two.",
                target="size",
            )
    team = await teams.team_of(s, caller, {teams.TAG: ask.team})
    return spec, admission.request_of(spec, "this", ask.nodes, team, caller.acts_as or caller.oid)


async def _equation(
    s: Services, equation: Equation, limits: Quotas, eyes: Eyes, ends: Ends
) -> dict[str, Any]:
    kind, id, measure = equation.key
    return {
        "kind": kind,
        "name": limits.names.get((kind, id)) or short(id),
        "measure": measure,
        "limit": _whole(measure, equation.limit),
        "used": _whole(measure, equation.used),
        "kept": _whole(measure, equation.before),
        "asked": _whole(measure, equation.asked),
        "fits": equation.fits,
        "text": equation.text(),
        "holders": [
            await _holder(s, holder, measure, eyes, ends) for holder in scheduler(s).holders(equation.key)
        ],
    }


async def _holder(s: Services, holder: Holder, measure: str, eyes: Eyes, ends: Ends) -> dict[str, Any]:
    job = holder.job
    until, why = holder.until, ""
    if until is not None:
        why = "its timeout, at the latest" if job else "its idle time, if no job takes it"
    elif job is not None:
        until, why = await ends.of(job, holder.since)
    visible = job is None or await eyes.may_see(job.workspace)
    return {
        "amount": _whole(measure, holder.amount),
        "text": measured(measure, holder.amount),
        "job": (job.name if visible else "another team's job") if job else None,
        "user": await _user_name(s, job) if job and visible else None,
        "nodes": list(holder.nodes) if visible else len(holder.nodes),
        "state": holder.state,
        "compute": holder.cluster if visible else None,
        "since": iso(holder.since) if holder.since else None,
        "released_at": iso(until),
        "released_by": why,
    }


async def _user_name(s: Services, job: JobRequest) -> str:
    principal = (await s.access.current()).principal(job.user)
    return principal.name if principal else job.user


class Ends:
    """When a running job is expected to end: the median of the newest completed runs of its experiment. Read
    once for each workspace."""

    def __init__(self, s: Services) -> None:
        self._s = s
        self._lengths: dict[Scope, dict[str, list[int]]] = {}

    async def of(self, job: JobRequest, since: int) -> tuple[int | None, str]:
        """-> (when, by what); (None, why not or "") where nothing is known."""
        row = await self._s.store.read(lambda read: read.by_uid(job.uid))
        if row is None:
            return None, ""
        experiment = job_status(row.status).plan.job.experiment
        lengths = (await self._known(job.workspace)).get(experiment, [])
        if not lengths:
            return None, ""
        runs = f"{len(lengths)} earlier run{'' if len(lengths) == 1 else 's'} of {experiment}"
        until = since + int(statistics.median(lengths))
        if until <= self._s.clock.now():
            return None, f"it runs longer than the median of {runs}"
        return until, f"the median of {runs}"

    async def length(self, row: Resource) -> int | None:
        """How long a waiting job will run: its experiment's median, at most its timeout; None: not known."""
        job = job_status(row.status).plan.job
        lengths = (await self._known(row.key.scope)).get(job.experiment, [])
        found = [int(statistics.median(lengths))] if lengths else []
        found += [job.timeout_s * 1_000_000] if job.timeout_s else []
        return min(found, default=None)

    async def _known(self, workspace: Scope) -> dict[str, list[int]]:
        if workspace not in self._lengths:
            query = ResourceQuery(jobs.TYPE, workspace, states=(JobState.COMPLETED,), limit=RUNS_LOOKED_AT)
            lengths = self._lengths[workspace] = {}
            for row in await self._s.store.read(lambda read: read.find(query)):
                status = job_status(row.status)
                if status.progress.started_at and status.progress.ended_at:
                    length = status.progress.ended_at - status.progress.started_at
                    lengths.setdefault(status.plan.job.experiment, []).append(length)
        return self._lengths[workspace]


# ------------------------------------------------------------ queue


async def queue(
    s: Services, caller: Caller, workspace: Scope | None, compute: str, limit: int
) -> list[dict[str, Any]]:
    """The jobs that wait, by compute and in order. `workspace` and `compute` narrow it to what the caller
    may read: else the answer would tell what its lines do not. Raises AccessDenied, NotFound."""
    if workspace is not None:
        await access.authorise(s, caller, READ_JOBS, workspace)
    pool, eyes, ends = scheduler(s), Eyes(s, caller, {}), Ends(s)
    wanted: list[ClusterSpec] = []
    for spec in sorted(pool.clusters(), key=lambda each: (each.workspace, each.name)):
        if workspace is not None and spec.workspace.arm_id.lower() != workspace.arm_id.lower():
            continue
        named = compute.lower() == spec.name.lower() and await eyes.may_see(spec.workspace)
        if not compute or named:
            wanted.append(spec)
    if compute and not wanted:
        await _check_compute(s, workspace, compute)
    found: list[dict[str, Any]] = []
    for spec in wanted:
        left = limit - len(found)
        if left <= 0:
            break
        lengths = await _lengths(s, spec, ends, left)
        for waiting in pool.queue(spec.uid, s.clock.now(), left, lambda job: lengths.get(job.uid)):  # noqa: B023
            found.append(await _waiting(s, spec, waiting, eyes))
    return found


async def _check_compute(s: Services, workspace: Scope | None, compute: str) -> None:
    if workspace is not None and compute.casefold() != SERVERLESS:
        await computes.resolve(s, workspace, compute)


async def _lengths(s: Services, spec: ClusterSpec, ends: Ends, limit: int) -> dict[str, int]:
    """How long the running and the first waiting jobs of a cluster take, as far as that is known."""
    final = tuple(state.value for state in JobState if state.final)

    def look(read: Read) -> Sequence[Resource]:
        query = ResourceQuery(jobs.TYPE, ref=spec.uid, exclude_states=final, ascending=True, limit=limit)
        return read.find(query)

    rows = await s.store.read(look)
    found = {row.uid: await ends.length(row) for row in rows}
    return {uid: length for uid, length in found.items() if length is not None}


async def _waiting(s: Services, spec: ClusterSpec, waiting: Waiting, eyes: Eyes) -> dict[str, Any]:
    job, now = waiting.job, s.clock.now()
    seen = await eyes.may_see(job.workspace)
    wait = scheduler(s).explain(job.uid, now) if seen else None
    team = (await s.access.current()).principal(job.team)
    return {
        "position": waiting.position or None,
        "compute": spec.name if seen else None,
        "workspace": spec.workspace.workspace if seen else None,
        "job": job.name if seen else "another team's job",
        "user": await _user_name(s, job) if seen else None,
        "team": (team.name if team else job.team) if seen else None,
        "priority": PRIORITIES.get(job.priority, job.priority) if seen else None,
        "size": spec.size,
        "nodes": job.node_count,
        "submitted_at": iso(job.submitted_at),
        "waits_s": max(0, now - job.submitted_at) / 1e6,
        "share": round(waiting.team_share, 6) if seen else None,
        "user_share": round(waiting.user_share, 6) if seen else None,
        "team_holds": round(waiting.held, 6) if seen else None,
        "code": wait.code if wait else None,
        "reason": wait.sentence if wait else None,
        "expected_at": iso(waiting.expected_at or (wait.expected_at if wait else None)),
    }


# ------------------------------------------------------------ ARM's usages and quotas


@dataclass(frozen=True, slots=True)
class WorkspaceLine:
    """A quota of a workspace, in whole units of its measure."""

    workspace: Scope
    measure: str
    used: int
    limit: int


async def workspace_lines(s: Services, caller: Caller, only: Scope | None = None) -> list[WorkspaceLine]:
    """Quotas of workspaces with what is used, of those whose jobs the caller may read."""
    found = [r for r in await s.store.read(quotas.rules) if r.kind == WORKSPACE and r.id != ANY]
    used = scheduler(s).used([(r.kind, r.id, measure) for r in found for measure in r.limits])
    eyes, lines = Eyes(s, caller, {}), list[WorkspaceLine]()
    for rule in found:
        parts = rule.id.split("/")
        scope = Scope(parts[2], parts[4], rule.name)
        if (only is not None and only.arm_id.lower() != rule.id) or not await eyes.may_see(scope):
            continue
        for measure, limit in rule.limits.items():
            held = used.get((rule.kind, rule.id, measure), 0)
            lines.append(WorkspaceLine(scope, measure, -(-held // unit(measure)), limit))
    return lines
