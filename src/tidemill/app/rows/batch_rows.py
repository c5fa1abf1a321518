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

from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.endpoint_kinds import EndpointKind
from tidemill.domain.components import maybe
from tidemill.domain.model import JobState, Resource
from tidemill.domain.serving.batch import BatchDeploymentSpec, read_deployment
from tidemill.store.api import Read, ResourceQuery

KIND = EndpointKind("batchEndpoints", "Batch endpoint")
ENDPOINTS, DEPLOYMENTS = KIND.endpoints, KIND.deployments
endpoint_key, deployment_key = KIND.endpoint_key, KIND.deployment_key
find_endpoint, find_deployment = KIND.find_endpoint, KIND.find_deployment
deployments_of, event = KIND.deployments_of, KIND.event
no_deployment = KIND.no_deployment
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


def status_of(row: Resource) -> BatchDeploymentStatus:
    return _status.decode(row.status)


def spec_of(row: Resource) -> BatchDeploymentSpec:
    return read_deployment(row.key.parent, row.key.name, decode_object(row.spec))


def default_of(endpoint: Resource) -> str:
    """The deployment that calls go to which name none; "" for none."""
    return str(maybe(decode_object(endpoint.spec).get("defaults")).get("deploymentName") or "")


def unended(read: Read, deployment: Resource, limit: int = 4) -> Sequence[Resource]:
    """Its jobs that have not ended, newest first."""
    query = ResourceQuery("jobs", deployment.key.scope, ref=deployment.uid, exclude_states=FINAL, limit=limit)
    return read.find(query)
