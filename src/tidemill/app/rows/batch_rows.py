"""Where batch endpoints and their deployments lie in the store, and how they are found.

Endpoint: Key(ws, "batchEndpoints", name); `spec`: ARM's properties without what is computed.
Deployment: Key(ws, "batchEndpoints/deployments", name, parent=endpoint); `parent_uid`: the endpoint's uid;
`spec`: ARM's properties; `status`: BatchDeploymentStatus.
Neither holds a node: what a call starts is a job, whose row has the deployment's uid as `ref`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object, encode
from tidemill.domain.components import maybe
from tidemill.domain.errors import NotFound
from tidemill.domain.model import Event, JobState, Key, Resource, Scope
from tidemill.domain.serving.batch import BatchDeploymentSpec, read_deployment
from tidemill.store.api import Read, ResourceQuery

ENDPOINTS = "batchEndpoints"
DEPLOYMENTS = "batchEndpoints/deployments"
FINAL = tuple(state.value for state in JobState if state.final)


@dataclass(frozen=True, slots=True)
class BatchDeploymentStatus:
    """What was resolved when it was put. `model`: the version's id, or as it was given; labels: for people,
    NAME:VERSION; `environment`: a reference. "" for what there is not."""

    model: str = ""
    model_type: str = ""
    model_label: str = ""
    environment: str = ""
    component_label: str = ""


_status = msgspec.json.Decoder(BatchDeploymentStatus)


def endpoint_key(scope: Scope, name: str) -> Key:
    return Key(scope, ENDPOINTS, name)


def deployment_key(scope: Scope, endpoint: str, name: str) -> Key:
    return Key(scope, DEPLOYMENTS, name, parent=endpoint)


def status_of(row: Resource) -> BatchDeploymentStatus:
    return _status.decode(row.status)


def spec_of(row: Resource) -> BatchDeploymentSpec:
    return read_deployment(row.key.parent, row.key.name, decode_object(row.spec))


def default_of(endpoint: Resource) -> str:
    """The deployment that calls go to which name none; "" for none."""
    return str(maybe(decode_object(endpoint.spec).get("defaults")).get("deploymentName") or "")


def find_endpoint(read: Read, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the endpoints that exist."""
    row = read.get(endpoint_key(scope, name))
    if row is None:
        names = [one.key.name for one in read.find(ResourceQuery(ENDPOINTS, scope))]
        raise absent("Batch endpoint", name, names, f"workspace {scope.workspace!r}")
    return row


def find_deployment(read: Read, scope: Scope, endpoint: str, name: str) -> Resource:
    """Raises NotFound naming what exists, also for the endpoint."""
    above = find_endpoint(read, scope, endpoint)
    row = read.get(deployment_key(scope, above.key.name, name))
    if row is None:
        raise no_deployment(read, above, name)
    return row


def no_deployment(read: Read, endpoint: Resource, name: str) -> NotFound:
    names = [one.key.name for one in deployments_of(read, endpoint)]
    return absent("Deployment", name, names, f"batch endpoint {endpoint.key.name!r}")


def deployments_of(
    read: Read, endpoint: Resource, limit: int = 0, after: str | None = None
) -> Sequence[Resource]:
    """Oldest first."""
    where, above = endpoint.key.scope, endpoint.key.name
    query = ResourceQuery(DEPLOYMENTS, where, parent=above, ascending=True, limit=limit, after=after)
    return read.find(query)


def unended(read: Read, deployment: Resource, limit: int = 4) -> Sequence[Resource]:
    """Its jobs that have not ended, newest first."""
    query = ResourceQuery("jobs", deployment.key.scope, ref=deployment.uid, exclude_states=FINAL, limit=limit)
    return read.find(query)


def event(row: Resource, at: int, code: str, message: str, actor: str = "system") -> Event:
    """Kinds as of online ones: "endpoint" and "deployment"."""
    kind = "endpoint" if row.key.type == ENDPOINTS else "deployment"
    return Event(row.uid, kind, at, code, message, actor, encode({}))
