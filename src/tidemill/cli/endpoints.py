"""From checked files to online endpoints and deployments, and requests to them: what they need is uploaded
first, and their coming up is told line by line."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from tidemill.cli import submit, upload
from tidemill.cli.errors import FAILED, REFUSED, USAGE, CliError, ServerGone
from tidemill.cli.session import Session
from tidemill.cli.urls import segment
from tidemill.cli.yaml import blame, references
from tidemill.cli.yaml.endpoint_load import DeploymentReferences, deployment_body, endpoint_body
from tidemill.cli.yaml.load import Spec
from tidemill.cli.yaml.to_arm import model_version

API = "2022-02-01-preview"
DEPLOYMENTS_API = "2023-04-01-preview"
MODELS_API = "2023-08-01-preview"
DEPLOYMENT_HEADER = "azureml-model-deployment"
_CONTAINERS = {"inference-server": "InferenceServer", "storage-initializer": "StorageInitializer"}
_MODEL_ERROR = 424
_FINAL = ("Succeeded", "Failed")
_LOOK_S = 0.3


def path_of(session: Session, endpoint: str) -> str:
    return f"{session.workspace_id()}/onlineEndpoints/{segment(endpoint)}"


def deployment_path(session: Session, endpoint: str, name: str) -> str:
    return f"{path_of(session, endpoint)}/deployments/{segment(name)}"


def native(session: Session, endpoint: str, *below: str) -> str:
    parts = "".join(f"/{segment(part)}" for part in below)
    return f"{session.native}/endpoints/{segment(endpoint)}{parts}"


def put_endpoint(session: Session, spec: Spec, location: str) -> None:
    with blame.placed(spec):
        body = endpoint_body(spec.data, location)
        session.client.begin("PUT", path_of(session, spec.data["name"]), body, {"api-version": API})


def put_deployment(session: Session, spec: Spec, location: str) -> int:
    """Uploads what is not there yet; the deployment then comes up by itself. -> where its time line was."""
    data = spec.data
    before = last_event(session, data["endpoint_name"], data["name"])
    with placed(spec):
        code = (data.get("code_configuration") or {}).get("code")
        found = DeploymentReferences(
            model=model_id(session, spec, data["model"]) if data.get("model") else "",
            code_id=submit.code_id(session, spec, code) if code else "",
            environment_id=submit.environment_id(session, spec, data["environment"])
            if data.get("environment")
            else "",
        )
        path = deployment_path(session, data["endpoint_name"], data["name"])
        body = deployment_body(data, found, location)
        session.client.call("PUT", path, body, {"api-version": DEPLOYMENTS_API})
    return before


def last_event(session: Session, endpoint: str, name: str) -> int:
    """The number of the newest entry of a deployment's time line, 0 where there is none yet."""
    found = session.client.find(native(session, endpoint, "deployments", name))
    return found["timeline"][-1]["seq"] if found and found["timeline"] else 0


@contextmanager
def placed(spec: Spec) -> Iterator[None]:
    """The number of instances is no property in ARM, but one of the file."""
    try:
        yield
    except CliError as error:
        if error.target == "sku.capacity":
            error.target = "properties.instanceCount"
        with blame.placed(spec):
            raise error from None


def model_id(session: Session, spec: Spec, model: str | Mapping[str, Any]) -> str:
    """A registered one's id; a local one is uploaded and registered: under its name, else, as the SDK does
    it, under a hash of its content."""
    given: Mapping[str, Any] = {"path": model} if isinstance(model, str) else model
    path = str(given["path"])
    if not references.is_local(path) and isinstance(model, str):
        return submit.asset_id(session, "models", model)
    uri, digest = path, ""
    if references.is_local(path):
        root = spec.path(path)
        store = upload.open_store(session, (given.get("datastore") or upload.DEFAULT_STORE))
        uri = upload.upload_path(session, store, root, str(given.get("type") or ""))
        digest = upload.hash_in(uri)
    name = str(given.get("name") or digest or "model")
    version = str(given.get("version") or ("1" if not given.get("name") else ""))
    base = f"{session.workspace_id()}/models/{segment(name)}"
    if not version:
        latest = session.client.find(base, {"api-version": MODELS_API}) or {}
        version = str((latest.get("properties") or {}).get("nextVersion") or "1")
    body = model_version(given, uri)
    body["properties"]["isAnonymous"] = not given.get("name")
    found = f"{base}/versions/{segment(version)}"
    return session.client.call("PUT", found, body, {"api-version": MODELS_API})["id"]


def follow(session: Session, endpoint: str, name: str, seen: int) -> dict[str, Any]:
    """Tells what becomes of a deployment from the entry `seen` of its time line on, until it is ready ->
    DeploymentView. Raises CliError when it failed, with init()'s traceback where that is why."""
    began: float | None = None
    while True:
        found = session.client.get(native(session, endpoint, "deployments", name))
        for entry in found["timeline"]:
            if entry["seq"] > seen:
                seen = entry["seq"]
                began = entry["elapsed_s"] if began is None else began
                session.note(f"{entry['elapsed_s'] - began:7.1f} s  {entry['message'].splitlines()[0]}")
        if found["state"] == "Succeeded":
            return found
        if found["state"] in _FINAL:
            error = found["error"] or {"code": "DeploymentFailed", "message": "It failed."}
            raise CliError(error["message"], FAILED, error["code"])
        time.sleep(_LOOK_S)


def set_traffic(session: Session, endpoint: str, changes: Mapping[str, Mapping[str, int]]) -> None:
    """`changes`: ARM's `traffic` and `mirrorTraffic`, those that change."""
    path, query = path_of(session, endpoint), {"api-version": API}
    body = session.client.get(path, dict(query))
    body["properties"] |= {field: dict(shares) for field, shares in changes.items()}
    session.client.begin("PUT", path, body, dict(query))


@dataclass(frozen=True, slots=True)
class Answer:
    """`seconds`: from the first byte sent to the last one read. `deployment`: which one answered."""

    status: int
    body: bytes
    seconds: float
    deployment: str
    content_type: str


class Caller:
    """Requests to one endpoint, on one kept connection, with the credentials of its auth mode."""

    def __init__(self, session: Session, endpoint: str, deployment: str = "") -> None:
        found = session.client.get(path_of(session, endpoint), {"api-version": API})["properties"]
        uri = found.get("scoringUri")
        if not uri:
            raise CliError(
                f"Endpoint {endpoint} has no address: this server runs no gateway.", REFUSED, "NoGateway"
            )
        parts = urlsplit(uri)
        self.uri, self._path = uri, parts.path
        self._headers = {"Authorization": f"Bearer {credential(session, endpoint, found['authMode'])}"}
        if deployment:
            self._headers[DEPLOYMENT_HEADER] = deployment
        context = ssl.create_default_context(cafile=str(session.ca_file))
        self._connection = HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=3700)

    def send(self, body: bytes, content_type: str = "application/json") -> Answer:
        """Any status comes back. Raises ServerGone where nothing answers."""
        headers = {**self._headers, "Content-Type": content_type}
        began = time.perf_counter()
        try:
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
            found = response.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise ServerGone(f"No answer from {self.uri}: {error}.") from error
        took = time.perf_counter() - began
        name = response.getheader(DEPLOYMENT_HEADER) or ""
        return Answer(response.status, found, took, name, response.getheader("content-type") or "")


def logs(session: Session, endpoint: str, name: str, lines: int, container: str | None) -> str:
    """What a deployment's instances wrote, the last lines of each. `container`: as the user wrote it."""
    if container is not None and container not in _CONTAINERS:
        known = " or ".join(_CONTAINERS)
        raise CliError(f"--container {container} is not known. Use {known}.", USAGE, "UsageError")
    body = {"tail": lines, "containerType": _CONTAINERS[container or "inference-server"]}
    path = f"{deployment_path(session, endpoint, name)}/getLogs"
    return str(session.client.call("POST", path, body, {"api-version": DEPLOYMENTS_API})["content"])


def credential(session: Session, endpoint: str, mode: str) -> str:
    """The primary key, a token of the endpoint, or the caller's own."""
    path = path_of(session, endpoint)
    if mode == "Key":
        return session.client.call("POST", f"{path}/listKeys", None, {"api-version": API})["primaryKey"]
    if mode == "AMLToken":
        return session.client.call("POST", f"{path}/token", None, {"api-version": API})["accessToken"]
    return session.client.authorization().removeprefix("Bearer ")


def problem_of(answer: Answer) -> str:
    """What an error answer says, in one line."""
    try:
        body = json.loads(answer.body)
        error = body.get("error", body)
        return str(error.get("message") or error)
    except (ValueError, AttributeError):
        return answer.body.decode("utf-8", "replace").strip()[:500] or f"status {answer.status}"


def where_told(endpoint: str, answer: Answer) -> str:
    """Of an error of the model's own, a line that says where its traceback is; else ""."""
    if answer.status != _MODEL_ERROR or not answer.deployment:
        return ""
    return f"\nWhy: tidemill deployment logs --endpoint-name {endpoint} --name {answer.deployment}"
