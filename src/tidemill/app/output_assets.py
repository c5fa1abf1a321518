"""Registers a completed job's outputs that were given a name, as data assets or models, in the commit that
ends the job: either the job is Completed and its assets exist, or neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tidemill.app.asset_rows import DATA, MODELS, AssetKind, container_key, version_id, version_key
from tidemill.app.assets import insert_version, next_version, type_conflict
from tidemill.app.codec import decode_object, encode, job_status
from tidemill.domain.model import Event, Resource
from tidemill.domain.plan import PlannedOutput
from tidemill.store.api import Tx

MODEL_TYPES = ("custom_model", "mlflow_model", "triton_model")


def register_outputs(tx: Tx, job_uid: str, now: int) -> None:
    """Does nothing for outputs without a name. Asked twice, it registers once."""
    row = tx.by_uid(job_uid)
    if row is None:
        return
    status = job_status(row.status)
    done = dict(status.progress.registered)
    named = [o for o in status.plan.outputs if o.asset_name and o.name not in done]
    if not named:
        return
    for output in named:
        done[output.name] = _register(tx, row, output, now)
    progress = replace(status.progress, registered=tuple(done.items()))
    tx.update(replace(row, status=encode(replace(status, progress=progress))))


def _register(tx: Tx, job: Resource, output: PlannedOutput, now: int) -> str:
    kind = MODELS if output.type in MODEL_TYPES else DATA
    scope, name = job.key.scope, output.asset_name
    version = output.asset_version or next_version(tx, scope, kind, name)
    container = tx.get(container_key(scope, kind, name))
    problem = type_conflict(container, name, output.type) if kind is DATA else ""
    if tx.get(version_key(scope, kind, name, version)) is not None:
        problem = f"{name}:{version} exists. Give another version or none."
    if problem:
        message = f"Output {output.name} was not registered: {problem}"
        tx.add_event(Event(job.uid, "job", now, "NotRegistered", message))
        return ""
    uids = (f"{job.uid}-{output.name}", f"{job.uid}-{output.name}-container")
    properties = _version_properties(kind, job, output)
    insert_version(tx, kind, scope, name, version, properties, uids, now, job.created_by)
    message = f"Output {output.name} is registered as {kind.label.lower()} {name}:{version}."
    tx.add_event(Event(job.uid, "job", now, "Registered", message))
    return version_id(scope, kind, name, version)


def _version_properties(kind: AssetKind, job: Resource, output: PlannedOutput) -> dict[str, Any]:
    tags = decode_object(job.spec).get("tags", {})
    common: dict[str, Any] = {
        "description": f"Output {output.name} of job {job.key.name}.",
        "isAnonymous": False,
        "isArchived": False,
        "tags": tags,
        "properties": {"azureml.jobName": job.key.name, "azureml.outputName": output.name},
    }
    if kind is MODELS:
        return {
            **common,
            "modelType": output.type,
            "modelUri": output.uri,
            "flavors": {},
            "jobName": job.key.name,
        }
    return {**common, "dataType": output.type, "dataUri": output.uri}
