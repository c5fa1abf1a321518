"""Whose job it is: the team that a user works in.

A group is a team once it has a quota or a weight of its own. Who is in none is a team alone; who is in
several names one in the job's tag `tidemill.team`, else works in the default one, else in the first by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.app.computes import quotas
from tidemill.app.computes.compute_rules import object_at
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.quota import TEAM, USER
from tidemill.store.api import Read

TAG = "tidemill.team"


async def teams_of(s: Services, caller: Caller) -> dict[str, str]:
    """The teams that the caller is in, through groups in groups too: oid -> name, by name."""
    index = await s.access.current()
    inside = index.groups_of(caller.acts_as or caller.oid)
    if not inside:
        return {}
    marked = {rule.id for rule in await s.store.read(quotas.rules) if rule.kind == TEAM}
    groups = [index.principal(oid) for oid in inside]
    found = {p.oid: p.name for p in groups if p is not None and p.oid in marked and not p.disabled}
    return dict(sorted(found.items(), key=lambda item: item[1].lower()))


async def team_of(s: Services, caller: Caller, tags: Mapping[str, Any] | None = None) -> str:
    """Object id of the team of a job that the caller submits. Raises InvalidRequest for a tag that names a
    team the caller is not in."""
    found, who = await teams_of(s, caller), caller.acts_as or caller.oid
    wanted = str((tags or {}).get(TAG) or "")
    if wanted:
        for oid, name in found.items():
            if wanted.casefold() in (oid, name.casefold()):
                return oid
        theirs = ", ".join(found.values()) or "none"
        raise InvalidRequest(
            f"Tag {TAG} names the team {wanted!r}, which {caller.name} is not in. Teams of {caller.name}: "
            f"{theirs}.",
            "NotInTeam",
            "properties.tags",
        )
    if not found:
        return who

    def default(read: Read) -> str:
        rule = quotas.rule_of(read, s.settings.subscription, USER, who)
        return rule.default_team if rule else ""

    chosen = await s.store.read(default)
    return chosen if chosen in found else next(iter(found))


def tags_of(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises InvalidRequest where they are no object."""
    return object_at(properties, "tags", "properties.tags")
