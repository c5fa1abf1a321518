"""Use cases of resource groups: rows of the subscription, `Key(Scope(sub), "resourceGroups", name)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from tidemill.app.services import Caller, Services
from tidemill.domain.errors import NotFound
from tidemill.domain.ids import check_name
from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import Read, ResourceQuery, Tx

_encode = msgspec.json.Encoder().encode


async def get(services: Services, scope: Scope) -> Resource:
    """Raises NotFound naming the groups that exist."""
    key = Key(Scope(scope.subscription), "resourceGroups", scope.group)

    def find(read: Read) -> Resource:
        row = read.get(key)
        if row is None:
            names = [
                g.key.name for g in read.find(ResourceQuery("resourceGroups", Scope(scope.subscription)))
            ]
            raise NotFound(
                f"Resource group '{scope.group}' could not be found. There is: {', '.join(sorted(names))}. "
                f"`tidemill workspace create` or a PUT of the group makes one.",
                "ResourceGroupNotFound",
                scope.group,
            )
        return row

    return await services.store.read(find)


async def list_of(services: Services, subscription: str) -> Sequence[Resource]:
    query = ResourceQuery("resourceGroups", Scope(subscription), ascending=True)
    return await services.store.read(lambda read: read.find(query))


async def put(
    services: Services, caller: Caller, scope: Scope, location: str, tags: dict[str, str] | None
) -> tuple[Resource, bool]:
    """-> (row, whether it is new)."""
    check_name(scope.group, "Resource group")
    now, uid = services.clock.now(), services.ids.uid()
    key = Key(Scope(scope.subscription), "resourceGroups", scope.group)

    def write(tx: Tx) -> tuple[Resource, bool]:
        row = tx.get(key)
        if row is not None:
            kept = row.tags if tags is None else _encode(tags)
            return tx.update(replace(row, tags=kept, modified_at=now)), False
        new = Resource(
            uid,
            key,
            "Succeeded",
            tags=_encode(tags or {}),
            location=location or services.settings.region,
            created_at=now,
            modified_at=now,
            created_by=caller.name,
        )
        return tx.insert(new), True

    return await services.store.write(write)
