"""Where online endpoints and their deployments lie in the store, and how they are found.

Endpoint: Key(ws, "onlineEndpoints", name); `spec`: ARM's properties without what is computed, traffic under
the names of its deployments; `status`: EndpointStatus.
Deployment: Key(ws, "onlineEndpoints/deployments", name, parent=endpoint); `parent_uid`: the endpoint's uid;
`ref`: its compute's; `spec`: ARM's properties; `status`: DeploymentStatus.
`state` of both: Provisioning. What a deployment's row asks for, the deployments controller carries out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.endpoint_kinds import EndpointKind
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Resource
from tidemill.domain.serving.plan import DeploymentStatus, EndpointStatus

KIND = EndpointKind("onlineEndpoints", "Online endpoint")
ENDPOINTS, DEPLOYMENTS = KIND.endpoints, KIND.deployments
endpoint_key, deployment_key = KIND.endpoint_key, KIND.deployment_key
find_endpoint, find_deployment = KIND.find_endpoint, KIND.find_deployment
deployments_of, event = KIND.deployments_of, KIND.event
AUTOSCALE = "autoscaleSettings"  # of a group; `ref`: the deployment's uid

_endpoint_status = msgspec.json.Decoder(EndpointStatus)
_deployment_status = msgspec.json.Decoder(DeploymentStatus)


def endpoint_status(row: Resource) -> EndpointStatus:
    return _endpoint_status.decode(row.status)


def deployment_status(row: Resource) -> DeploymentStatus:
    return _deployment_status.decode(row.status)


def traffic_of(row: Resource) -> dict[str, int]:
    """Of an endpoint: percent by deployment."""
    return {str(name): int(share) for name, share in decode_object(row.spec).get("traffic", {}).items()}


def mirror_of(row: Resource) -> dict[str, int]:
    return {str(name): int(share) for name, share in decode_object(row.spec).get("mirrorTraffic", {}).items()}


def being_deleted(row: Resource) -> Conflict:
    what = "Endpoint" if row.key.type == ENDPOINTS else "Deployment"
    return Conflict(
        f"{what} {row.key.name!r} is being deleted. Wait until it is gone.", f"{what}Deleting", row.key.name
    )


def assigned_in(identity: Mapping[str, Any] | None) -> list[str]:
    """Object ids of the user-assigned identities in ARM's `identity`."""
    named = cast(Mapping[str, Mapping[str, Any]], (identity or {}).get("userAssignedIdentities") or {})
    return [str(one["principalId"]) for one in named.values()]
