"""From a checked job spec to a submitted job: code, inputs and environment first, then the job itself."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidemill.cli import upload
from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.session import Session
from tidemill.cli.urls import segment
from tidemill.cli.yaml import blame, references, sweep_to_arm, to_arm
from tidemill.cli.yaml.document import Problem, YamlError, read_file
from tidemill.cli.yaml.load import Spec
from tidemill.cli.yaml.schemas import MODEL_TYPES

JOBS_API = "2025-01-01-preview"
KEEP = "tidemill.keep_on_failure"
ENVIRONMENTS_API = "2023-04-01-preview"
VERSIONS_API = {
    "environments": "2023-04-01-preview",
    "data": "2023-04-01-preview",
    "models": "2023-08-01-preview",
    "components": "2024-01-01-preview",
}

_FIRST = "brave bright calm clever cool dreamy eager epic gentle goofy happy hungry icy jolly keen kind lively lucky mighty modest neat nice olden patient plucky polite quiet quirky sharp silly sleepy strong sunny swift tender upbeat witty zen"  # noqa: E501
_SECOND = "apple arch basil bay beach bell bird boat brick bridge brook cake cloud coin cup drop feather fig flower garden glass hat house island jelly kettle kite leaf lemon moon nail oak ocean orange pear pen planet pot quill rain river root sail soup spade sponge square star stone street sugar tail tooth tree wall wave wheel"  # noqa: E501


def submit(session: Session, spec: Spec, name: str | None) -> dict[str, Any]:
    """Uploads what is not there yet, then PUTs the job. -> the job as ARM returns it. What the server refuses
    is told with its place in the file."""
    made: str = name or spec.data.get("name") or new_name()
    with blame.placed(spec):
        path = f"{session.workspace_id()}/jobs/{segment(made)}"
        return session.client.call("PUT", path, job_body(session, spec, made), {"api-version": JOBS_API})


def keeping(spec: Spec, duration: str | None) -> Spec:
    """The job with nodes that stay for so long when it fails. Raises CliError for a pipeline."""
    if not duration:
        return spec
    if spec.data.get("type") == "pipeline":
        raise CliError(
            f"--keep-on-failure is for jobs with nodes of their own: give the step the property {KEEP}.",
            USAGE,
            "UsageError",
        )
    spec.data["properties"] = {**(spec.data.get("properties") or {}), KEEP: duration}
    return spec


def job_body(session: Session, spec: Spec, name: str) -> dict[str, Any]:
    """ARM's body of the job; what it needs is uploaded."""
    if spec.data.get("type") == "pipeline":
        from tidemill.cli.pipelines import pipeline_job

        return pipeline_job(session, spec, name, default_experiment())
    job = {**spec.data, "inputs": with_types(spec, spec.data.get("inputs") or {})}
    run = job["trial"] if job.get("type") == "sweep" else job
    if isinstance(run, str):
        from tidemill.cli.pipelines import component_id

        found = to_arm.JobReferences(component_id=component_id(session, spec, run))
    else:
        environment = environment_id(session, spec, run["environment"])
        code = code_id(session, spec, run["code"]) if run.get("code") else ""
        found = to_arm.JobReferences(environment, code)
    compute, inputs = compute_id(session, job.get("compute")), input_uris(session, spec, job["inputs"])
    found = replace(found, compute_id=compute, inputs=inputs)
    write = sweep_to_arm.sweep_job if run is not job else to_arm.command_job
    return write(job, name, found, default_experiment())


def with_types(spec: Spec, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {**value, "type": references.default_type(spec.document, value)}
        if isinstance(value, dict) and value.get("path") and not to_arm.is_literal(value)
        else value
        for name, value in inputs.items()
    }


def new_name() -> str:
    """ "calm_river_0k3d9x2hbw": like the names the SDK gives."""
    letters = "bcdfghjklmnpqrstvwxyz0123456789"
    suffix = "".join(random.choices(letters, k=10))
    return f"{random.choice(_FIRST.split())}_{random.choice(_SECOND.split())}_{suffix}"


def default_experiment() -> str:
    """The name of the current folder, as the SDK does it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "", Path.cwd().name) or "Default"


def compute_id(session: Session, compute: str | None) -> str:
    """ "" for none: the job then has nodes of its own, as with `serverless`; `local` is the host."""
    text = (compute or "").removeprefix("azureml:")
    if text.startswith("/") or text in ("", "local", "serverless"):
        return text
    return f"{session.workspace_id()}/computes/{segment(text)}"


def code_id(session: Session, spec: Spec, code: str) -> str:
    if references.is_local(code):
        return upload.upload_code(session, spec.path(code))
    return asset_id(session, "codes", code)


def input_uris(session: Session, spec: Spec, inputs: dict[str, Any]) -> dict[str, str]:
    """Data inputs by name: asset ids, URIs as they are, local paths uploaded."""
    result: dict[str, str] = {}
    stores: dict[str, upload.Store] = {}
    for name, value in inputs.items():
        if not isinstance(value, dict) or to_arm.is_literal(value) or not value.get("path"):
            continue
        path, kind = value["path"], value.get("type") or "uri_folder"
        if not references.is_local(path):
            result[name] = asset_id(session, "models" if kind in MODEL_TYPES else "data", path)
            continue
        store = (value.get("datastore") or upload.DEFAULT_STORE).removeprefix("azureml:")
        if store not in stores:
            stores[store] = upload.open_store(session, store)
        result[name] = upload.upload_path(session, stores[store], spec.path(path), kind)
    return result


def environment_id(session: Session, spec: Spec, environment: str | dict[str, Any]) -> str:
    if isinstance(environment, str):
        return asset_id(session, "environments", environment)
    body, upload_hash = environment_body(session, spec, environment, anonymous=True)
    version = to_arm.anonymous_version(body, upload_hash)
    path = f"{session.workspace_id()}/environments/{to_arm.ANONYMOUS_ENVIRONMENT}/versions/{version}"
    return session.client.call("PUT", path, body, {"api-version": ENVIRONMENTS_API})["id"]


def environment_body(
    session: Session, spec: Spec, environment: dict[str, Any], anonymous: bool = False
) -> tuple[dict[str, Any], str]:
    """-> (ARM body, hash of the build context or ""). Reads the conda file and uploads a build context."""
    conda = environment.get("conda_file")
    if isinstance(conda, str):
        conda = read_conda(spec.path(conda))
    build = environment.get("build") or {}
    context, digest = "", ""
    if build.get("path") and references.is_local(build["path"]):
        root = spec.path(build["path"])
        store = upload.open_store(session)
        uri = upload.upload_path(session, store, root, "uri_folder")
        context = f"{store.container.url}/{quote(uri.split('/paths/', 1)[1])}"
        digest = upload.hash_in(uri)
    elif build.get("path"):
        context = build["path"]
    return to_arm.environment_version(environment, conda, context, anonymous), digest


def read_conda(path: Path) -> str:
    """Its text as it is: the lines that errors name are those of the file. Raises YamlError when it is no
    mapping."""
    document = read_file(path)
    if not isinstance(document.data, dict):
        raise YamlError([Problem(document.place(()), "a conda file is a mapping with dependencies.")])
    return document.source


def asset_id(session: Session, kind: str, reference: str) -> str:
    """`azureml:NAME:VERSION|@LABEL` -> ARM id; ids and URIs as they are. `kind`: ARM's segment ("data", …).

    A name without any version goes to the server as it was written: it may be one that it brings itself
    (curated environments), and its refusal names those that exist.
    """
    asset = references.asset_reference(reference)
    if asset is None:
        return (
            reference.removeprefix("azureml:")
            if reference.startswith("azureml:/subscriptions")
            else reference
        )
    base = f"{session.workspace_id()}/{kind}/{segment(asset.name)}/versions"
    if asset.version:
        return f"{base}/{segment(asset.version)}"
    if asset.label != "latest":
        raise CliError(f"{reference}: the only label offered is @latest.", USAGE, "UnknownLabel")
    version = latest_version(session, kind, asset.name)
    return f"{base}/{segment(version)}" if version else reference


def latest_version(session: Session, kind: str, name: str) -> str:
    """ "" when there is none."""
    base, api = (
        f"{session.workspace_id()}/{kind}/{segment(name)}",
        {"api-version": VERSIONS_API.get(kind, "2023-04-01")},
    )
    if kind == "data":
        container = session.client.find(base, dict(api))
        return ((container or {}).get("properties") or {}).get("latestVersion") or ""
    listed = session.client.find(f"{base}/versions", {**api, "$orderBy": "createdtime desc", "$top": "1"})
    versions = (listed or {}).get("value") or []
    return versions[0]["name"] if versions else ""
