"""Quotas and weights as rows (`quota_rows`), one for each team, user, workspace and compute that has any. The
pool controller gives them to the scheduler with every commit. Those of workspaces and computes outlive them:
making one anew must not be a way around its quota.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tidemill.app.computes.compute_rules import RESERVED, SERVERLESS
from tidemill.app.errors import absent, instead
from tidemill.app.people import principals
from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.rows.quota_rows import TYPE, key_of
from tidemill.app.services import Caller, Services
from tidemill.app.workspaces.workspaces import scope_of
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Event, Key, Resource, Scope, Vector
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.quota import (
    ANY,
    COMPUTE,
    KINDS,
    MEASURES,
    NODES,
    TEAM,
    USER,
    WORKSPACE,
    Quotas,
    measured,
    unit,
)
from tidemill.store.api import Read, ResourceQuery, Tx

NO_LIMIT = -1  # as in Azure's updateQuotas
MOST = 10**9
MOST_WEIGHT = 1000.0
LEAST_SERVERLESS = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `id`: a principal's, a workspace's ARM id or a compute's, in lower case; ANY: of each of the
    kind that has no limit of its own."""

    kind: str
    id: str
    name: str
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    weight: float | None = None
    default_team: str = ""  # of a user in several teams

    @property
    def empty(self) -> bool:
        return not (self.limits or self.weight or self.default_team)


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked: `limits` are merged, NO_LIMIT takes one away. `weight` 0 and `default_team` "" do."""

    kind: str
    who: str
    workspace: Scope | None = None
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weight: float | None = None
    default_team: str | None = None


def rules(read: Read) -> list[Rule]:
    return [_rule(row) for row in read.find(ResourceQuery(TYPE, ascending=True))]


def rule_of(read: Read, subscription: str, kind: str, id: str) -> Rule | None:
    row = read.get(key_of(subscription, kind, id))
    return _rule(row) if row else None


async def serverless_nodes(s: Services) -> int:
    """`nodes_of_host` of this one."""
    capacity = await s.engine.capacity()
    return nodes_of_host(capacity.total, s.settings.capacity == "strict")


def nodes_of_host(total: Vector, strict: bool) -> int:
    """How many nodes jobs without a compute may hold together in a workspace, where no quota of the compute
    "serverless" says it: nodes of an elastic host share it, and very many would be of use to nobody. 0: as
    many as there is room for."""
    return 0 if strict else max(LEAST_SERVERLESS, math.ceil(total.cpu_milli / 1000))


def load(read: Read, serverless: int = 0) -> Quotas:
    """What the scheduler decides by. `serverless`: nodes of jobs without a compute in each workspace where no
    row says it, 0 for no such limit."""
    found = rules(read)
    names = {(rule.kind, rule.id): rule.name for rule in found}
    for principal in read.principals():
        kind = TEAM if principal.kind is PrincipalKind.GROUP else USER
        names[kind, principal.oid] = names[TEAM, principal.oid] = principal.name
    limits = {(rule.kind, rule.id, measure): n for rule in found for measure, n in rule.limits.items()}
    if serverless and (COMPUTE, ANY, NODES) not in limits:
        for workspace in read.find(ResourceQuery("workspaces")):
            id = compute_id(scope_of(workspace), SERVERLESS)
            limits.setdefault((COMPUTE, id, NODES), serverless)
            names[COMPUTE, id] = SERVERLESS
    return Quotas(
        limits,
        {rule.id: rule.weight for rule in found if rule.kind == TEAM and rule.weight},
        {rule.id: rule.weight for rule in found if rule.kind == USER and rule.weight},
        names,
    )


async def change(s: Services, caller: Caller, wanted: Change) -> Rule:
    """The row as it is then. Raises InvalidRequest naming the field, NotFound naming who there is."""
    limits = {measure: _limit(s, measure, value) for measure, value in wanted.limits.items()}
    weight = None if wanted.weight is None else _weight(wanted.kind, wanted.weight)
    now, uid = s.clock.now(), s.ids.uid()

    def write(tx: Tx) -> Rule:
        id, name = _subject(tx, s.settings.subscription, wanted)
        key = key_of(s.settings.subscription, wanted.kind, id)
        row = tx.get(key)
        old = _rule(row) if row else Rule(wanted.kind, id, name)
        merged = {**old.limits, **limits}
        new = replace(
            old,
            name=name,
            limits={measure: n for measure, n in merged.items() if n != NO_LIMIT},
            weight=old.weight if weight is None else weight or None,
            default_team=_default_team(tx, wanted, old),
        )
        if row is not None and new.empty:
            tx.delete(row)
        elif row is None:
            if new.empty:
                return new
            spec = encode(new)
            row = tx.insert(
                Resource(uid, key, spec=spec, created_at=now, modified_at=now, created_by=caller.name)
            )
        elif new != old:
            tx.update(replace(row, spec=encode(new), modified_at=now))
        if new != old:
            words = f"Quota of {new.kind} {new.name!r} set by {caller.name}: {describe(new)}."
            tx.add_event(Event(row.uid, "quota", now, "QuotaSet", words, caller.name))
        return new

    return await s.store.write(write)


def describe(rule: Rule) -> str:
    parts = [measured(measure, n * unit(measure)) for measure, n in rule.limits.items()]
    parts += [f"weight {rule.weight:g}"] if rule.weight else []
    return ", ".join(parts) or "no limit"


def compute_id(scope: Scope, name: str) -> str:
    return f"{scope.arm_id.lower()}/computes/{name.lower()}"


def _rule(row: Resource) -> Rule:
    spec = decode_object(row.spec)
    return Rule(spec["kind"], spec["id"], spec["name"], spec["limits"], spec["weight"], spec["default_team"])


def _subject(read: Read, subscription: str, wanted: Change) -> tuple[str, str]:
    """-> (id, name)."""
    kind, who = wanted.kind, wanted.who
    if kind not in KINDS:
        raise InvalidRequest(f"kind {kind!r} is none. Use one of {', '.join(KINDS)}.", target="kind")
    if who == ANY:
        return ANY, ANY
    if kind == TEAM:
        group = principals.require_group(read, who)
        return group.oid, group.name
    if kind == USER:
        user = principals.require(read, who)
        if user.kind is PrincipalKind.GROUP:
            raise InvalidRequest(
                f"{user.name!r} is a group: set the quota of the team {user.name!r}.", target="name"
            )
        return user.oid, user.name
    scope = wanted.workspace
    if scope is None:
        raise InvalidRequest(f"Of a {kind}, 'workspace' must be given (its ARM id).", target="workspace")
    group = Scope(subscription, scope.group)
    id = scope.arm_id.lower() if kind == WORKSPACE else compute_id(scope, who)
    kept = rule_of(read, subscription, kind, id)
    if kept is not None:
        return id, kept.name
    found = read.get(Key(group, "workspaces", scope.workspace))
    if found is None:
        names = [row.key.name for row in read.find(ResourceQuery("workspaces", group))]
        raise absent("Workspace", scope.workspace, names, f"resource group {scope.group!r}")
    if kind == WORKSPACE:
        return id, found.key.name
    computes = [row.key.name for row in read.find(ResourceQuery("computes", scope))]
    named = {name.casefold(): name for name in (*computes, *RESERVED)}
    if who.casefold() not in named:
        raise absent("Compute", who, named.values(), f"workspace {scope.workspace!r}")
    return id, named[who.casefold()]


def _default_team(read: Read, wanted: Change, old: Rule) -> str:
    if wanted.default_team is None:
        return old.default_team
    if wanted.kind != USER:
        raise InvalidRequest("Only a user has a default team.", target="default_team")
    return principals.require_group(read, wanted.default_team).oid if wanted.default_team else ""


def _limit(s: Services, measure: str, value: Any) -> int:
    families = {size.family for size in s.sizes.list() if size.family}
    if measure not in MEASURES and measure not in families:
        raise InvalidRequest(
            f"{measure!r} is no measure of a quota. Use {', '.join(MEASURES)}, or a VM family. "
            f"{instead(measure, families)}",
            target=f"limits.{measure}",
        )
    if isinstance(value, bool) or not isinstance(value, int) or not NO_LIMIT <= value <= MOST:
        raise InvalidRequest(
            f"limits.{measure} is {value!r}: it must be a whole number from 0 to {MOST}, or -1 for none.",
            target=f"limits.{measure}",
        )
    return value


def _weight(kind: str, value: Any) -> float:
    if kind not in (TEAM, USER):
        raise InvalidRequest(f"A {kind} has no weight: shares are between teams and users.", target="weight")
    number = cast(float, value) if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    if not (number == 0 or 0.001 <= number <= MOST_WEIGHT):
        raise InvalidRequest(
            f"weight is {value!r}: it must be a number from 0.001 to {MOST_WEIGHT:g}, or 0 for the usual 1.",
            target="weight",
        )
    return float(number)
