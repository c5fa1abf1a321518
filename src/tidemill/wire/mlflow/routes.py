"""MLflow's REST protocol: `/mlflow/v1.0{workspace}` (MLflow 1), `/mlflow/v2.0{workspace}` (2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from starlette.responses import PlainTextResponse, RedirectResponse, Response

from tidemill.domain.errors import NotFound
from tidemill.wire.http import PUBLIC, SIGNED_IN, Context, Handler, Route, json_response
from tidemill.wire.mlflow import artifacts, curves, experiments, logged_models, models, runs

_W = "/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.MachineLearningServices/workspaces/{ws}"
_ACTION = "Microsoft.MachineLearningServices/workspaces"
# Clients choose by it what they may ask for: the protocol is MLflow 3's.
_VERSION = "3.5.0"

_TABLE: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "experiments/create", "experiments/write", experiments.create),
    ("GET", "experiments/get", "experiments/read", experiments.get),
    ("GET", "experiments/get-by-name", "experiments/read", experiments.get_by_name),
    ("POST", "experiments/search", "experiments/read", experiments.search),
    ("GET", "experiments/search", "experiments/read", experiments.search_by_query),
    ("GET", "experiments/list", "experiments/read", experiments.search_by_query),
    ("POST", "experiments/update", "experiments/write", experiments.update),
    ("POST", "experiments/delete", "experiments/delete", experiments.delete),
    ("POST", "experiments/restore", "experiments/write", experiments.restore),
    ("POST", "experiments/set-experiment-tag", "experiments/write", experiments.set_tag),
    ("POST", "runs/create", "experiments/runs/write", runs.create),
    ("GET", "runs/get", "experiments/runs/read", runs.get),
    ("POST", "runs/update", "experiments/runs/write", runs.update),
    ("POST", "runs/delete", "experiments/runs/write", runs.delete),
    ("POST", "runs/restore", "experiments/runs/write", runs.restore),
    ("POST", "runs/search", "experiments/runs/read", runs.search),
    ("POST", "runs/log-metric", "experiments/runs/write", runs.log_metric),
    ("POST", "runs/log-parameter", "experiments/runs/write", runs.log_parameter),
    ("POST", "runs/log-batch", "experiments/runs/write", runs.log_batch),
    ("POST", "runs/set-tag", "experiments/runs/write", runs.set_tag),
    ("POST", "runs/delete-tag", "experiments/runs/write", runs.delete_tag),
    ("POST", "runs/log-inputs", "experiments/runs/write", runs.log_inputs),
    ("POST", "runs/log-model", "experiments/runs/write", runs.log_model),
    ("POST", "runs/outputs", "experiments/runs/write", runs.log_outputs),
    ("POST", "logged-models", "experiments/runs/write", logged_models.create),
    ("POST", "logged-models/search", "experiments/runs/read", logged_models.search),
    ("GET", "logged-models/{model_id}", "experiments/runs/read", logged_models.get),
    ("PATCH", "logged-models/{model_id}", "experiments/runs/write", logged_models.finalize),
    ("DELETE", "logged-models/{model_id}", "experiments/runs/write", logged_models.delete),
    ("PATCH", "logged-models/{model_id}/tags", "experiments/runs/write", logged_models.set_tags),
    ("DELETE", "logged-models/{model_id}/tags/{key}", "experiments/runs/write", logged_models.delete_tag),
    ("POST", "logged-models/{model_id}/params", "experiments/runs/write", logged_models.log_params),
    ("GET", "logged-models/{model_id}/artifacts/directories", "artifacts/read", logged_models.list_files),
    ("GET", "metrics/get-history", "experiments/runs/read", runs.metric_history),
    ("GET", "metrics/get-history-bulk", "experiments/runs/read", curves.bulk),
    ("GET", "metrics/get-history-bulk-interval", "experiments/runs/read", curves.bulk_interval),
    ("GET", "artifacts/list", "artifacts/read", artifacts.list_of_run),
    ("POST", "registered-models/create", "models/write", models.create),
    ("POST", "registered-models/rename", "models/write", models.rename),
    ("PATCH", "registered-models/update", "models/write", models.update),
    ("DELETE", "registered-models/delete", "models/delete", models.delete),
    ("GET", "registered-models/get", "models/read", models.get),
    ("GET", "registered-models/search", "models/read", models.search),
    ("GET", "registered-models/get-latest-versions", "models/versions/read", models.latest_versions),
    ("POST", "registered-models/get-latest-versions", "models/versions/read", models.latest_versions),
    ("POST", "registered-models/set-tag", "models/write", models.set_tag),
    ("DELETE", "registered-models/delete-tag", "models/write", models.delete_tag),
    ("POST", "registered-models/alias", "models/write", models.set_alias),
    ("DELETE", "registered-models/alias", "models/write", models.delete_alias),
    ("GET", "registered-models/alias", "models/versions/read", models.by_alias),
    ("POST", "model-versions/create", "models/versions/write", models.create_version),
    ("GET", "model-versions/get", "models/versions/read", models.get_version),
    ("PATCH", "model-versions/update", "models/versions/write", models.update_version),
    ("POST", "model-versions/transition-stage", "models/versions/write", models.transition),
    ("DELETE", "model-versions/delete", "models/versions/delete", models.delete_version),
    ("GET", "model-versions/search", "models/versions/read", models.search_versions),
    ("GET", "model-versions/get-download-uri", "models/versions/read", models.download_uri),
    ("POST", "model-versions/set-tag", "models/versions/write", models.set_version_tag),
    ("DELETE", "model-versions/delete-tag", "models/versions/write", models.delete_version_tag),
)
_FILES = "mlflow-artifacts/artifacts"


def routes() -> list[Route]:
    return [route for version in ("v1.0", "v2.0") for route in _routes(f"/mlflow/{version}{_W}")]


def _routes(base: str) -> Iterator[Route]:
    for api in ("api/2.0", "api/3.0"):
        for method, path, action, handler in _TABLE:
            yield Route(method, f"{base}/{api}/mlflow/{path}", f"{_ACTION}/{action}", handler)
        yield Route("GET", f"{base}/{api}/{_FILES}", f"{_ACTION}/artifacts/read", artifacts.list_files)
        for method, action, handler in (
            ("GET", "artifacts/read", artifacts.get_file),
            ("PUT", "artifacts/write", artifacts.put_file),
            ("DELETE", "artifacts/write", artifacts.delete_file),
        ):
            yield Route(method, f"{base}/{api}/{_FILES}/{{path:path}}", f"{_ACTION}/{action}", handler)
        yield Route("GET", f"{base}/{api}/mlflow/server-info", SIGNED_IN, _server_info)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            yield Route(method, f"{base}/{api}/{{rest:path}}", SIGNED_IN, _absent)
    yield Route("GET", base, PUBLIC, _page)
    yield Route("GET", f"{base}/version", SIGNED_IN, _version)
    yield Route("GET", f"{base}/health", SIGNED_IN, _health)


async def _page(ctx: Context) -> Response:
    """Where the client's "View run … at" leads a browser, which keeps what stands behind the '#'."""
    scope = ctx.scope
    path = "/".join(quote(part, safe="") for part in (scope.subscription, scope.group, scope.workspace))
    return RedirectResponse(f"{ctx.services.addresses.http}/ui/{path}/mlflow")


async def _version(ctx: Context) -> Response:
    return PlainTextResponse(_VERSION)


async def _health(ctx: Context) -> Response:
    return PlainTextResponse("OK")


async def _server_info(ctx: Context) -> Response:
    return json_response(
        {
            "store_type": "tidemill",
            "workspaces_enabled": False,
            "trace_archival_enabled": False,
            "multipart_uploads_enabled": False,
            "multipart_downloads_enabled": False,
        }
    )


async def _absent(ctx: Context) -> Response:
    raise NotFound(
        f"Tidemill does not offer {ctx.params['rest']!r} of MLflow. It has experiments, runs (params, "
        "metrics, tags, datasets), their artifacts and models, and the model registry; not traces, scorers, "
        "prompts, webhooks or the AI gateway.",
        "ENDPOINT_NOT_FOUND",
    )
