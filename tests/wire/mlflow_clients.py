"""Runs the unmodified clients of MLflow, each in the venv that `make mlflow` built for it."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python_of(client: str) -> str:
    """`client`: mlflow2, mlflow3 or azureml-mlflow."""
    python = ROOT / f".venv-{client}" / "bin" / "python"
    if not python.exists():
        message = f"{client} is not installed at {python}; run `make mlflow`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return str(python)


def token_of(server: Any) -> str:
    """The owner's."""
    url = f"{server.env['IDENTITY_ENDPOINT']}?resource=https://ml.azure.localhost&api-version=2019-08-01"
    asked = urllib.request.Request(url, headers={"X-IDENTITY-HEADER": server.env["IDENTITY_HEADER"]})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read())["access_token"]


def surroundings(server: Any, client: str) -> dict[str, str]:
    """What a user of that client has set: its tracking address, and the token that MLflow's own needs."""
    if client == "azureml-mlflow":
        https = server.state["addresses"]["https"].split("://", 1)[1]
        return {**server.env, "MLFLOW_TRACKING_URI": f"azureml://{https}/mlflow/v1.0{server.workspace_id}"}
    return {
        "MLFLOW_TRACKING_URI": f"{server.state['addresses']['http']}/mlflow/v2.0{server.workspace_id}",
        "MLFLOW_TRACKING_TOKEN": token_of(server),
    }


def run_client(client: str, code: str, variables: dict[str, str], timeout: float = 570) -> dict[str, Any]:
    """-> what the program printed as JSON after RESULT."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "AZURE", "PYTHON"))}
    own = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [python_of(client), "-c", code],
        env={**clean, **own, **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd="/",
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, done.stdout + done.stderr
    return json.loads(line.removeprefix("RESULT"))


def call(url: str, token: str, body: Any = None, method: str | None = None) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    asked = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
