"""`experiments/…` of MLflow's REST protocol."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.app.tracking import tracking_experiments, tracking_search
from tidemill.wire.http import Context, json_response
from tidemill.wire.mlflow import fields, render

_MAX_EXPERIMENTS = 50_000


async def create(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.CreateExperiment)
    made = await tracking_experiments.create(
        ctx.services, ctx.caller, ctx.scope, body.name, body.artifact_location, fields.mapping(body.tags)
    )
    return json_response({"experiment_id": made.id})


async def get(ctx: Context) -> Response:
    held = await tracking_experiments.get(ctx.services, ctx.scope, fields.wanted(ctx, "experiment_id"))
    return json_response({"experiment": render.experiment(held)})


async def get_by_name(ctx: Context) -> Response:
    held = await tracking_experiments.get_by_name(
        ctx.services, ctx.scope, fields.wanted(ctx, "experiment_name")
    )
    return json_response({"experiment": render.experiment(held)})


async def search(ctx: Context) -> Response:
    return await _search(ctx, await fields.read(ctx, fields.SearchIn))


async def search_by_query(ctx: Context) -> Response:
    """`experiments/list` of MLflow 1, and `search` by GET."""
    return await _search(ctx, fields.from_query(ctx, fields.SearchIn))


async def _search(ctx: Context, body: fields.SearchIn) -> Response:
    limit = fields.page_size(body.max_results, _MAX_EXPERIMENTS)
    wanted = tracking_search.Search(body.filter, body.view_type, tuple(body.order_by), limit, body.page_token)
    found, token = await tracking_search.search_experiments(ctx.services, ctx.scope, wanted)
    answer: dict[str, object] = {"experiments": [render.experiment(held) for held in found]}
    if token:
        answer["next_page_token"] = token
    return json_response(answer)


async def update(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.UpdateExperiment)
    await tracking_experiments.rename(ctx.services, ctx.caller, ctx.scope, body.experiment_id, body.new_name)
    return json_response({})


async def delete(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ExperimentId)
    await tracking_experiments.delete(ctx.services, ctx.caller, ctx.scope, body.experiment_id)
    return json_response({})


async def restore(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ExperimentId)
    await tracking_experiments.restore(ctx.services, ctx.caller, ctx.scope, body.experiment_id)
    return json_response({})


async def set_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ExperimentTag)
    await tracking_experiments.set_tag(
        ctx.services, ctx.caller, ctx.scope, body.experiment_id, body.key, body.value
    )
    return json_response({})
