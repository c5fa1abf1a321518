"""`metrics/get-history-bulk` and `metrics/get-history-bulk-interval`: one metric of several runs."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.tracking import tracking
from tidemill.domain.errors import InvalidRequest
from tidemill.store.tracking import Metric
from tidemill.wire.http import Context, json_response
from tidemill.wire.mlflow import fields, render

_MAX_RUNS = 100  # as in MLflow
_MAX_POINTS, _MAX_SAMPLED = 25_000, 2_500  # of each run; likewise
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


async def bulk(ctx: Context) -> Response:
    """The first points of each run, by time."""
    key = fields.wanted(ctx, "metric_key")
    runs = _runs(fields.listed(ctx, "run_id"), "run_id")
    limit = min(fields.page_size(ctx.request.query.get("max_results") or _MAX_POINTS, 2**31), _MAX_POINTS)
    points: list[dict[str, Any]] = []
    for run_id in runs:
        held = await tracking.metric_history(ctx.services, ctx.scope, run_id, key, None, limit)
        points += _of(run_id, held)
    return json_response({"metrics": points})


async def bulk_interval(ctx: Context) -> Response:
    """Between two steps, thinned out to `max_results`: lowest and highest points are kept."""
    key, query = fields.wanted(ctx, "metric_key"), ctx.request.query
    runs = _runs(fields.listed(ctx, "run_ids"), "run_ids")
    limit = fields.page_size(query.get("max_results") or _MAX_SAMPLED, _MAX_SAMPLED)
    start = fields.int64(query.get("start_step") or _LOWEST, "start_step")
    end = fields.int64(query.get("end_step") or _HIGHEST, "end_step")
    if end < start:
        raise InvalidRequest(f"end_step {end} is before start_step {start}.", target="end_step")
    points: list[dict[str, Any]] = []
    for run_id in runs:
        points += _of(run_id, await tracking.curve(ctx.services, ctx.scope, run_id, key, limit, (start, end)))
    return json_response({"metrics": points})


def _runs(given: list[str], name: str) -> list[str]:
    if not 0 < len(given) <= _MAX_RUNS:
        raise InvalidRequest(f"{name!r} is given {len(given)} times: 1 to {_MAX_RUNS} runs.", target=name)
    return list(dict.fromkeys(given))


def _of(run_id: str, points: tuple[Metric, ...]) -> list[dict[str, Any]]:
    return [{**render.metric(point), "run_id": run_id} for point in points]
