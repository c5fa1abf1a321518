"""From checked files to batch endpoints, deployments and calls: what they need is uploaded first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tidemill.cli import submit
from tidemill.cli.endpoints import model_id
from tidemill.cli.errors import CliError
from tidemill.cli.http import checked
from tidemill.cli.pipelines import component_id
from tidemill.cli.session import Session
from tidemill.cli.urls import segment
from tidemill.cli.yaml import blame
from tidemill.cli.yaml.batch_load import call_body, deployment_body, endpoint_body
from tidemill.cli.yaml.endpoint_load import DeploymentReferences
from tidemill.cli.yaml.load import Spec

API = "2023-10-01"
DEPLOYMENTS_API = "2024-01-01-preview"
DATA_API = "2020-09-01-dataplanepreview"
DEPLOYMENT_HEADER = "azureml-model-deployment"
# Properties of ARM's that stand elsewhere in the file.
_MOVED = (
    (re.compile(r"^properties\.deploymentConfiguration\.componentId"), "properties.component"),
    (re.compile(r"^properties\.deploymentConfiguration\.settings"), "properties.settings"),
    (re.compile(r"^properties\.inputData"), "properties.inputs"),
    (re.compile(r"^properties\.outputData"), "properties.outputs"),
    (re.compile(r"^properties\.resources\.instanceCount"), "properties.settings.instanceCount"),
)


def path_of(session: Session, endpoint: str) -> str:
    return f"{session.workspace_id()}/batchEndpoints/{segment(endpoint)}"


def deployment_path(session: Session, endpoint: str, name: str) -> str:
    return f"{path_of(session, endpoint)}/deployments/{segment(name)}"


def native(session: Session, endpoint: str, *below: str) -> str:
    parts = "".join(f"/{segment(part)}" for part in below)
    return f"{session.native}/batchEndpoints/{segment(endpoint)}{parts}"


def put_endpoint(session: Session, spec: Spec, location: str) -> None:
    with placed(spec):
        body = endpoint_body(spec.data, location)
        session.client.begin("PUT", path_of(session, spec.data["name"]), body, {"api-version": API})


def put_deployment(session: Session, spec: Spec, location: str) -> None:
    """Uploads and registers what is not there yet."""
    data = spec.data
    with placed(spec):
        found, component = DeploymentReferences(), ""
        if data.get("type") == "pipeline":
            component = component_id(session, spec, data["component"])
            compute = submit.compute_id(session, (data.get("settings") or {}).get("default_compute"))
        else:
            code = (data.get("code_configuration") or {}).get("code")
            found = DeploymentReferences(
                model=model_id(session, spec, data["model"]) if data.get("model") else "",
                code_id=submit.code_id(session, spec, code) if code else "",
                environment_id=submit.environment_id(session, spec, data["environment"])
                if data.get("environment")
                else "",
            )
            compute = submit.compute_id(session, data.get("compute"))
        body = deployment_body(data, found, compute, component, location)
        path = deployment_path(session, data["endpoint_name"], data["name"])
        session.client.begin("PUT", path, body, {"api-version": DEPLOYMENTS_API})


def set_default(session: Session, endpoint: str, deployment: str) -> None:
    body = {"properties": {"defaults": {"deploymentName": deployment}}}
    session.client.begin("PATCH", path_of(session, endpoint), body, {"api-version": API})


def invoke(session: Session, endpoint: str, deployment: str, spec: Spec) -> dict[str, Any]:
    """Uploads what lies on this machine, then calls -> the job as ARM has it."""
    found = session.client.get(path_of(session, endpoint), {"api-version": API})
    path = urlsplit(found["properties"]["scoringUri"]).path
    with placed(spec):
        inputs = submit.with_types(spec, spec.data.get("inputs") or {})
        body = call_body(spec.data, inputs, submit.input_uris(session, spec, inputs))
        headers = {DEPLOYMENT_HEADER: deployment} if deployment else {}
        return checked(session.client.request("POST", path, body, {"api-version": DATA_API}, headers)).json()


@contextmanager
def placed(spec: Spec) -> Iterator[None]:
    """What the server refuses names the line and column of the file."""
    try:
        yield
    except CliError as error:
        error.target = _moved(error.target or "", spec) or error.target
        with blame.placed(spec):
            raise error from None


def _moved(target: str, spec: Spec) -> str:
    for pattern, instead in _MOVED:
        if pattern.match(target):
            return pattern.sub(instead, target)
    head, _, rest = target.partition(".")
    inside = blame.trail_of(target)[:1]
    settings = spec.data.get("settings")
    return f"{head}.settings.{rest}" if inside and settings and inside[0] in settings else target
