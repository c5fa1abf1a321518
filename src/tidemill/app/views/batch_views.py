"""Batch endpoints as people read them: BatchEndpointSummary and …Detail of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.app.people import access
from tidemill.app.people.access import Part
from tidemill.app.rows.batch_rows import (
    ENDPOINTS,
    FINAL,
    default_of,
    deployments_of,
    find_deployment,
    find_endpoint,
    spec_of,
    status_of,
)
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.app.serving.batch_calls import jobs_of
from tidemill.app.times import iso
from tidemill.app.views import job_views
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Event, Resource, Scope
from tidemill.domain.serving.batch import PIPELINE
from tidemill.store.api import Read, ResourceQuery

ACTION = f"{PROVIDER}/workspaces/batchEndpoints"
MOST_EVENTS = 100
MOST_JOBS = 20


def scoring_uri(s: Services, endpoint: Resource) -> str:
    """Where it is called, and its jobs are listed."""
    name = f"batchEndpoints/{endpoint.key.name}"
    return f"{s.addresses.https}/mferp/managementfrontend{endpoint.key.scope.arm_id}/{name}/jobs"


async def summaries(s: Services, scope: Scope, part: Part | None = None) -> list[dict[str, Any]]:
    """Oldest first; of a part of the workspace only what it shows."""
    granted = None if part is None else part.granted

    def look(read: Read) -> list[dict[str, Any]]:
        rows = read.find(ResourceQuery(ENDPOINTS, scope, ascending=True, granted=granted))
        return [_summary(read, row, deployments_of(read, row)) for row in rows]

    return await s.store.read(look)


async def detail(s: Services, caller: Caller, scope: Scope, name: str) -> dict[str, Any]:
    """BatchEndpointDetail; `jobs` None for a caller who may not list them. Raises NotFound naming the
    endpoints that exist."""

    def look(read: Read) -> dict[str, Any]:
        row = find_endpoint(read, scope, name)
        deployments = deployments_of(read, row)
        spec = decode_object(row.spec)
        return {
            **_summary(read, row, deployments),
            "description": spec.get("description") or "",
            "tags": decode_object(row.tags),
            "properties": spec.get("properties") or {},
            "scoring_uri": scoring_uri(s, row),
            "deployments": [_deployment(read, row, one) for one in deployments],
            "timeline": _timeline(row, read.last_events(row.uid, MOST_EVENTS)),
        }

    found = await s.store.read(look)
    below = f"batchEndpoints/{name}"
    return {**found, "jobs": await _jobs(s, caller, f"{ACTION}/jobs/read", below, scope, name)}


async def deployment(s: Services, caller: Caller, scope: Scope, endpoint: str, name: str) -> dict[str, Any]:
    """BatchDeploymentView, with its time line and, as above, its jobs. Raises NotFound naming what exists."""

    def look(read: Read) -> dict[str, Any]:
        row = find_deployment(read, scope, endpoint, name)
        above = find_endpoint(read, scope, endpoint)
        events = read.last_events(row.uid, MOST_EVENTS)
        return {**_deployment(read, above, row), "timeline": _timeline(row, events)}

    found = await s.store.read(look)
    below = f"batchEndpoints/{endpoint}/deployments/{name}"
    action = f"{ACTION}/deployments/jobs/read"
    return {**found, "jobs": await _jobs(s, caller, action, below, scope, endpoint, name)}


async def _jobs(
    s: Services, caller: Caller, action: str, below: str, scope: Scope, *names: str
) -> Sequence[Mapping[str, Any]] | None:
    if not (await access.decide(s, caller, action, scope, below)).allowed:
        return None
    return await job_views.summaries(s, await jobs_of(s, scope, *names, limit=MOST_JOBS))


def _running(read: Read, row: Resource) -> int:
    return read.count(ResourceQuery("jobs", row.key.scope, ref=row.uid, exclude_states=FINAL))


def _summary(read: Read, row: Resource, deployments: Sequence[Resource]) -> dict[str, Any]:
    return {
        "name": row.key.name,
        "state": row.state,
        "default_deployment": default_of(row) or None,
        "deployment_names": [one.key.name for one in deployments],
        "running_jobs": sum(_running(read, one) for one in deployments),
        "created_at": iso(row.created_at),
    }


def _deployment(read: Read, endpoint: Resource, row: Resource) -> dict[str, Any]:
    spec, status = spec_of(row), status_of(row)
    found: dict[str, Any] = {
        "name": row.key.name,
        "endpoint": endpoint.key.name,
        "state": row.state,
        "default": default_of(endpoint) == row.key.name,
        "type": "pipeline" if spec.kind == PIPELINE else "model",
        "component": status.component_label or None,
        "component_id": spec.component or None,
        "settings": dict(spec.settings),
        "model": status.model_label or None,
        "model_id": status.model or None,
        "code": spec.scoring_script or None,
        "environment": _short(spec.environment_id or status.environment) or None,
        "compute": _short(spec.compute) or None,
        "instance_type": spec.instance_type or None,
        "running_jobs": _running(read, row),
        "tags": decode_object(row.tags),
        "created_at": iso(row.created_at),
        "modified_at": iso(row.modified_at),
        "created_by": row.created_by,
    }
    if spec.kind == PIPELINE:
        return found
    batching = spec.batching
    return {
        **found,
        "instance_count": spec.instances,
        "mini_batch_size": batching.size,
        "max_concurrency_per_instance": batching.concurrency,
        "error_threshold": batching.errors,
        "max_retries": batching.retries,
        "timeout_s": batching.timeout_s,
        "output_action": "append_row" if spec.append else "summary_only",
        "output_file_name": spec.output_file if spec.append else None,
    }


def _short(reference: str) -> str:
    """`NAME:VERSION` of an asset's id, the name of a compute's; anything else as it is."""
    parts = reference.removeprefix("azureml:").split("/")
    if "versions" in parts[-2:-1]:
        reference = f"{parts[-3]}:{parts[-1]}"
    name, colon, version = reference.removeprefix("azureml:").partition(":")
    if colon and "/" not in reference:
        return f"{name}:{version[:8] if len(version) == 64 else version}"
    return parts[-1] if len(parts) > 1 and parts[-2:-1] == ["computes"] else reference


def _timeline(row: Resource, events: Sequence[Event]) -> list[dict[str, Any]]:
    return [job_views.timeline_entry(event, row.created_at) for event in reversed(events)]
