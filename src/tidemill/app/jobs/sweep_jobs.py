"""A sweep on its way in, and its trials as the rows tell them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from tidemill.app.errors import at
from tidemill.app.jobs import command_jobs, composites
from tidemill.app.jobs.components import find_component
from tidemill.app.jobs.prepared import Child, Prepared
from tidemill.app.rows.codec import decode_object, encode, job_status
from tidemill.app.services import Services
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.pipelines.component_sweeps import written_out
from tidemill.domain.pipelines.sweep_bodies import trial_id
from tidemill.domain.plan import SWEEP, JobProgress, JobStatus, SweepProgress
from tidemill.domain.sweeps import sampling
from tidemill.domain.sweeps.decide import Trial
from tidemill.domain.sweeps.spec import SweepSpec, read_sweep
from tidemill.domain.sweeps.trials import POINT, check_command, trial_body
from tidemill.domain.units import plural
from tidemill.store.api import Tx

STOPPED = "tidemill.stopped"  # the property of a trial that the policy stopped: why
BEST_RUN = "best_child_run_id"  # the property by which the SDK finds the best trial
STEP = "trial-"
WRITTEN_OUT = ("trial", "inputs", "outputs", "limits")  # what a trial that is a component brings


async def prepare(
    s: Services, caller: Caller, scope: Scope, name: str, properties: Mapping[str, Any], child: Child | None
) -> Prepared:
    """Resolves what its first trial needs: the others need the same. Raises what a command job's does."""
    shown: dict[str, Any] = {}
    if trial_id(properties):
        properties = await _written_out(s, scope, name, properties)
        shown = {key: properties[key] for key in WRITTEN_OUT if key in properties}
    spec = read_sweep(name, properties)
    check_command(spec, properties)
    plan = await composites.header(s, caller, scope, name, properties)
    first = sampling.sampled(_drawn(spec.algorithm), spec.space, 0, spec.seed)
    assert first is not None  # no space is empty
    body = trial_body(spec, properties, 0, first, name, {})
    tried = await command_jobs.prepare(s, caller, scope, name, body["properties"], None)
    plan = replace(
        plan,
        compute_name=tried.status.plan.compute_name,
        inputs=tuple(item for item in tried.status.plan.inputs if item.name not in spec.space.names),
    )
    limits = f"{plural(spec.total, 'trial')}, {spec.at_once} at once"
    goal = f"{'highest' if spec.maximize else 'lowest'} {spec.metric}"
    return Prepared(
        state=JobState.RUNNING,
        status=JobStatus(plan, JobProgress(started_at=s.clock.now()), SWEEP, sweep=SweepProgress()),
        job_type="Sweep",
        where=tried.where,
        notes=(("Note", f"Looks for the {goal} by {spec.algorithm} sampling: {limits}."),),
        check=tried.check,
        shown=shown,
    )


async def _written_out(s: Services, scope: Scope, name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """With the component that is its trial. Raises NotFound naming what exists, InvalidRequest."""
    with at("properties.trial.componentId"):
        component = await s.store.read(lambda read: find_component(read, scope, trial_id(properties)))
    return written_out(name, component, properties)


def step_of(number: int) -> str:
    """People count trials from 1."""
    return f"{STEP}{number + 1}"


def number_of(step: str) -> int:
    return int(step.removeprefix(STEP)) - 1


def _drawn(algorithm: str) -> str:
    return sampling.RANDOM if algorithm == sampling.BAYESIAN else algorithm


def spec_of(row: Resource) -> tuple[SweepSpec, dict[str, Any]]:
    """(as it was read, the properties it was read from) of a stored sweep."""
    properties = decode_object(row.spec)
    return read_sweep(row.key.name, properties), properties


def trial_of(row: Resource, reports: tuple[float, ...]) -> Trial:
    """Of the row of a child."""
    status, spec = job_status(row.status), decode_object(row.spec)
    kept = cast(Mapping[str, Any], spec.get("properties") or {})
    error = status.progress.error
    assert status.child is not None
    return Trial(
        number=number_of(status.child.step),
        name=row.key.name,
        point=tuple(json.loads(str(kept[POINT]))),
        state=JobState(row.state),
        reports=reports,
        error=error.message.split("\n", 1)[0] if error else "",
        stopped=STOPPED in kept,
    )


def mark_stopped(tx: Tx, row: Resource, why: str, now: int) -> Resource:
    """Notes in the trial's own row that the policy stopped it."""
    spec = decode_object(row.spec)
    spec["properties"] = {**(spec.get("properties") or {}), STOPPED: why}
    return tx.update(replace(row, spec=encode(spec), modified_at=now))


def with_best(row: Resource, best: str, score: float) -> Resource:
    """The sweep's row, to be stored."""
    status, spec = job_status(row.status), decode_object(row.spec)
    spec["properties"] = {**(spec.get("properties") or {}), BEST_RUN: best, "score": repr(score)}
    progress = SweepProgress(best, score)
    return replace(row, spec=encode(spec), status=encode(replace(status, sweep=progress)))


def with_outputs_of(row: Resource, trial: Resource) -> Resource:
    """The sweep's row with the outputs of its best trial as its own, under the names that the sweep gave."""
    given = cast(Mapping[str, Mapping[str, Any]], decode_object(row.spec).get("outputs") or {})
    outputs = tuple(
        replace(
            output,
            asset_name=str(given.get(output.name, {}).get("assetName") or ""),
            asset_version=str(given.get(output.name, {}).get("assetVersion") or ""),
        )
        for output in job_status(trial.status).plan.outputs
    )
    return composites.restated(row, outputs=outputs)
