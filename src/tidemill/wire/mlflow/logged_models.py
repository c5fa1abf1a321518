"""`logged-models/…` of MLflow 3's REST protocol."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app.tracking import logged_models
from tidemill.app.tracking.tracking_search import Search
from tidemill.store.tracking import LoggedModel
from tidemill.wire.http import Context, json_response
from tidemill.wire.mlflow import addresses, artifacts, fields, render

_MAX_MODELS = 1_000


async def create(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.CreateLoggedModel)
    made = await logged_models.create(
        ctx.services,
        ctx.caller,
        ctx.scope,
        body.experiment_id or "0",
        name=body.name,
        run_id=body.source_run_id,
        model_type=body.model_type,
        params=fields.mapping(body.params),
        tags=fields.mapping(body.tags),
    )
    return _answer(ctx, made)


async def get(ctx: Context) -> Response:
    return _answer(ctx, await logged_models.get(ctx.services, ctx.scope, ctx.params["model_id"]))


async def finalize(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LoggedModelChange)
    model_id = ctx.params["model_id"]
    return _answer(
        ctx, await logged_models.finalize(ctx.services, ctx.caller, ctx.scope, model_id, body.status)
    )


async def delete(ctx: Context) -> Response:
    await logged_models.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["model_id"])
    return json_response({})


async def set_tags(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LoggedModelChange)
    tags, model_id = fields.mapping(body.tags), ctx.params["model_id"]
    return _answer(ctx, await logged_models.set_tags(ctx.services, ctx.caller, ctx.scope, model_id, tags))


async def delete_tag(ctx: Context) -> Response:
    model_id, key = ctx.params["model_id"], ctx.params["key"]
    await logged_models.delete_tag(ctx.services, ctx.caller, ctx.scope, model_id, key)
    return json_response({})


async def log_params(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.LoggedModelChange)
    params, model_id = fields.mapping(body.params), ctx.params["model_id"]
    await logged_models.log_params(ctx.services, ctx.caller, ctx.scope, model_id, params)
    return json_response({})


async def search(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.SearchModels)
    orders = tuple(f"{order.field_name} {'ASC' if order.ascending else 'DESC'}" for order in body.order_by)
    limit = fields.page_size(body.max_results, _MAX_MODELS)
    wanted = Search(body.filter, order_by=orders, limit=limit, token=body.page_token)
    datasets = [(given.dataset_name, given.dataset_digest) for given in body.datasets]
    found, token = await logged_models.search(ctx.services, ctx.scope, body.experiment_ids, wanted, datasets)
    answer: dict[str, Any] = {"models": [render.logged_model(ctx, model) for model in found]}
    return json_response(answer | ({"next_page_token": token} if token else {}))


async def list_files(ctx: Context) -> Response:
    below = ctx.request.query.get("artifact_directory_path", "")
    model, entries = await logged_models.list_files(ctx.services, ctx.scope, ctx.params["model_id"], below)
    root = addresses.shown(ctx, model.artifact_uri, model.experiment_id)
    return json_response({"root_uri": root, "files": [artifacts.file(entry) for entry in entries]})


def _answer(ctx: Context, model: LoggedModel) -> Response:
    return json_response({"model": render.logged_model(ctx, model)})
