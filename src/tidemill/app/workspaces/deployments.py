"""Records of template deployments: `Key(Scope(sub, group), "deployments", name)`.

Spec JSON: ARM's properties and `targets`, what the deployment made: [{id, resourceType, resourceName}].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from tidemill.app.services import Caller, Services
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import check_name
from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import Tx


async def record(
    services: Services,
    caller: Caller,
    scope: Scope,
    name: str,
    targets: Sequence[tuple[str, str, str]],
    started_at: int,
) -> tuple[Resource, bool]:
    """Stores a deployment that has succeeded. `targets`: (type, name, ARM id). -> (row, whether new)."""
    check_name(name, "Deployment")
    now, uid = services.clock.now(), services.ids.uid()
    key = Key(Scope(scope.subscription, scope.group), "deployments", name)
    spec = {
        "provisioningState": "Succeeded",
        "mode": "Incremental",
        "correlationId": uid,
        "duration": f"PT{(now - started_at) / 1e6:.6f}S",
        "outputResources": [{"id": arm_id} for _, _, arm_id in targets],
        "targets": [
            {"id": arm_id, "resourceType": kind, "resourceName": own} for kind, own, arm_id in targets
        ],
    }
    row = Resource(
        uid,
        key,
        "Succeeded",
        spec=msgspec.json.encode(spec),
        created_at=now,
        modified_at=now,
        created_by=caller.name,
    )

    def write(tx: Tx) -> tuple[Resource, bool]:
        old = tx.get(key)
        if old is None:
            return tx.insert(row), True
        return tx.update(replace(old, spec=row.spec, modified_at=now)), False

    return await services.store.write(write)


async def get(services: Services, scope: Scope, name: str) -> Resource:
    """Raises NotFound."""
    key = Key(Scope(scope.subscription, scope.group), "deployments", name)
    row = await services.store.read(lambda read: read.get(key))
    if row is None:
        raise NotFound(f"Deployment '{name}' could not be found.", "DeploymentNotFound", name)
    return row
