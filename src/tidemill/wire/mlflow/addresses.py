"""Addresses of artifacts as the client that asks can read them.

MLflow's own clients read `mlflow-artifacts:/…` through this server. `azureml-mlflow` knows only `azureml://…`:
runs' files by run history, others by `/artifact/v2.0`; it says so in its User-Agent, and comes over https
below `/mlflow/v2.0`, whatever its tracking address says. Where it is installed but not used (a tracking
address of http or below `/mlflow/v1.0`), MLflow's own is right.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from tidemill.wire.http import Context

Show = Callable[[str, str], str]
_OWN = "mlflow-artifacts:/"
_RUNS = "mlflow-artifacts:/ExperimentRun/dcid."


def speaks_azure(ctx: Context) -> bool:
    request = ctx.request
    return (
        "azureml-mlflow/" in request.header("user-agent")
        and request.scope.get("scheme") == "https"
        and request.path.startswith("/mlflow/v2.0/")
    )


def shown(ctx: Context, uri: str, experiment_id: str = "0") -> str:
    """`uri` is one of ours (`mlflow-artifacts:/…`); another is given back as it is."""
    if not speaks_azure(ctx) or not uri.startswith(_OWN):
        return uri
    if uri.startswith(_RUNS):
        run, _, path = uri.removeprefix(_RUNS).partition("/")
        netloc = ctx.services.addresses.https.split("://", 1)[1]
        base = f"azureml://{netloc}/mlflow/v2.0{ctx.scope.arm_id}"
        where = f"{base}/experiments/{quote(experiment_id, safe='')}/runs/{run}/artifacts"
        return f"{where}/{path}" if path else where
    return f"azureml://artifacts/{uri.removeprefix(_OWN)}"
