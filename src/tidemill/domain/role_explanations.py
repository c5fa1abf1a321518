"""Why somebody may, or may not: every assignment they have, and what each says about one action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.domain.roles import (
    AccessIndex,
    Decision,
    Held,
    Permission,
    RoleDefinition,
    covers,
    matches,
    permits,
)
from tidemill.domain.roles import fold_scope as fold


@dataclass(frozen=True, slots=True)
class Step:
    """One assignment. `groups` are the names of those it comes through, outermost last."""

    held: Held
    groups: tuple[str, ...]
    allows: bool
    verdict: str


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    steps: tuple[Step, ...]
    would_allow: tuple[str, ...]  # built-in roles that would, narrowest first; of a refusal only


def explain(index: AccessIndex, oid: str, action: str, scope: str, data: bool = False) -> Explanation:
    """The decision with every step that led to it, the deciding one first."""
    decision = index.decide(oid, action, scope, data)
    steps = [
        Step(one, _names(index, one), *_verdict(one, action, fold(scope), data))
        for held in index.held(oid).values()
        for one in held
    ]
    decider = decision.assignment.id if decision.assignment else ""
    steps.sort(key=lambda step: (step.held.assignment.id != decider, not step.allows))
    wider = () if decision.allowed else _roles_that_would(index, action, data)
    return Explanation(decision, tuple(steps), wider)


def _names(index: AccessIndex, held: Held) -> tuple[str, ...]:
    known = (index.principal(oid) for oid in held.via)
    return tuple(who.name for who in known if who is not None)


def _verdict(held: Held, action: str, scope: str, data: bool) -> tuple[bool, str]:
    if not covers(fold(held.assignment.scope), scope):
        return False, "is for another scope"
    kept_out = ""
    for permission in held.role.permissions:
        yes, no = _patterns(permission, data)
        named = next((p for p in yes if matches(p, action)), None)
        if named is None:
            continue
        excepted = next((p for p in no if matches(p, action)), None)
        if excepted is None:
            return True, f"allows it by {named!r}"
        kept_out = f"excepts it by {excepted!r}"
    return False, kept_out or f"names no such {'data action' if data else 'action'}"


def _patterns(permission: Permission, data: bool) -> tuple[Sequence[str], Sequence[str]]:
    if data:
        return permission.data_actions, permission.not_data_actions
    return permission.actions, permission.not_actions


def _roles_that_would(index: AccessIndex, action: str, data: bool) -> tuple[str, ...]:
    found = [role for role in index.roles() if any(permits(p, action, data) for p in role.permissions)]
    return tuple(role.name for role in sorted(found, key=_breadth))


def _breadth(role: RoleDefinition) -> int:
    """Roughly how much a role allows: a short pattern with a star allows more than a long one."""
    patterns = [p for permission in role.permissions for p in (*permission.actions, *permission.data_actions)]
    return sum(1000 // max(len(p.replace("*", "")), 1) for p in patterns if "*" in p) + len(patterns)
