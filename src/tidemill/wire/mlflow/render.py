"""Records in MLflow's JSON: times in milliseconds, NaN and infinity as text."""

from __future__ import annotations

import math
from typing import Any

from tidemill.app.tracking import inputs_of, visible
from tidemill.store.tracking import Experiment, Metric, Run, RunRecord


def run(record: RunRecord) -> dict[str, Any]:
    shown = visible(record)
    return {
        "info": run_info(shown.run),
        "data": {
            "metrics": [metric(point) for point in shown.metrics],
            "params": _pairs(shown.params),
            "tags": _pairs(shown.tags),
        },
        "inputs": {"dataset_inputs": inputs_of(record)},
    }


def run_info(info: Run) -> dict[str, Any]:
    body = {
        "run_id": info.id,
        "run_uuid": info.id,
        "run_name": info.name,
        "experiment_id": info.experiment_id,
        "user_id": info.user,
        "status": info.status,
        "start_time": info.start_at // 1000,
        "artifact_uri": info.artifact_uri,
        "lifecycle_stage": info.lifecycle,
    }
    if info.end_at is not None:
        body["end_time"] = info.end_at // 1000
    return body


def metric(point: Metric) -> dict[str, Any]:
    return {
        "key": point.key,
        "value": _double(point.value),
        "timestamp": point.timestamp_ms,
        "step": point.step,
    }


def experiment(held: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": held.id,
        "name": held.name,
        "artifact_location": held.artifact_location,
        "lifecycle_stage": held.lifecycle,
        "creation_time": held.created_at // 1000,
        "last_update_time": held.updated_at // 1000,
        "tags": _pairs(held.tags),
    }


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _double(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
