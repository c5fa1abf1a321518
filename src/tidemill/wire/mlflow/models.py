"""`registered-models/…` and `model-versions/…` of MLflow's REST protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from tidemill.app.tracking import model_registry, model_search
from tidemill.app.tracking.model_registry import ModelVersion, RegisteredModel
from tidemill.app.tracking.tracking_search import Search
from tidemill.domain.errors import InvalidRequest
from tidemill.wire.http import Context, json_response
from tidemill.wire.mlflow import addresses, fields
from tidemill.wire.mlflow.render import pairs

_MAX_MODELS, _MAX_VERSIONS = 1_000, 200_000


async def create(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.RegisteredModelIn)
    made = await model_registry.create_model(
        ctx.services, ctx.caller, ctx.scope, body.name, body.description, fields.mapping(body.tags)
    )
    return json_response({"registered_model": _model(ctx, made)})


async def rename(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.RegisteredModelIn)
    raise InvalidRequest(
        f"Model {body.name!r} cannot be renamed: names of assets do not change, jobs and addresses lead to "
        "them. Register its versions under the other name (copy_model_version) and delete this one.",
        target="new_name",
    )


async def update(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.RegisteredModelIn)

    def describe(properties: dict[str, Any]) -> None:
        properties["description"] = body.description or None

    await model_registry.update_model(ctx.services, ctx.scope, body.name, describe)
    return await _answer_model(ctx, body.name)


async def delete(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.RegisteredModelIn)
    await model_registry.delete_model(ctx.services, ctx.caller, ctx.scope, body.name)
    return json_response({})


async def get(ctx: Context) -> Response:
    return await _answer_model(ctx, fields.wanted(ctx, "name"))


async def search(ctx: Context) -> Response:
    found, token = await model_search.search_models(ctx.services, ctx.scope, _search(ctx, 100, _MAX_MODELS))
    body: dict[str, Any] = {"registered_models": [_model(ctx, model) for model in found]}
    return json_response(body | ({"next_page_token": token} if token else {}))


async def set_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelTag)
    change = partial(model_registry.set_tag, key=body.key, value=body.value)
    await model_registry.update_model(ctx.services, ctx.scope, body.name, change)
    return json_response({})


async def delete_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelTag)
    change = partial(model_registry.delete_tag, key=body.key)
    await model_registry.update_model(ctx.services, ctx.scope, body.name, change)
    return json_response({})


async def set_alias(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelAlias)
    await model_registry.set_alias(ctx.services, ctx.scope, body.name, body.alias, body.version)
    return json_response({})


async def delete_alias(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelAlias)
    await model_registry.delete_alias(ctx.services, ctx.scope, body.name, body.alias)
    return json_response({})


async def by_alias(ctx: Context) -> Response:
    name, alias = fields.wanted(ctx, "name"), fields.wanted(ctx, "alias")
    found = await model_registry.get_version(ctx.services, ctx.scope, name, "", alias)
    return json_response({"model_version": _version(ctx, found)})


async def latest_versions(ctx: Context) -> Response:
    """By POST in a body, by GET in the query."""
    if ctx.request.method == "POST":
        body = await fields.read(ctx, fields.LatestVersions)
        name, stages = body.name, body.stages
    else:
        name, stages = fields.wanted(ctx, "name"), fields.listed(ctx, "stages")
    await model_registry.get_model(ctx.services, ctx.scope, name)
    held = await model_registry.versions(ctx.services, ctx.scope, name)
    latest = model_registry.latest_of(held, stages)
    return json_response({"model_versions": [_version(ctx, version) for version in latest]})


async def create_version(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelVersionIn)
    made = await model_registry.create_version(
        ctx.services,
        ctx.caller,
        ctx.scope,
        body.name,
        body.source,
        description=body.description,
        tags=fields.mapping(body.tags),
        run_id=body.run_id,
        run_link=body.run_link,
        model_id=body.model_id,
    )
    return json_response({"model_version": _version(ctx, made)})


async def get_version(ctx: Context) -> Response:
    return json_response({"model_version": _version(ctx, await _asked(ctx))})


async def download_uri(ctx: Context) -> Response:
    return json_response({"artifact_uri": addresses.shown(ctx, (await _asked(ctx)).files)})


async def update_version(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelVersionIn)

    def describe(properties: dict[str, Any]) -> None:
        properties["description"] = body.description or None

    changed = await model_registry.update_version(ctx.services, ctx.scope, body.name, body.version, describe)
    return json_response({"model_version": _version(ctx, changed)})


async def transition(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.Transition)
    moved = await model_registry.transition(
        ctx.services,
        ctx.caller,
        ctx.scope,
        body.name,
        body.version,
        body.stage,
        body.archive_existing_versions,
    )
    return json_response({"model_version": _version(ctx, moved)})


async def delete_version(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelVersionIn)
    await model_registry.delete_version(ctx.services, ctx.caller, ctx.scope, body.name, body.version)
    return json_response({})


async def search_versions(ctx: Context) -> Response:
    wanted = _search(ctx, 10_000, _MAX_VERSIONS)
    found, token = await model_search.search_versions(ctx.services, ctx.scope, wanted)
    body: dict[str, Any] = {"model_versions": [_version(ctx, version) for version in found]}
    return json_response(body | ({"next_page_token": token} if token else {}))


async def set_version_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelTag)
    change = partial(model_registry.set_tag, key=body.key, value=body.value)
    await model_registry.update_version(ctx.services, ctx.scope, body.name, body.version, change)
    return json_response({})


async def delete_version_tag(ctx: Context) -> Response:
    body = await fields.read(ctx, fields.ModelTag)
    change = partial(model_registry.delete_tag, key=body.key)
    await model_registry.update_version(ctx.services, ctx.scope, body.name, body.version, change)
    return json_response({})


async def _asked(ctx: Context) -> ModelVersion:
    name, version = fields.wanted(ctx, "name"), fields.wanted(ctx, "version")
    return await model_registry.get_version(ctx.services, ctx.scope, name, version)


async def _answer_model(ctx: Context, name: str) -> Response:
    held = await model_registry.get_model(ctx.services, ctx.scope, name)
    return json_response({"registered_model": _model(ctx, held)})


def _search(ctx: Context, usual: int, most: int) -> Search:
    query = ctx.request.query
    limit = fields.page_size(query.get("max_results") or usual, most)
    orders = tuple(fields.listed(ctx, "order_by"))
    return Search(query.get("filter", ""), order_by=orders, limit=limit, token=query.get("page_token", ""))


def _model(ctx: Context, held: RegisteredModel) -> dict[str, Any]:
    return {
        "name": held.name,
        "creation_timestamp": held.created_at // 1000,
        "last_updated_timestamp": held.updated_at // 1000,
        "user_id": held.user,
        "description": held.description,
        "tags": pairs(held.tags),
        "aliases": [{"alias": alias, "version": version} for alias, version in held.aliases.items()],
        "latest_versions": [_version(ctx, version) for version in held.latest],
    }


def _version(ctx: Context, held: ModelVersion) -> dict[str, Any]:
    return {
        "name": held.name,
        "version": held.version,
        "creation_timestamp": held.created_at // 1000,
        "last_updated_timestamp": held.updated_at // 1000,
        "user_id": held.user,
        "current_stage": held.stage,
        "description": held.description,
        "source": addresses.shown(ctx, held.files),
        "run_id": held.run_id,
        "run_link": held.run_link,
        "model_id": held.model_id,
        "status": "READY",
        "tags": pairs(held.tags),
        "aliases": list(held.aliases),
    }
