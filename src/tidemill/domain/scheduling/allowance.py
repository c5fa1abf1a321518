"""What the quotas still allow during one decision.

The same verbs as the host's `Budget`: `take` gives, `claim` keeps what is left for a job that goes first but
does not fit yet, `expect` is what nodes being closed will give back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidemill.domain.admission import Refusal
from tidemill.domain.model import Vector
from tidemill.domain.quota import (
    COMPUTE,
    JOBS,
    TEAM,
    USER,
    WORKSPACE,
    Amounts,
    Asks,
    Equation,
    Key,
    Quotas,
    amounts,
    never_sentence,
)
from tidemill.domain.scheduling.capacity import Budget
from tidemill.domain.scheduling.types import ClusterSpec, JobRequest


def job_amounts(spec: ClusterSpec, node_count: int) -> Amounts:
    """What a job of so many nodes counts for its team and its user."""
    return (*amounts(spec.node, spec.family, node_count), (JOBS, 1))


def places(spec: ClusterSpec) -> tuple[tuple[str, str], ...]:
    """By name: a compute that is made again has the quota that it had."""
    workspace = spec.workspace.arm_id.lower()
    return (COMPUTE, f"{workspace}/computes/{spec.name.lower()}"), (WORKSPACE, workspace)


def user_asks(quotas: Quotas, spec: ClusterSpec, job: JobRequest) -> Asks:
    return quotas.limited(USER, job.user, job_amounts(spec, job.node_count))


def team_asks(quotas: Quotas, spec: ClusterSpec, job: JobRequest) -> Asks:
    return quotas.limited(TEAM, job.team, job_amounts(spec, job.node_count))


def place_asks(quotas: Quotas, spec: ClusterSpec, opens: int, jobs: int) -> Asks:
    """Of the compute and its workspace: nodes to open, and jobs that begin to hold some."""
    wanted = (*amounts(spec.node, spec.family, opens), (JOBS, jobs))
    return tuple(ask for kind, id in places(spec) for ask in quotas.limited(kind, id, wanted))


def admit_quotas(
    job: JobRequest, spec: ClusterSpec, quotas: Quotas, others: Iterable[ClusterSpec] = ()
) -> Refusal | None:
    """None: no quota forbids it for ever. `others`: the other clusters; their minimum nodes in the same
    workspace are never given back."""
    asks = user_asks(quotas, spec, job) + team_asks(quotas, spec, job)
    asks += place_asks(quotas, spec, job.node_count, 1)
    kept: dict[Key, int] = {}
    for other in others:
        minimum = min(other.min_nodes, other.max_nodes)
        if minimum and other.workspace == spec.workspace and not other.deleting:
            for key, amount in place_asks(quotas, other, minimum, 0):
                kept[key] = kept.get(key, 0) + amount
    for key, asked in asks:
        held = kept.get(key, 0) if key[0] == WORKSPACE else 0
        equation = Equation(key, quotas.limit(key) or 0, held, asked)
        if not equation.fits:
            return Refusal("QuotaExceeded", never_sentence(job.name, quotas, equation))
    return None


class Allowance:
    """`used` and `leaving` (closing nodes, part of `used`) by key, as they are before this decision."""

    __slots__ = ("_claimed", "_coming", "_taken", "_used", "quotas")

    def __init__(self, quotas: Quotas, used: Mapping[Key, int], leaving: Mapping[Key, int]) -> None:
        self.quotas = quotas
        self._used = used
        self._taken: dict[Key, int] = {}
        self._claimed: dict[Key, int] = {}
        self._coming = dict(leaving)

    def _left(self, key: Key) -> int:
        limit = self.quotas.limit(key)
        assert limit is not None
        return limit - self._used.get(key, 0) - self._taken.get(key, 0)

    def short(self, asks: Asks) -> Asks:
        """Those that do not fit."""
        return tuple(ask for ask in asks if ask[1] > self._left(ask[0]) - self._claimed.get(ask[0], 0))

    def equation(self, ask: tuple[Key, int]) -> Equation:
        key, amount = ask
        limit = self.quotas.limit(key) or 0
        used = self._used.get(key, 0) + self._taken.get(key, 0)
        return Equation(key, limit, used, amount, self._claimed.get(key, 0))

    def take(self, asks: Asks) -> None:
        for key, amount in asks:
            self._taken[key] = self._taken.get(key, 0) + amount

    def claim(self, asks: Asks) -> None:
        for key, amount in asks:
            self._claimed[key] = self._claimed.get(key, 0) + amount

    def expect(self, asks: Asks) -> None:
        for key, amount in asks:
            self._coming[key] = self._coming.get(key, 0) + amount

    def short_of(self, gives: Iterable[tuple[Key, int]]) -> bool:
        """Whether giving that back brings what is claimed nearer."""
        return any(
            amount > 0 and 0 < self._claimed.get(key, 0) > self._left(key) + self._coming.get(key, 0)
            for key, amount in gives
        )


@dataclass(slots=True)
class Supply:
    """What may still be given in one decision: by the host, and by the quotas."""

    host: Budget
    allowance: Allowance

    def fits(self, spec: ClusterSpec, opens: int, jobs: int) -> bool:
        if opens and not self.host.fits(opens, spec.node):
            return False
        quotas = self.allowance.quotas
        return not quotas or not self.allowance.short(place_asks(quotas, spec, opens, jobs))

    def take(self, spec: ClusterSpec, opens: int, job: JobRequest | None = None) -> None:
        self.host.take(opens, spec.node)
        quotas = self.allowance.quotas
        if quotas:
            self.allowance.take(place_asks(quotas, spec, opens, 0 if job is None else 1))
            if job is not None:
                self.allowance.take(user_asks(quotas, spec, job) + team_asks(quotas, spec, job))

    def claim(self, spec: ClusterSpec, opens: int) -> Equation | None:
        """Keeps things for a job that goes first and does not fit. -> the quota that holds it up; None: the
        host does.

        For one that a quota holds up the host's room is not kept: while it may not open a node, others would
        lose theirs for nothing, and would open them again at once. One that only the host has no room for
        keeps its part of the quotas, too: a later job that took that would open a node, which would be closed
        for the quota of the first before the later one could start on it, and so on without end."""
        asks = place_asks(self.allowance.quotas, spec, opens, 1)
        over = self.allowance.short(asks)
        equation = self.allowance.equation(over[0]) if over else None
        self.allowance.claim(over or asks)
        if equation is None:
            self.host.claim(opens, spec.node)
        return equation

    def expect(self, spec: ClusterSpec, granted: Vector) -> None:
        """A node of that cluster is being closed."""
        self.host.expect(granted)
        self.allowance.expect(place_asks(self.allowance.quotas, spec, 1, 0))

    def short_of(self, spec: ClusterSpec, granted: Vector) -> bool:
        """Whether closing a node of that cluster brings what is claimed nearer."""
        if self.host.short_of(granted):
            return True
        quotas = self.allowance.quotas
        return bool(quotas) and self.allowance.short_of(place_asks(quotas, spec, 1, 0))
