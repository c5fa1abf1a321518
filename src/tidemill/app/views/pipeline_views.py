"""A pipeline's steps as people read them: where each is, what it needs, which job it became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.app.jobs.pipeline_children import view_of
from tidemill.app.jobs.step_reuse import REUSED_FROM
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.domain.components import maybe
from tidemill.domain.model import JobState, Resource
from tidemill.domain.pipelines.checking import needs
from tidemill.domain.pipelines.deciding import At, ChildView, decide
from tidemill.domain.pipelines.drawing import Drawn
from tidemill.domain.plan import JobStatus

_WORDS = {At.BLOCKED: "Not started", At.SKIPPED: "Skipped", At.WAITING: "Waiting", At.DONE: "Completed"}


def steps_of(row: Resource, status: JobStatus, children: Sequence[Resource]) -> list[dict[str, Any]]:
    """Of each step `{name, kind, state, needs, jobs:[{instance, name, state, reused_from}]}`; a loop's rounds
    are the jobs of its body."""
    pipeline = status.pipeline
    if pipeline is None:
        return []
    by_step: dict[str, list[dict[str, Any]]] = {}
    views: dict[str, ChildView] = {}
    for child in children:
        place = job_status(child.status).child
        if place is None:
            continue
        views[place.step] = view_of(child)
        by_step.setdefault(place.step.partition("[")[0], []).append(_job(child, place.step))
    canceled = row.state in (JobState.CANCELED, JobState.CANCEL_REQUESTED)
    at = decide(pipeline, views, canceled=canceled).steps
    final = JobState(row.state).final
    wanted = needs(pipeline)
    return [
        {
            "name": step.name,
            "kind": step.kind,
            "component": step.component,
            "state": _state(at[step.name], by_step.get(step.name, []), final),
            "needs": list(wanted[step.name]),
            "jobs": by_step.get(step.name, []),
        }
        for step in pipeline.steps
    ]


def _state(at: At, jobs: list[dict[str, Any]], final: bool) -> str:
    if len(jobs) == 1:
        return "Reused" if jobs[0]["reused_from"] else str(jobs[0]["state"])
    if jobs:
        states = [job["state"] for job in jobs]
        worst = next((state for state in ("Failed", "Canceled", "Running") if state in states), "")
        return worst or ("Completed" if set(states) == {"Completed"} else "Running")
    if final and at in (At.WAITING, At.RUNNING):
        return "Not started"
    return _WORDS.get(at, at.value.title())


def _job(child: Resource, instance: str) -> dict[str, Any]:
    properties = maybe(decode_object(child.spec).get("properties"))
    return {
        "instance": instance,
        "name": child.key.name,
        "state": str(child.state),
        "reused_from": str(properties.get(REUSED_FROM) or ""),
    }


def drawn(steps: Sequence[dict[str, Any]], base: str = "") -> list[Drawn]:
    """For a picture; `base`: the address below which pages of jobs lie, "" for no links."""
    return [
        Drawn(
            step["name"],
            step["kind"],
            step["state"],
            tuple(step["needs"]),
            f"{len(step['jobs'])} times" if len(step["jobs"]) > 1 else "",
            f"{base}/{step['jobs'][0]['name']}" if base and len(step["jobs"]) == 1 else "",
        )
        for step in steps
    ]
