"""The route table as the rows say: which instances answer for which share of which endpoint."""

from __future__ import annotations

from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.rows.endpoint_rows import (
    ENDPOINTS,
    deployment_status,
    deployments_of,
    endpoint_status,
    mirror_of,
    traffic_of,
)
from tidemill.app.serving import instances
from tidemill.app.serving.scaled import bounds_of
from tidemill.domain.model import Resource
from tidemill.domain.serving.deciding import Phase
from tidemill.domain.serving.limits import read_limits
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.serving.routes import Backend, Endpoint, Target
from tidemill.store.api import Read, ResourceQuery


def endpoints(read: Read, now: int) -> tuple[Endpoint, ...]:
    """Of all workspaces; those that are being deleted are not there any more."""
    rows = read.find(ResourceQuery(ENDPOINTS, ascending=True))
    return tuple(_endpoint(read, row, now) for row in rows if row.state != Provisioning.DELETING)


def _endpoint(read: Read, row: Resource, now: int) -> Endpoint:
    spec, scope = decode_object(row.spec), row.key.scope
    limits = read_limits(spec.get("properties") or {})
    deployments = [one for one in deployments_of(read, row) if one.state != Provisioning.DELETING]
    return Endpoint(
        f"{scope.subscription}/{scope.group}/{scope.workspace}/{row.key.name}",
        row.uid,
        str(spec["authMode"]),
        endpoint_status(row).digests,
        tuple(traffic_of(row).items()),
        tuple(mirror_of(row).items()),
        spec.get("publicNetworkAccess") != "Disabled",
        tuple(backend(read, one, now) for one in deployments),
        limits.body_bytes,
        limits.rate,
    )


def backend(read: Read, row: Resource, now: int) -> Backend:
    """What serves now is routed: while it is replaced, or after that failed, that is the older plan's."""
    status = deployment_status(row)
    spec = (status.serving or status.plan).spec
    request, bounds = spec.request, bounds_of(read, row, spec, now)
    found = (_target(read, one, status.serving_generation) for one in instances.of_deployment(read, row))
    container = (status.serving or status.plan).environment.container
    return Backend(
        row.key.name,
        row.uid,
        request.timeout_s,
        request.queue_wait_s,
        request.max_concurrent,
        wake=bool(status.serving_generation) and bounds is not None and not bounds.minimum,
        score_path=container.scoring.path if container is not None else "/score",
        instances=tuple(target for target in found if target is not None),
    )


def _target(read: Read, row: Resource, generation: int) -> Target | None:
    status = job_status(row.status)
    instance, service = status.instance, status.plan.service
    if instance is None or service is None or service.generation != generation:
        return None
    if instances.phase_of(row, status) is not Phase.READY:
        return None
    attempt = next((a for a in read.attempts_of(row.uid) if a.number == instance.attempt), None)
    if attempt is None or attempt.ended_at is not None:
        return None
    return Target(row.uid, attempt.nodes[0], attempt.id, 0, instance.port)
