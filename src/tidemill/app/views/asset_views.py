"""Assets as people read them: the names of a workspace, and one version with all there is to say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.app.assets.assets import LISTED
from tidemill.app.rows.asset_rows import (
    MODELS,
    AssetKind,
    aliases_of,
    find_container,
    find_version,
    newest_version,
)
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.components import maybe
from tidemill.domain.fields import text
from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import Read, ResourceQuery

PAGE = 50
MOST_VERSIONS = 200


@dataclass(frozen=True, slots=True)
class Names:
    """`following`: uid to pass as `after` for older ones; "" when there are none."""

    items: Sequence[dict[str, Any]]
    following: str


async def names(
    s: Services, scope: Scope, kind: AssetKind, *, archived: bool = False, after: str = "", limit: int = PAGE
) -> Names:
    """AssetSummary of each, the newest name first; `archived`: those too."""
    query = ResourceQuery(
        kind.type,
        scope,
        ref=LISTED,
        archived=None if archived else False,
        limit=limit + 1,
        after=after or None,
    )

    def look(read: Read) -> list[tuple[Resource, Resource | None]]:
        return [(row, newest_version(read, scope, kind, row.key.name)) for row in read.find(query)]

    rows = await s.store.read(look)
    items = [_summary(container, newest) for container, newest in rows[:limit]]
    return Names(items, rows[limit - 1][0].uid if len(rows) > limit else "")


def _summary(container: Resource, newest: Resource | None) -> dict[str, Any]:
    """AssetSummary; `version` None where a name has none yet."""
    spec: Mapping[str, Any] = {} if newest is None else decode_object(newest.spec)
    own = decode_object(container.spec)
    return {
        "name": container.key.name,
        "version": None if newest is None else newest.key.name,
        "type": spec.get("modelType") or spec.get("dataType") or own.get("dataType") or _component_type(spec),
        "description": text(own.get("description") or spec.get("description")),
        "stage": spec.get("stage") or "",
        "flavors": [name for name in maybe(spec.get("flavors")) if name != "python_function"],
        "aliases": aliases_of(container),
        "image": spec.get("image") or "",
        "archived": container.archived,
        "created_at": iso(container.created_at),
        "modified_at": iso(container.modified_at),
    }


def _component_type(spec: Mapping[str, Any]) -> str:
    return str(maybe(spec.get("componentSpec")).get("type") or "")


async def version(
    s: Services, scope: Scope, kind: AssetKind, name: str, version: str = ""
) -> tuple[Resource, dict[str, Any]]:
    """-> (its row, AssetDetail), of the newest version where none is named. Raises NotFound with what
    exists."""

    def look(read: Read) -> tuple[Resource, Resource, Sequence[Resource], str]:
        container = find_container(read, scope, kind, name)
        row = find_version(read, scope, kind, name, version, "" if version else "latest")
        query = ResourceQuery(kind.versions, scope, parent=container.key.name, limit=MOST_VERSIONS)
        return container, row, read.find(query), _made_by(read, row)

    container, row, versions, job = await s.store.read(look)
    spec = decode_object(row.spec)
    aliases = aliases_of(container)
    return row, {
        "name": row.key.parent,
        "version": row.key.name,
        "type": spec.get("modelType") or spec.get("dataType") or _component_type(spec),
        "description": text(spec.get("description") or decode_object(container.spec).get("description")),
        "tags": spec.get("tags") or {},
        "properties": spec.get("properties") or {},
        "stage": spec.get("stage") or "",
        "aliases": [alias for alias, held in aliases.items() if held == row.key.name],
        "address": str(spec.get(kind.located) or "") if kind.located else "",
        "job": job,
        "archived": row.archived,
        "name_archived": container.archived,
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
        "versions": [_listed(one, aliases) for one in versions],
        "more_versions": len(versions) == MOST_VERSIONS,
        "spec": spec,
    }


def _listed(row: Resource, aliases: Mapping[str, str]) -> dict[str, Any]:
    return {
        "version": row.key.name,
        "archived": row.archived,
        "stage": decode_object(row.spec).get("stage") or "" if row.key.type == MODELS.versions else "",
        "aliases": [alias for alias, held in aliases.items() if held == row.key.name],
        "created_at": iso(row.created_at),
    }


def _made_by(read: Read, row: Resource) -> str:
    """The job that made it; "" where none did, or it is gone."""
    spec = decode_object(row.spec)
    job = str(spec.get("jobName") or maybe(spec.get("properties")).get("azureml.jobName") or "")
    return job if job and read.get(Key(row.key.scope, "jobs", job)) is not None else ""
