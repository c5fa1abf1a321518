"""Online endpoints as people read them: EndpointSummary and EndpointDetail of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.app.jobs import costs
from tidemill.app.people.access import Part
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.rows.endpoint_rows import (
    ENDPOINTS,
    deployment_status,
    deployments_of,
    find_deployment,
    find_endpoint,
    mirror_of,
    traffic_of,
)
from tidemill.app.services import Services
from tidemill.app.serving import autoscale_settings
from tidemill.app.serving.instances import phase_of
from tidemill.app.times import iso
from tidemill.app.views import job_views
from tidemill.app.views.deployment_logs import instances_of, shown
from tidemill.app.views.serving_lineage import made_by
from tidemill.domain.model import Event, Resource, Scope
from tidemill.domain.serving.model import DEFAULT_SCALE
from tidemill.domain.serving.plan import DeploymentPlan, DeploymentStatus
from tidemill.domain.serving.service import InstanceProgress
from tidemill.store.api import Read, ResourceQuery

MOST_EVENTS = 100


async def summaries(s: Services, scope: Scope, part: Part | None = None) -> list[dict[str, Any]]:
    """Oldest first; of a part of the workspace only what it shows."""
    granted = None if part is None else part.granted

    def look(read: Read) -> list[tuple[Resource, Sequence[Resource]]]:
        rows = read.find(ResourceQuery(ENDPOINTS, scope, ascending=True, granted=granted))
        return [(row, deployments_of(read, row)) for row in rows]

    found = await s.store.read(look)
    return [await _summary(s, row, deployments) for row, deployments in found]


async def detail(s: Services, scope: Scope, name: str) -> dict[str, Any]:
    """EndpointDetail. Raises NotFound naming the endpoints that exist."""

    def look(read: Read) -> tuple[Resource, Sequence[Resource], Sequence[Event]]:
        row = find_endpoint(read, scope, name)
        return row, deployments_of(read, row), read.last_events(row.uid, MOST_EVENTS)

    row, deployments, events = await s.store.read(look)
    spec = decode_object(row.spec)
    return {
        **await _summary(s, row, deployments),
        "description": spec.get("description") or "",
        "tags": decode_object(row.tags),
        "properties": spec.get("properties") or {},
        "public_network_access": spec.get("publicNetworkAccess"),
        "scoring_uri": scoring_uri(s, row),
        "deployments": [await _deployment(s, row, one) for one in deployments],
        "timeline": _timeline(row, events),
    }


async def deployment(s: Services, scope: Scope, endpoint: str, name: str) -> dict[str, Any]:
    """DeploymentView, with its time line. Raises NotFound naming what exists."""

    def look(read: Read) -> tuple[Resource, Resource, Sequence[Event]]:
        row = find_deployment(read, scope, endpoint, name)
        return find_endpoint(read, scope, endpoint), row, read.last_events(row.uid, MOST_EVENTS)

    above, row, events = await s.store.read(look)
    return {**await _deployment(s, above, row), "timeline": _timeline(row, events)}


def scoring_uri(s: Services, endpoint: Resource) -> str | None:
    """None where no gateway runs."""
    gateway, scope = s.addresses.gateway, endpoint.key.scope
    if not gateway:
        return None
    return (
        f"{gateway}/endpoints/{scope.subscription}/{scope.group}/{scope.workspace}/{endpoint.key.name}/score"
    )


async def _summary(s: Services, row: Resource, deployments: Sequence[Resource]) -> dict[str, Any]:
    rates = [await costs.compute_run_rate(s, one.ref) for one in deployments]
    spent = [await costs.compute_usd(s, one.ref) for one in deployments]
    return {
        "name": row.key.name,
        "state": row.state,
        "auth_mode": decode_object(row.spec)["authMode"],
        "traffic": traffic_of(row),
        "mirror_traffic": mirror_of(row),
        "deployment_states": {one.key.name: one.state for one in deployments},
        "run_rate_usd_hour": sum(rates),
        "cost_usd": None if None in spent else sum(usd for usd in spent if usd is not None),
        "created_at": iso(row.created_at),
    }


async def _deployment(s: Services, endpoint: Resource, row: Resource) -> dict[str, Any]:
    status, spec = deployment_status(row), decode_object(row.spec)
    plan = status.plan
    instances, setting, job = await s.store.read(
        lambda read: (
            instances_of(read, row),
            autoscale_settings.of_deployment(read, row),
            made_by(read, row.key.scope, plan),
        )
    )
    return {
        "name": row.key.name,
        "endpoint": endpoint.key.name,
        "state": row.state,
        "traffic": traffic_of(endpoint).get(row.key.name, 0),
        "mirror_traffic": mirror_of(endpoint).get(row.key.name, 0),
        "model": _model(plan),
        "model_job": job,
        "code": plan.spec.scoring_script or None,
        "environment": plan.environment.label,
        "instance_type": spec["instanceType"],
        "instance_count": plan.spec.instances,
        "scale": spec["scaleSettings"]["scaleType"],
        "autoscale": None if setting is None else setting.key.name,
        "request_timeout_s": plan.spec.request.timeout_s,
        "max_concurrent": plan.spec.request.max_concurrent,
        "max_queue_wait_s": plan.spec.request.queue_wait_s,
        "instances": [await _instance(s, one) for one in shown(row, instances)],
        "asleep": status.scaled == 0 and not any(_counts(one) for one in instances),
        "metrics": _metrics(s, row),
        "serves_older": _serves_older(status, str(spec["scaleSettings"]["scaleType"]), setting),
        "error": None
        if status.error is None
        else {"code": status.error.code, "message": status.error.message},
        "price_usd_hour": costs.usd_hour(s, str(spec["instanceType"]), row.location),
        "run_rate_usd_hour": await costs.compute_run_rate(s, row.ref),
        "cost_usd": await costs.compute_usd(s, row.ref),
        "tags": decode_object(row.tags),
        "created_at": iso(row.created_at),
        "modified_at": iso(row.modified_at),
        "created_by": row.created_by,
    }


def _serves_older(status: DeploymentStatus, scale: str, setting: Resource | None) -> bool:
    """What was deployed before the last change answers: it has instances, or wakes up for a request."""
    older = status.serving
    return older is not None and bool(older.spec.instances or scale != DEFAULT_SCALE or setting is not None)


def _model(plan: DeploymentPlan) -> str | None:
    model = plan.model
    if model is None:
        return None
    return f"{model.name}:{model.version}" if model.name else model.given


def _metrics(s: Services, row: Resource) -> dict[str, Any] | None:
    """None where no gateway has said anything of it."""
    found = s.live.traffic.get(row.uid)
    return None if found is None else {**found.as_dict(), "last_at": iso(found.last_at or None)}


async def _instance(s: Services, row: Resource) -> dict[str, Any]:
    """A job of its own; `waits`: why it is not ready."""
    attempts = await s.store.read(lambda read: read.attempts_of(row.uid))
    status = job_status(row.status)
    held, error = status.instance or InstanceProgress(), status.progress.error
    return {
        "name": row.key.name,
        "state": row.state,
        "phase": phase_of(row, status),
        "generation": status.plan.service.generation if status.plan.service else 0,
        "restarts": held.restarts,
        "node": attempts[-1].nodes[0] if attempts and attempts[-1].nodes else None,
        "started_at": iso(status.progress.started_at),
        "parked_at": iso(held.parked_at),
        "waits": held.unready or job_views.waiting_sentence(s, row),
        "error": None if error is None else error.message,
    }


def _counts(row: Resource) -> bool:
    return phase_of(row, job_status(row.status)).counts


def _timeline(row: Resource, events: Sequence[Event]) -> list[dict[str, Any]]:
    return [job_views.timeline_entry(event, row.created_at) for event in reversed(events)]
