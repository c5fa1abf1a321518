"""A sweep as people read it: its goal, its trials with their parameters and scores, the best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tidemill.app.jobs import families, sweep_jobs
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.services import Services
from tidemill.domain.errors import NotFound
from tidemill.domain.model import Resource
from tidemill.domain.sweeps.policies import best_of
from tidemill.domain.sweeps.trials import HYPERPARAMETERS


async def of(s: Services, row: Resource) -> dict[str, Any]:
    """`{metric, goal, algorithm, total, at_once, best, score, trials:[{number, name, state, values, score,
    stopped}]}`; `number` counts from 1, `stopped` is why a policy stopped it, "" if none did."""
    spec, _ = sweep_jobs.spec_of(row)
    progress = job_status(row.status).sweep
    rows = await s.store.read(lambda read: families.children(read, row))
    trials = [await _trial(s, one, spec.metric, spec.maximize) for one in rows]
    return {
        "metric": spec.metric,
        "goal": "maximize" if spec.maximize else "minimize",
        "algorithm": spec.algorithm,
        "total": spec.total,
        "at_once": spec.at_once,
        "best": progress.best if progress else "",
        "score": progress.score if progress else None,
        "trials": sorted(trials, key=lambda trial: trial["number"]),
    }


async def _trial(s: Services, row: Resource, metric: str, maximize: bool) -> dict[str, Any]:
    spec, child = decode_object(row.spec), job_status(row.status).child
    assert child is not None
    kept = cast(Mapping[str, Any], spec.get("properties") or {})
    return {
        "number": sweep_jobs.number_of(child.step) + 1,
        "name": row.key.name,
        "state": row.state,
        "values": json.loads(spec["tags"].get(HYPERPARAMETERS) or "{}"),
        "score": best_of(await _reports(s, row, metric), maximize),
        "stopped": str(kept.get(sweep_jobs.STOPPED) or ""),
    }


async def _reports(s: Services, row: Resource, metric: str) -> Sequence[float]:
    try:
        points = await s.tracking.metric_history(row.key.scope.arm_id, row.key.name, metric)
    except NotFound:
        return ()
    return [point.value for point in points]
