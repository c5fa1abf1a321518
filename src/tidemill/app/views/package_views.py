"""Packages of models as people read them: PackageSummary and PackageDetail of docs/architecture.md."""

from __future__ import annotations

from typing import Any

from tidemill.app.rows.package_rows import find_package, package_status
from tidemill.app.services import Services
from tidemill.app.serving.packages import list_of
from tidemill.app.times import iso
from tidemill.app.views.job_views import timeline_entry
from tidemill.domain.model import Resource, Scope
from tidemill.domain.serving.packaging import OCI, SUCCEEDED
from tidemill.environments.images.reference import PACKAGE

MOST_EVENTS = 100


async def summaries(s: Services, scope: Scope, model: str = "") -> list[dict[str, Any]]:
    """Newest first; of one model (`NAME` or `NAME:VERSION`), or of all."""
    rows = [_summary(row) for row in await list_of(s, scope)]
    return [row for row in rows if not model or model in (row["model"], row["model"].partition(":")[0])]


async def detail(s: Services, scope: Scope, name: str, version: str) -> dict[str, Any]:
    """Raises NotFound naming those that exist."""
    row, events = await s.store.read(
        lambda read: (
            found := find_package(read, scope, name, version),
            read.last_events(found.uid, MOST_EVENTS),
        )
    )
    status = package_status(row)
    return {
        **_summary(row),
        "notes": list(status.notes),
        "layers": [
            {"digest": layer.digest, "size": layer.size, "about": layer.about} for layer in status.layers
        ],
        "script": status.plan.spec.script or None,
        "timeline": [timeline_entry(event, row.created_at) for event in reversed(events)],
    }


def _summary(row: Resource) -> dict[str, Any]:
    status = package_status(row)
    plan = status.plan
    image = plan.spec.format == OCI and row.state == SUCCEEDED
    return {
        "name": row.key.parent,
        "version": row.key.name,
        "state": row.state,
        "format": plan.spec.format,
        "model": f"{plan.model.name}:{plan.model.version}",
        "environment": plan.environment.label,
        "image": f"{PACKAGE}://{row.key.parent}:{row.key.name}" if image else None,
        "digest": status.digest or None,
        "size": status.size,
        "error": None
        if status.error is None
        else {"code": status.error.code, "message": status.error.message},
        "tags": dict(plan.spec.tags),
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
    }
