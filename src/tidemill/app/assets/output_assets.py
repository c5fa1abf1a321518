"""Registers a completed job's outputs that were given a name, as data assets or models, in the commit that
ends the job: either the job is Completed and its assets exist, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.assets.assets import insert_version, next_version, type_conflict
from tidemill.app.rows.asset_rows import DATA, MODELS, AssetKind, container_key, version_id, version_key
from tidemill.app.rows.codec import decode_object
from tidemill.domain.jobspec import MODEL_TYPES
from tidemill.domain.model import Event, Resource, Scope
from tidemill.domain.plan import PlannedOutput
from tidemill.store.api import Read, Tx


def register_outputs(
    tx: Tx, job: Resource, outputs: Sequence[PlannedOutput], now: int
) -> tuple[tuple[str, str], ...]:
    """-> (output, id of its asset, "" where it could not be registered) of those that have a name."""
    return tuple((output.name, _register(tx, job, output, now)) for output in outputs if output.asset_name)


def not_registrable(read: Read, scope: Scope, output: PlannedOutput) -> str:
    """Why an output cannot be registered under the name and version it asks for; "" if it can."""
    kind, name, version = _kind(output), output.asset_name, output.asset_version
    if version and read.get(version_key(scope, kind, name, version)) is not None:
        return f"{kind.label} {name}:{version} exists. Give another version or none."
    return (
        type_conflict(read.get(container_key(scope, kind, name)), name, output.type) if kind is DATA else ""
    )


def _kind(output: PlannedOutput) -> AssetKind:
    return MODELS if output.type in MODEL_TYPES else DATA


def _register(tx: Tx, job: Resource, output: PlannedOutput, now: int) -> str:
    kind = _kind(output)
    scope, name = job.key.scope, output.asset_name
    version = output.asset_version or next_version(tx, scope, kind, name)
    problem = not_registrable(tx, scope, replace(output, asset_version=version))
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
