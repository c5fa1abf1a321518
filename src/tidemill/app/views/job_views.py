"""Jobs as people read them: summary, detail, time line, price, why one waits (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.app.computes import isolation
from tidemill.app.jobs import costs, families, job_logs, kept_nodes
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.app.views import parallel_progress, pipeline_views, sweep_views
from tidemill.app.views.serving_lineage import served_from
from tidemill.domain.errors import NotFound
from tidemill.domain.model import Attempt, Event, JobState, Resource
from tidemill.domain.plan import COMMAND, SWEEP, JobStatus
from tidemill.domain.states import cancel_timetable

# Event code -> the phase a time line groups it under.
PHASES = {
    "Submitted": "submit",
    "Scheduled": "submit",
    "Preparing": "environment",
    "EnvironmentReady": "environment",
    "EnvironmentFailed": "environment",
    "Assigned": "start",
    "Started": "run",
    "Finalizing": "collect",
    "CancelRequested": "stop",
    "Completed": "end",
    "Failed": "end",
    "Canceled": "end",
}


async def summary(s: Services, row: Resource) -> dict[str, Any]:
    """JobSummary of the native API."""
    status = job_status(row.status)
    price = await costs.job_cost(s, row)
    return _summary(s, row, status, price)


async def summaries(s: Services, rows: Sequence[Resource]) -> list[dict[str, Any]]:
    prices = await costs.job_costs(s, rows)
    return [_summary(s, row, job_status(row.status), prices[row.uid]) for row in rows]


def _summary(s: Services, row: Resource, status: JobStatus, price: costs.JobCost) -> dict[str, Any]:
    progress = status.progress
    spec = decode_object(row.spec)
    now = s.clock.now()
    ended = progress.ended_at
    duration = None if progress.started_at is None else ((ended or now) - progress.started_at) / 1e6
    queued_until = progress.started_at or ended or now
    return {
        "name": row.key.name,
        "display_name": spec.get("displayName") or row.key.name,
        "experiment": status.plan.job.experiment,
        "type": status.kind,
        "parent": status.child.parent if status.child else "",
        "step": status.child.step if status.child else "",
        "compute": status.plan.compute_name,
        "serverless": status.plan.serverless,
        "status": row.state,
        "created_at": iso(row.created_at),
        "started_at": iso(progress.started_at),
        "ended_at": iso(ended),
        "duration_s": duration,
        "queue_s": max(queued_until - row.created_at, 0) / 1e6,
        "attempts": progress.attempt,
        "cost_usd": price.usd,
        "cost_open": price.open,
        "reason": waiting_sentence(s, row),
        "error": None
        if progress.error is None
        else {"code": progress.error.code, "message": progress.error.message},
        "exit_code": progress.exit_code,
        "archived": row.archived,
        "tags": spec.get("tags", {}),
        "page": page_of(s, row),
    }


def waiting_sentence(s: Services, row: Resource) -> str:
    """Why it waits, in the scheduler's words; "" if it does not."""
    wait = (
        s.live.explain(row.uid, s.clock.now())
        if row.state in (JobState.QUEUED, JobState.PROVISIONING)
        else None
    )
    return wait.sentence if wait else ""


def page_of(s: Services, row: Resource) -> str:
    """The address of a job's page in the portal."""
    return s.addresses.page_of_job(row.key.scope, row.key.name)


async def detail(s: Services, row: Resource) -> dict[str, Any]:
    """JobDetail of the native API."""
    status = job_status(row.status)
    plan = status.plan
    price = await costs.job_cost(s, row)
    events, attempts, serves = await s.store.read(
        lambda r: (r.events(row.uid), r.attempts_of(row.uid), served_from(r, row))
    )
    children: Sequence[Resource] = ()
    if status.kind != COMMAND:
        children = await s.store.read(lambda read: families.children(read, row))
    registered = dict(status.progress.registered)
    files = await job_logs.list_logs(s, row)
    return {
        **_summary(s, row, status, price),
        "command": plan.job.command,
        "environment": plan.environment.label if status.kind == COMMAND else "",
        "environment_digest": plan.environment.digest,
        "environment_note": " ".join(plan.environment.notes),
        "inputs": {
            item.name: {
                "type": item.type,
                "value": item.literal if item.literal is not None else item.given,
                "mode": item.mode,
            }
            for item in plan.inputs
        },
        "outputs": {
            item.name: {"type": item.type, "uri": item.uri, "asset": registered.get(item.name, "")}
            for item in plan.outputs
        },
        "timeline": [timeline_entry(event, row.created_at) for event in events],
        "isolation": await isolation.of_job(s, plan.isolation, attempts),
        "attempts_list": [_attempt(attempt) for attempt in attempts],
        "price": price.as_dict(),
        "kept": await kept_nodes.shown(s, row),
        "children": await summaries(s, children),
        "steps": pipeline_views.steps_of(row, status, children),
        "sweep": await sweep_views.of(s, row) if status.kind == SWEEP else None,
        "parallel": parallel_progress.shown(row),
        "metrics": await _metrics(s, row),
        "serves": serves,
        "logs": [{"path": file.path, "size": file.size} for file in files],
        "studio": page_of(s, row),
    }


async def _metrics(s: Services, row: Resource) -> dict[str, float]:
    """The last value of each metric; none before the job's first word to the tracking API."""
    try:
        return {m.key: m.value for m in await s.tracking.latest(row.key.scope.arm_id, row.key.name)}
    except NotFound:
        return {}


def timeline_entry(event: Event, submitted_at: int) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": iso(event.at),
        "code": event.code,
        "message": event.message,
        "actor": event.actor,
        "phase": PHASES.get(event.code, "wait" if "Wait" in event.code else "note"),
        "elapsed_s": (event.at - submitted_at) / 1e6,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "state": attempt.state,
        "outcome": attempt.outcome,
        "nodes": list(attempt.nodes),
        "started_at": iso(attempt.started_at),
        "ended_at": iso(attempt.ended_at),
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "message": attempt.message,
    }


async def why(s: Services, row: Resource) -> dict[str, Any]:
    """Why a job is where it is: the scheduler's word while it waits, the last events otherwise."""
    status = job_status(row.status)
    events = await s.store.read(lambda r: r.events(row.uid))
    state = JobState(row.state)
    sentence = events[-1].message if events else ""
    code = events[-1].code if events else ""
    expected = None
    if state in (JobState.QUEUED, JobState.PROVISIONING):
        wait = s.live.explain(row.uid, s.clock.now())
        if wait is not None:
            sentence, code, expected = wait.sentence, wait.code, wait.expected_at
    elif state is JobState.FAILED and status.progress.error is not None:
        sentence, code = status.progress.error.message.split("\n", 1)[0], status.progress.error.code
    kept = await kept_nodes.shown(s, row)
    return {
        "name": row.key.name,
        "state": row.state,
        "code": code,
        "sentence": sentence,
        "expected_at": iso(expected),
        "reasons": [
            {"code": event.code, "message": event.message, "at": iso(event.at)} for event in events[-20:]
        ],
        "next": [
            *_next(s, row.key.name, state),
            *(kept_nodes.next_steps(row.key.name, kept) if kept is not None else ()),
        ],
    }


def _next(s: Services, name: str, state: JobState) -> list[str]:
    match state:
        case JobState.QUEUED | JobState.PROVISIONING:
            return [
                "It starts as soon as its nodes are free or opened.",
                f"Cancel it: tidemill job cancel --name {name}",
            ]
        case JobState.PREPARING:
            return ["Its environment is being built; no node is held meanwhile."]
        case JobState.CANCEL_REQUESTED:
            return [cancel_timetable(s.settings.cancel_grace_s, s.settings.close_grace_s).sentence]
        case JobState.FAILED:
            return [f"Read its log: tidemill job stream --name {name}"]
        case _:
            return []
