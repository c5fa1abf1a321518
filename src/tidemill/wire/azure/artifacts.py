"""Artifacts as `azureml-mlflow` asks for them: a run's by run history, others by `/artifact/v2.0`, where they
lie at an origin in a container (`LocalUpload/…`, a registered model's at `models/{name}:{version}`).

The files themselves go through the blob protocol, by an address with a signature for that one file.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from tidemill.app.assets import model_sources
from tidemill.app.assets.storage_access import signer_of
from tidemill.app.people.access import authorise
from tidemill.app.tracking import tracking_artifacts
from tidemill.data.bloburls import blob_url
from tidemill.domain.errors import InvalidRequest
from tidemill.wire.azure.history import HISTORY, READ, WRITE, W
from tidemill.wire.blob.sas import make_sas
from tidemill.wire.http import Context, Route, json_response

SAS_HOURS = 24
RUNS = "ExperimentRun"
MOST_PATHS = 1000
ACTION = "Microsoft.MachineLearningServices/workspaces"


def routes() -> list[Route]:
    run = HISTORY + "/experiments/{exp}/runs/{name}/artifacts"
    other = "/artifact/v2.0" + W + "/artifacts/{origin}/{container}"
    read, write = f"{ACTION}/artifacts/read", f"{ACTION}/artifacts/write"
    return [
        Route("GET", run, READ, list_all),
        Route("GET", run + "/path", READ, list_all),
        Route("GET", run + "/contentinfo", READ, content_info),
        Route("POST", run + "/batch/metadata", WRITE, batch_metadata),
        Route("GET", other, read, list_all),
        Route("GET", other + "/contentinfo", read, content_info),
        Route("POST", other + "/batch/metadata", write, batch_metadata),
    ]


async def list_all(ctx: Context) -> Response:
    """All files below `path`, however deep, in pages; folders are not named."""
    await _may_read(ctx)
    base, query = _base(ctx), ctx.request.query
    below = query.get("path", "").strip("/")
    if not below and model_sources.named_in(base):
        below = model_sources.FILES
    names, token = await tracking_artifacts.list_all(
        ctx.services, ctx.scope, f"{base}/{below}".rstrip("/"), query.get("continuationToken", "")
    )
    start = f"{below}/" if below else ""
    body: dict[str, Any] = {"value": [_artifact(ctx, start + name) for name in names]}
    if token:
        more = urlencode({"path": below, "continuationToken": token})
        body["continuationToken"] = token
        body["nextLink"] = f"{ctx.services.addresses.https}{ctx.request.path}?{more}"
    return json_response(body)


async def content_info(ctx: Context) -> Response:
    """Where one file is read, for a day, without a token. Raises NotFound."""
    await _may_read(ctx)
    path = ctx.request.query.get("path", "").strip("/")
    if not path:
        raise InvalidRequest("contentinfo needs a path.", target="path")
    await tracking_artifacts.find(ctx.services, ctx.scope, f"{_base(ctx)}/{path}")
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
    names = [f"{_base(ctx)}/{path}" for path in paths]
    await tracking_artifacts.check_writable(ctx.services, ctx.caller, ctx.scope, *names)
    return json_response(
        {
            "artifacts": {path: _artifact(ctx, path) for path in paths},
            "artifactContentInformation": {path: await _content(ctx, path, "rcw") for path in paths},
            "errors": {},
        }
    )


async def _may_read(ctx: Context) -> None:
    """A registered model's files are read with the right to read the model."""
    model = model_sources.named_in(_base(ctx))
    if model:
        action = f"{ACTION}/models/versions/read"
        await authorise(ctx.services, ctx.caller, action, ctx.scope, f"models/{model}")


def _place(ctx: Context) -> tuple[str, str]:
    """-> (origin, container)."""
    params = ctx.params
    return (RUNS, f"dcid.{params['name']}") if "name" in params else (params["origin"], params["container"])


def _base(ctx: Context) -> str:
    return "/".join(_place(ctx))


def _artifact(ctx: Context, path: str) -> dict[str, Any]:
    origin, container = _place(ctx)
    name = f"{origin}/{container}/{path}"
    return {
        "artifactId": name,
        "origin": origin,
        "container": container,
        "path": path,
        "dataPath": {"dataStoreName": "workspaceartifactstore", "relativePath": name},
    }


async def _content(ctx: Context, path: str, permissions: str) -> dict[str, Any]:
    s = ctx.services
    place = await tracking_artifacts.place_of(s, ctx.scope, f"{_base(ctx)}/{path}")
    expiry = s.clock.now() + SAS_HOURS * 3_600_000_000
    holder = signer_of(ctx.caller, ctx.decision)
    key = s.storage_keys.key(place.account, holder)
    sas = make_sas(key, place.account, place.container, place.path, permissions, expiry, holder=holder)
    origin, container = _place(ctx)
    return {
        "contentUri": f"{blob_url(s.addresses.data, place.account, place.container, place.path)}?{sas}",
        "origin": origin,
        "container": container,
        "path": path,
    }
