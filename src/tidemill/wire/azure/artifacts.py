"""Run history's artifacts: what `azureml-mlflow` asks before it reads or writes a run's files.

The files themselves go through the blob protocol, by an address with a signature for that one file.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.app import tracking_artifacts
from tidemill.app.storage_access import signer_of
from tidemill.data.bloburls import blob_url
from tidemill.domain.errors import InvalidRequest
from tidemill.wire.azure.history import HISTORY, READ, WRITE
from tidemill.wire.blob.sas import make_sas
from tidemill.wire.http import Context, Route, json_response

SAS_HOURS = 24
ORIGIN = "ExperimentRun"
MOST_PATHS = 1000


def routes() -> list[Route]:
    run = HISTORY + "/experiments/{exp}/runs/{name}/artifacts"
    return [
        Route("GET", run, READ, list_artifacts),
        Route("GET", run + "/path", READ, list_artifacts),
        Route("GET", run + "/contentinfo", READ, content_info),
        Route("POST", run + "/batch/metadata", WRITE, batch_metadata),
    ]


async def list_artifacts(ctx: Context) -> Response:
    """Files directly below `path`, folders left out, as the service does."""
    below = ctx.request.query.get("path", "").strip("/")
    folder = f"{ORIGIN}/{_folder(ctx)}/{below}".rstrip("/")
    entries = await tracking_artifacts.list_files(ctx.services, ctx.scope, folder)
    paths = [f"{below}/{e.path}".lstrip("/") for e in entries if e.size is not None]
    return json_response({"value": [_artifact(ctx, path) for path in paths], "continuationToken": None})


async def content_info(ctx: Context) -> Response:
    """Where one file is read, for a day, without a token. Raises NotFound."""
    path = ctx.request.query.get("path", "").strip("/")
    if not path:
        raise InvalidRequest("contentinfo needs a path.", target="path")
    await tracking_artifacts.find(ctx.services, ctx.scope, f"{ORIGIN}/{_folder(ctx)}/{path}")
    return json_response(await _content(ctx, path, "r"))


async def batch_metadata(ctx: Context) -> Response:
    """Where files are to be written: one signed address per path of the body `{"paths": [{"path"}]}`."""
    body = await ctx.request.json()
    given = body.get("paths")
    if not isinstance(given, list) or not 0 < len(given) <= MOST_PATHS:
        raise InvalidRequest(
            f"The body needs 'paths': 1 to {MOST_PATHS} objects with a path.", target="paths"
        )
    paths = [str(item.get("path", "")).strip("/") if isinstance(item, dict) else "" for item in given]
    if not all(paths):
        raise InvalidRequest("Every entry of 'paths' needs a path.", target="paths")
    await tracking_artifacts.check_writable(
        ctx.services, ctx.caller, ctx.scope, f"{ORIGIN}/{_folder(ctx)}/{paths[0]}"
    )
    return json_response(
        {
            "artifacts": {path: _artifact(ctx, path) for path in paths},
            "artifactContentInformation": {path: await _content(ctx, path, "rcw") for path in paths},
            "errors": {},
        }
    )


def _folder(ctx: Context) -> str:
    return f"dcid.{ctx.params['name']}"


def _artifact(ctx: Context, path: str) -> dict[str, Any]:
    container = _folder(ctx)
    return {
        "artifactId": f"{ORIGIN}/{container}/{path}",
        "origin": ORIGIN,
        "container": container,
        "path": path,
        "dataPath": {
            "dataStoreName": "workspaceartifactstore",
            "relativePath": f"{ORIGIN}/{container}/{path}",
        },
    }


async def _content(ctx: Context, path: str, permissions: str) -> dict[str, Any]:
    s = ctx.services
    account = await tracking_artifacts.account_of(s, ctx.scope)
    blob = f"{ORIGIN}/{_folder(ctx)}/{path}"
    expiry = s.clock.now() + SAS_HOURS * 3_600_000_000
    holder = signer_of(ctx.caller, ctx.decision)
    sas = make_sas(
        s.storage_keys.key(account, holder),
        account,
        tracking_artifacts.CONTAINER,
        blob,
        permissions,
        expiry,
        holder=holder,
    )
    address = blob_url(s.addresses.data, account, tracking_artifacts.CONTAINER, blob)
    return {
        "contentUri": f"{address}?{sas}",
        "origin": ORIGIN,
        "container": _folder(ctx),
        "path": path,
    }
