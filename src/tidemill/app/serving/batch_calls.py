"""Calls of batch endpoints: each is a job of whoever calls, submitted by the door of all jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidemill.app.computes.teams import TAG as TEAM_TAG
from tidemill.app.jobs import jobs
from tidemill.app.jobs.transitions import job_event
from tidemill.app.people import access
from tidemill.app.people.on_behalf import SUBMIT
from tidemill.app.rows.batch_rows import (
    default_of,
    deployments_of,
    event,
    find_deployment,
    find_endpoint,
    spec_of,
    status_of,
)
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.serving.batch_calls import read_call
from tidemill.domain.serving.batch_jobs import job_properties
from tidemill.store.api import Read, ResourceQuery, Tx

MOST_KEY = 256  # characters of a client's request id


async def invoke(
    s: Services,
    caller: Caller,
    scope: Scope,
    endpoint: str,
    body: Mapping[str, Any],
    deployment: str = "",
    request_id: str = "",
) -> tuple[Resource, bool]:
    """-> (the job's row, created). `deployment` "": the default one. The same `request_id` of the same caller
    is the same job: clients send it again when they did not hear the answer. Needs the right to submit jobs.
    Raises AccessDenied, NotFound, InvalidRequest, NotOffered, Conflict, and what a submit raises."""
    await access.authorise(s, caller, SUBMIT, scope)
    above, row = await s.store.read(lambda read: _called(read, scope, endpoint, deployment))
    spec, status = spec_of(row), status_of(row)
    call = read_call(spec, body)
    name = call.name or _name(s, above, caller, request_id)
    if request_id and not call.name:
        known = await s.store.read(lambda read: jobs.find(read, scope, name))
        if known is not None:
            return known, False
    tags = {key: str(value) for key, value in decode_object(row.tags).items() if key != TEAM_TAG}
    asked = replace(spec, model=status.model)
    properties = job_properties(asked, call, status.environment, status.model_type, tags)

    def recorded(tx: Tx, job: Resource) -> None:
        if tx.by_uid(row.uid) is None:
            raise Conflict(
                f"Deployment {spec.label!r} was deleted meanwhile.", "DeploymentDeleted", spec.name
            )
        tx.update(replace(job, ref=row.uid))
        tx.add_event(job_event(job, job.created_at, "Note", f"A call of batch deployment {spec.label}."))
        tx.add_event(
            event(row, job.created_at, "Called", f"Called by {caller.name}: job {name}.", caller.name)
        )

    return await jobs.submit(s, caller, scope, name, {"properties": properties}, also=recorded)


def _called(read: Read, scope: Scope, endpoint: str, deployment: str) -> tuple[Resource, Resource]:
    """Raises NotFound, InvalidRequest where none is named and none is the default."""
    above = find_endpoint(read, scope, endpoint)
    name = deployment or default_of(above)
    if name:
        return above, find_deployment(read, scope, endpoint, name)
    names = [one.key.name for one in deployments_of(read, above)]
    said = (
        f"and the call names none. It has {', '.join(names)}: name one (deployment_name, the header "
        "azureml-model-deployment), or set defaults.deployment_name."
        if names
        else "because it has none at all. Create one: tidemill batch deployment create --file deployment.yml"
    )
    raise InvalidRequest(
        f"Batch endpoint {above.key.name!r} has no default deployment, {said}",
        "NoDefaultDeployment",
        "properties.defaults.deploymentName",
    )


def _name(s: Services, endpoint: Resource, caller: Caller, request_id: str) -> str:
    if not request_id:
        return f"batchjob-{s.ids.uid()}"
    if len(request_id) > MOST_KEY:
        raise InvalidRequest(
            f"The request id has more than {MOST_KEY} characters.", target="repeatability_request-id"
        )
    mark = f"{endpoint.uid}/{caller.acts_as or caller.oid}/{request_id}"
    return f"batchjob-{hashlib.sha256(mark.encode()).hexdigest()[:32]}"


async def jobs_of(
    s: Services,
    scope: Scope,
    endpoint: str,
    deployment: str = "",
    *,
    limit: int,
    after: str | None = None,
) -> Sequence[Resource]:
    """Newest first, of all deployments that the endpoint has, or of one. Raises NotFound."""

    def look(read: Read) -> Sequence[Resource]:
        if deployment:
            called = [find_deployment(read, scope, endpoint, deployment)]
        else:
            called = list(deployments_of(read, find_endpoint(read, scope, endpoint)))
        found = [
            job
            for one in called
            for job in read.find(ResourceQuery(jobs.TYPE, scope, ref=one.uid, limit=limit, after=after))
        ]
        return sorted(found, key=lambda job: job.uid, reverse=True)[:limit]

    return await s.store.read(look)
