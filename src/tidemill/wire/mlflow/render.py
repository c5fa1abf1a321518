"""Records in MLflow's JSON: times in milliseconds, NaN and infinity as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tidemill.app.tracking.tracking import INPUTS_TAG, MODELS_IN_TAG, MODELS_OUT_TAG, listed, visible
from tidemill.store.tracking import Experiment, LoggedModel, Metric, Run, RunRecord
from tidemill.wire.http import Context
from tidemill.wire.mlflow.addresses import shown as address


def run(ctx: Context, record: RunRecord) -> dict[str, Any]:
    shown = visible(record)
    return {
        "info": run_info(ctx, shown.run),
        "data": {
            "metrics": [metric(point) for point in shown.metrics],
            "params": pairs(shown.params),
            "tags": pairs(shown.tags),
        },
        "inputs": {
            "dataset_inputs": listed(record, INPUTS_TAG),
            "model_inputs": listed(record, MODELS_IN_TAG),
        },
        "outputs": {"model_outputs": listed(record, MODELS_OUT_TAG)},
    }


def run_info(ctx: Context, info: Run) -> dict[str, Any]:
    body = {
        "run_id": info.id,
        "run_uuid": info.id,
        "run_name": info.name,
        "experiment_id": info.experiment_id,
        "user_id": info.user,
        "status": info.status,
        "start_time": info.start_at // 1000,
        "artifact_uri": address(ctx, info.artifact_uri, info.experiment_id),
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


def logged_model(ctx: Context, model: LoggedModel) -> dict[str, Any]:
    return {
        "info": {
            "model_id": model.id,
            "experiment_id": model.experiment_id,
            "name": model.name,
            "creation_timestamp_ms": model.created_at // 1000,
            "last_updated_timestamp_ms": model.updated_at // 1000,
            "artifact_uri": address(ctx, model.artifact_uri, model.experiment_id),
            "status": model.status,
            "model_type": model.model_type,
            "source_run_id": model.run_id,
            "tags": pairs(model.tags),
        },
        "data": {
            "params": pairs(model.params),
            "metrics": [
                {
                    "key": point.key,
                    "value": _double(point.value),
                    "timestamp": point.timestamp_ms,
                    "step": point.step,
                    "model_id": model.id,
                    "run_id": point.run_id,
                    "dataset_name": point.dataset,
                    "dataset_digest": point.digest,
                }
                for point in model.metrics
            ],
        },
    }


def experiment(held: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": held.id,
        "name": held.name,
        "artifact_location": held.artifact_location,
        "lifecycle_stage": held.lifecycle,
        "creation_time": held.created_at // 1000,
        "last_update_time": held.updated_at // 1000,
        "tags": pairs(held.tags),
    }


def pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _double(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
