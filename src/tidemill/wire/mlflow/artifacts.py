"""`mlflow-artifacts/artifacts`: what `mlflow.log_artifact` and `list_artifacts` speak."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import FileResponse, Response

from tidemill.app.assets import model_sources
from tidemill.app.people.access import authorise
from tidemill.app.tracking import tracking, tracking_artifacts
from tidemill.wire.http import Context, json_response
from tidemill.wire.mlflow import addresses, fields

READ_MODEL = "Microsoft.MachineLearningServices/workspaces/models/versions/read"


async def list_files(ctx: Context) -> Response:
    path = ctx.request.query.get("path", "")
    await _may_read(ctx, path)
    entries = await tracking_artifacts.list_files(ctx.services, ctx.scope, path)
    return json_response({"files": [file(entry) for entry in entries]})


async def list_of_run(ctx: Context) -> Response:
    """`artifacts/list`: by run, with paths relative to its root."""
    query = ctx.request.query
    run_id = fields.run_id_of(query.get("run_id", ""), query.get("run_uuid", ""))
    record = await tracking.get_run(ctx.services, ctx.scope, run_id)
    below = query.get("path", "").strip("/")
    folder = posixpath.join(urlsplit(record.run.artifact_uri).path, below)
    entries = await tracking_artifacts.list_files(ctx.services, ctx.scope, folder)
    files = [{**file(entry), "path": posixpath.join(below, entry.path)} for entry in entries]
    return json_response(
        {"root_uri": addresses.shown(ctx, record.run.artifact_uri, record.run.experiment_id), "files": files}
    )


def file(entry: tracking_artifacts.Entry) -> dict[str, Any]:
    if entry.size is None:
        return {"path": entry.path, "is_dir": True}
    return {"path": entry.path, "is_dir": False, "file_size": entry.size}


async def get_file(ctx: Context) -> Response:
    await _may_read(ctx, ctx.params["path"])
    info, path = await tracking_artifacts.find(ctx.services, ctx.scope, ctx.params["path"])
    # A page that a job wrote must not run as one of ours.
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(path, 200, headers, info.content_type, filename=posixpath.basename(info.name))


async def _may_read(ctx: Context, path: str) -> None:
    """A registered model's files are read with the right to read the model."""
    model = model_sources.named_in(path.strip("/"))
    if model:
        await authorise(ctx.services, ctx.caller, READ_MODEL, ctx.scope, f"models/{model}")


async def put_file(ctx: Context) -> Response:
    await tracking_artifacts.put(
        ctx.services,
        ctx.caller,
        ctx.scope,
        ctx.params["path"],
        ctx.request.header("content-type"),
        ctx.request.chunks(),
    )
    return json_response({})


async def delete_file(ctx: Context) -> Response:
    await tracking_artifacts.delete(ctx.services, ctx.caller, ctx.scope, ctx.params["path"])
    return json_response({})
