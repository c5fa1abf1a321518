"""Where online endpoints and their deployments lie in the store, and how they are found.

Endpoint: Key(ws, "onlineEndpoints", name); `spec`: ARM's properties without what is computed, traffic under
the names of its deployments; `status`: EndpointStatus.
Deployment: Key(ws, "onlineEndpoints/deployments", name, parent=endpoint); `parent_uid`: the endpoint's uid;
`ref`: its compute's; `spec`: ARM's properties; `status`: DeploymentStatus.
`state` of both: Provisioning. What a deployment's row asks for, the deployments controller carries out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object, encode
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Event, Key, Resource, Scope
from tidemill.domain.serving.plan import DeploymentStatus, EndpointStatus
from tidemill.store.api import Read, ResourceQuery

ENDPOINTS = "onlineEndpoints"
DEPLOYMENTS = "onlineEndpoints/deployments"
AUTOSCALE = "autoscaleSettings"  # of a group; `ref`: the deployment's uid

_endpoint_status = msgspec.json.Decoder(EndpointStatus)
_deployment_status = msgspec.json.Decoder(DeploymentStatus)


def endpoint_key(scope: Scope, name: str) -> Key:
    return Key(scope, ENDPOINTS, name)


def deployment_key(scope: Scope, endpoint: str, name: str) -> Key:
    return Key(scope, DEPLOYMENTS, name, parent=endpoint)


def endpoint_status(row: Resource) -> EndpointStatus:
    return _endpoint_status.decode(row.status)


def deployment_status(row: Resource) -> DeploymentStatus:
    return _deployment_status.decode(row.status)


def traffic_of(row: Resource) -> dict[str, int]:
    """Of an endpoint: percent by deployment."""
    return {str(name): int(share) for name, share in decode_object(row.spec).get("traffic", {}).items()}


def mirror_of(row: Resource) -> dict[str, int]:
    return {str(name): int(share) for name, share in decode_object(row.spec).get("mirrorTraffic", {}).items()}


def find_endpoint(read: Read, scope: Scope, name: str) -> Resource:
    """Raises NotFound naming the endpoints that exist."""
    row = read.get(endpoint_key(scope, name))
    if row is None:
        names = [one.key.name for one in read.find(ResourceQuery(ENDPOINTS, scope))]
        raise absent("Online endpoint", name, names, f"workspace {scope.workspace!r}")
    return row


def find_deployment(read: Read, scope: Scope, endpoint: str, name: str) -> Resource:
    """Raises NotFound naming what exists, also for the endpoint."""
    above = find_endpoint(read, scope, endpoint)
    row = read.get(deployment_key(scope, above.key.name, name))
    if row is None:
        names = [one.key.name for one in deployments_of(read, above)]
        raise absent("Deployment", name, names, f"endpoint {above.key.name!r}")
    return row


def deployments_of(
    read: Read, endpoint: Resource, limit: int = 0, after: str | None = None
) -> Sequence[Resource]:
    """Oldest first."""
    where, above = endpoint.key.scope, endpoint.key.name
    query = ResourceQuery(DEPLOYMENTS, where, parent=above, ascending=True, limit=limit, after=after)
    return read.find(query)


def event(row: Resource, at: int, code: str, message: str, actor: str = "system", **data: Any) -> Event:
    """Kinds: "endpoint" and "deployment"."""
    kind = "endpoint" if row.key.type == ENDPOINTS else "deployment"
    return Event(row.uid, kind, at, code, message, actor, encode(data))


def being_deleted(row: Resource) -> Conflict:
    what = "Endpoint" if row.key.type == ENDPOINTS else "Deployment"
    return Conflict(
        f"{what} {row.key.name!r} is being deleted. Wait until it is gone.", f"{what}Deleting", row.key.name
    )


def assigned_in(identity: Mapping[str, Any] | None) -> list[str]:
    """Object ids of the user-assigned identities in ARM's `identity`."""
    named = cast(Mapping[str, Mapping[str, Any]], (identity or {}).get("userAssignedIdentities") or {})
    return [str(one["principalId"]) for one in named.values()]
