"""`runs/…` and `metrics/…` of MLflow's REST protocol."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from tidemill.app.tracking import tracking, tracking_search
from tidemill.domain.errors import InvalidRequest
from tidemill.store.tracking import Metric, ModelMetric
from tidemill.wire.http import Context, json_response
from tidemill.wire.mlflow import fields, render

_MAX_RUNS = 50_000
_MAX_POINTS = 10_000  # of a page, whatever the client asks for


async def create(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.CreateRun)
    record = await tracking.create_run(
        ctx.services,
        ctx.caller,
        ctx.scope,
        body.experiment_id or "0",
        name=body.run_name,
        user=body.user_id,
        start_at=fields.micros(body.start_time, "start_time"),
        tags=fields.pairs(body.tags),
    )
    return json_response({"run": render.run(ctx, record)})


async def get(ctx: Context) -> Response:
    run_id = fields.run_id_of(ctx.request.query.get("run_id", ""), ctx.request.query.get("run_uuid", ""))
    return json_response({"run": render.run(ctx, await tracking.get_run(ctx.services, ctx.scope, run_id))})


async def update(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.UpdateRun)
    record = await tracking.update_run(
        ctx.services,
        ctx.caller,
        ctx.scope,
        fields.run_id_of(body.run_id, body.run_uuid),
        status=body.status,
        end_at=fields.micros(body.end_time, "end_time"),
        name=body.run_name,
    )
    return json_response({"run_info": render.run_info(ctx, record.run)})


async def delete(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.RunId)
    await tracking.delete_run(ctx.services, ctx.caller, ctx.scope, fields.run_id_of(body.run_id))
    return json_response({})


async def restore(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.RunId)
    await tracking.restore_run(ctx.services, ctx.caller, ctx.scope, fields.run_id_of(body.run_id))
    return json_response({})


async def search(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.SearchIn)
    wanted = tracking_search.Search(
        body.filter,
        body.run_view_type,
        tuple(body.order_by),
        fields.page_size(body.max_results, _MAX_RUNS),
        body.page_token,
    )
    records, token = await tracking_search.search_runs(ctx.services, ctx.scope, body.experiment_ids, wanted)
    return json_response({"runs": [render.run(ctx, record) for record in records], **_next(token)})


async def log_metric(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogMetric)
    return await _log(ctx, fields.run_id_of(body.run_id, body.run_uuid), [body], (), ())


async def log_parameter(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogPair)
    return await _log(ctx, fields.run_id_of(body.run_id, body.run_uuid), (), [body], ())


async def set_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogPair)
    return await _log(ctx, fields.run_id_of(body.run_id, body.run_uuid), (), (), [body])


async def log_batch(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogBatch)
    run_id = fields.run_id_of(body.run_id, body.run_uuid)
    return await _log(ctx, run_id, body.metrics, body.params, body.tags)


async def _log(
    ctx: Context,
    run_id: str,
    metrics: Sequence[fields.MetricIn],
    params: Sequence[fields.PairIn],
    tags: Sequence[fields.PairIn],
) -> Response:
    now_ms = ctx.services.clock.now() // 1000
    points = [fields.metric(given, now_ms) for given in metrics]
    about: dict[str, list[ModelMetric]] = {}
    for given, point in zip(metrics, points, strict=True):
        if given.model_id:
            about.setdefault(given.model_id, []).append(fields.model_metric(given, point, run_id))
    await tracking.log(
        ctx.services,
        ctx.caller,
        ctx.scope,
        run_id,
        points,
        fields.pairs(params),
        fields.pairs(tags),
        about,
    )
    return json_response({})


async def delete_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.DeleteTag)
    run_id = fields.run_id_of(body.run_id)
    await tracking.delete_tag(ctx.services, ctx.caller, ctx.scope, run_id, body.key)
    return json_response({})


async def log_inputs(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogInputs)
    run_id = fields.run_id_of(body.run_id)
    await tracking.log_inputs(ctx.services, ctx.caller, ctx.scope, run_id, body.datasets, body.models)
    return json_response({})


async def log_outputs(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogOutputs)
    run_id = fields.run_id_of(body.run_id)
    await tracking.log_outputs(ctx.services, ctx.caller, ctx.scope, run_id, body.models)
    return json_response({})


async def log_model(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LogModel)
    run_id = fields.run_id_of(body.run_id)
    await tracking.log_model(ctx.services, ctx.caller, ctx.scope, run_id, body.model_json)
    return json_response({})


async def metric_history(ctx: Context) -> Response:
    query = ctx.request.query
    run_id = fields.run_id_of(query.get("run_id", ""), query.get("run_uuid", ""))
    key = query.get("metric_key", "")
    if not key:
        raise InvalidRequest("'metric_key' is missing.", target="metric_key")
    limit = min(fields.page_size(query.get("max_results") or _MAX_POINTS, 2**31), _MAX_POINTS)
    after = _read_point(key, query.get("page_token", ""))
    points = await tracking.metric_history(ctx.services, ctx.scope, run_id, key, after, limit + 1)
    page = points[:limit]
    token = _point_token(page[-1]) if len(points) > limit else ""
    return json_response({"metrics": [render.metric(point) for point in page], **_next(token)})


def _next(token: str) -> dict[str, str]:
    return {"next_page_token": token} if token else {}


def _point_token(point: Metric) -> str:
    place = (point.timestamp_ms, point.step, repr(point.value))
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def _read_point(key: str, token: str) -> Metric | None:
    if not token:
        return None
    try:
        at, step, value = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[int, int, str])
        return Metric(key, float(value), at, step)
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise InvalidRequest(
            f"The page token {token!r} is not one that this server gave.", target="page_token"
        ) from error
