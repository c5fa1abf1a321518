"""Jobs as a person looks for them: by what they are doing, by part of a name; and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.domain.model import JobState, Resource, Scope
from tidemill.store.api import Granted, ResourceQuery

GROUPS: dict[str, tuple[str, ...]] = {
    "waiting": (JobState.QUEUED, JobState.PREPARING, JobState.PROVISIONING),
    "running": (JobState.STARTING, JobState.RUNNING, JobState.FINALIZING, JobState.CANCEL_REQUESTED),
    "completed": (JobState.COMPLETED,),
    "failed": (JobState.FAILED,),
    "canceled": (JobState.CANCELED,),
}
SEARCHED = 2000  # newest jobs that a name is looked for in


@dataclass(frozen=True, slots=True)
class Found:
    """`following`: uid to pass as `after` for older ones; "" when there are none."""

    rows: Sequence[Resource]
    following: str


async def search(
    s: Services,
    scope: Scope,
    *,
    group: str = "",
    text: str = "",
    limit: int = 50,
    after: str = "",
    granted: Granted | None = None,
) -> Found:
    """Newest first, without archived ones. `text` is looked for in name, display name and experiment;
    `granted`: only jobs with a role of their own (`access.Part`)."""
    states = GROUPS.get(group)
    most = SEARCHED if text else limit + 1
    query = ResourceQuery(
        "jobs",
        scope,
        states=states,
        archived=False,
        limit=most,
        after=after or None,
        granted=granted,
        parent_uid="",
    )
    rows = await s.store.read(lambda r: r.find(query))
    if text:
        rows = [row for row in rows if _matches(row, text.casefold())]
    return Found(rows[:limit], rows[limit - 1].uid if len(rows) > limit else "")


def _matches(row: Resource, text: str) -> bool:
    if text in row.key.name.casefold():
        return True
    spec = decode_object(row.spec)
    return any(text in str(spec.get(name) or "").casefold() for name in ("displayName", "experimentName"))


async def counts(s: Services, scope: Scope, granted: Granted | None = None) -> dict[str, int]:
    """Of each group of states, and "" for all."""
    groups: dict[str, tuple[str, ...] | None] = {"": None, **GROUPS}
    return await s.store.read(
        lambda r: {
            name: r.count(
                ResourceQuery("jobs", scope, states=states, archived=False, granted=granted, parent_uid="")
            )
            for name, states in groups.items()
        }
    )
