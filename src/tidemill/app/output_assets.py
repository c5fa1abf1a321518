"""Registers a completed job's outputs that were given a name, as data assets or models, in the commit that
ends the job: either the job is Completed and its assets exist, or neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tidemill.app.asset_rows import DATA, MODELS, AssetKind, container_key, version_id, version_key
from tidemill.app.codec import decode_object, encode, job_status
from tidemill.domain.model import Event, Resource
from tidemill.domain.plan import PlannedOutput
from tidemill.store.api import ResourceQuery, Tx

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
    container = tx.get(container_key(scope, kind, name))
    if container is None:
        tx.insert(
            Resource(
                uid=f"{job.uid}-{output.name}-container", key=container_key(scope, kind, name), state="Succeeded",
                spec=encode(_container_properties(kind, output)), created_at=now, modified_at=now,
                created_by=job.created_by,
            )
        )
    version = output.asset_version or _next_version(tx, job, kind, name)
    if tx.get(version_key(scope, kind, name, version)) is not None:
        message = f"Output {output.name} was not registered: {name}:{version} exists. Give another version or none."
        tx.add_event(Event(job.uid, "job", now, "NotRegistered", message))
        return ""
    tx.insert(
        Resource(
            uid=f"{job.uid}-{output.name}", key=version_key(scope, kind, name, version), state="Succeeded",
            spec=encode(_version_properties(kind, job, output)), created_at=now, modified_at=now,
            created_by=job.created_by,
        )
    )
    tx.add_event(
        Event(job.uid, "job", now, "Registered", f"Output {output.name} is registered as {kind.label.lower()} {name}:{version}.")
    )
    return version_id(scope, kind, name, version)


def _next_version(tx: Tx, job: Resource, kind: AssetKind, name: str) -> str:
    rows = tx.find(ResourceQuery(kind.versions, job.key.scope, parent=name))
    numbers = [int(row.key.name) for row in rows if row.key.name.isdigit()]
    return str(max(numbers, default=0) + 1)


def _container_properties(kind: AssetKind, output: PlannedOutput) -> dict[str, Any]:
    properties: dict[str, Any] = {"isArchived": False, "tags": {}, "properties": {}}
    if kind is DATA:
        properties["dataType"] = output.type
    return properties


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
            **common, "modelType": output.type, "modelUri": output.uri, "flavors": {}, "jobName": job.key.name,
        }
    return {**common, "dataType": output.type, "dataUri": output.uri}
