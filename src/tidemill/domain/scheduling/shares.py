"""Fair share between teams and between the users of a team: weighted dominant share with exponential decay.

A share is what the team (the user) holds now plus its decayed mean of what it held (half-life), divided by
its weight.
Rates are integers (parts per billion of the host), so that releasing takes back exactly what assigning added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Generic, TypeVar

from tidemill.domain.model import Vector
from tidemill.domain.quota import Quotas
from tidemill.domain.scheduling.types import Host, Party, Usage

Pair = tuple[float, float]

BILLION = 1_000_000_000
DAY = 86_400_000_000
NONE = Usage()


def dominant_rate(host: Host, node: Vector, node_count: int) -> int:
    """The largest part of the host that `node_count` nodes are, in parts per billion. At least one."""
    parts = [
        node_count * asked * BILLION // had
        for asked, had in (
            (node.cpu_milli, host.total.cpu_milli),
            (node.memory, host.total.memory),
            (node.gpus, host.gpus),
        )
        if had > 0
    ]
    return max([1, *parts])


def decayed(usage: Usage, now: int, half_life_us: int) -> float:
    """The mean at `now`: what was fades, what has been held since `usage.at` comes in."""
    fade = math.exp2(-max(0, now - usage.at) / half_life_us)
    return usage.value * fade + usage.rate * (1.0 - fade)


def share(usage: Usage, weight: float, now: int, half_life_us: int, extra: int = 0) -> float:
    """What the queue is ordered by (smaller first). `extra`: rate of jobs planned in this decision."""
    return (decayed(usage, now, half_life_us) + usage.rate + extra) / weight


def crossing(
    one: Usage, one_weight: float, other: Usage, other_weight: float, now: int, half_life_us: int
) -> int | None:
    """When the two shares are next equal if nothing changes; None: never."""
    # share(t) = (excess * fade(t) + 2 * rate) / weight, with excess = mean(now) - rate
    one_excess = (decayed(one, now, half_life_us) - one.rate) / one_weight
    other_excess = (decayed(other, now, half_life_us) - other.rate) / other_weight
    difference = one_excess - other_excess
    if difference == 0.0:
        return None
    fade = 2.0 * (other.rate / other_weight - one.rate / one_weight) / difference
    if not 0.0 < fade < 1.0:
        return None
    return now + math.ceil(-math.log2(fade) * half_life_us) + 1


Who = TypeVar("Who", str, Party)


class FairShare(Generic[Who]):
    """Usages of all teams, or of all parties; changes only when one takes or gives back nodes, never by being
    asked."""

    __slots__ = ("_means", "half_life_us", "usages", "weights")

    def __init__(self, half_life_us: int = DAY, weights: Mapping[str, float] | None = None) -> None:
        self.half_life_us = half_life_us
        self.weights: Mapping[str, float] = weights or {}
        self.usages: dict[Who, Usage] = {}
        self._means: dict[Who, tuple[int, float]] = {}  # (when, decayed mean then): asked many times

    def weight(self, who: Who) -> float:
        """A team's, or a user's in every team. Without one of its own: 1."""
        return self.weights.get(who if isinstance(who, str) else who[1], 1.0)

    def restore(self, who: Who, value: float, at: int) -> None:
        self.usages[who] = Usage(value, at, self.usages.get(who, NONE).rate)
        self._means.pop(who, None)

    def change(self, who: Who, rate: int, at: int) -> None:
        """Adds `rate` (negative: gives back) from `at` on."""
        usage = self.usages.get(who)
        self._means.pop(who, None)
        if usage is None:
            self.usages[who] = Usage(0.0, at, rate)
            return
        at = max(at, usage.at)
        self.usages[who] = Usage(decayed(usage, at, self.half_life_us), at, usage.rate + rate)

    def share(self, who: Who, now: int, extra: int = 0) -> float:
        usage = self.usages.get(who)
        if usage is None:
            return extra / self.weight(who)
        known = self._means.get(who)
        if known is None or known[0] != now:
            known = self._means[who] = (now, decayed(usage, now, self.half_life_us))
        return (known[1] + usage.rate + extra) / self.weight(who)

    def crossing(self, one: Who, other: Who, now: int) -> int | None:
        return crossing(
            self.usages.get(one, NONE),
            self.weight(one),
            self.usages.get(other, NONE),
            self.weight(other),
            now,
            self.half_life_us,
        )


class Shares:
    """What the queue is ordered by: first the team's share, then the user's inside the team."""

    __slots__ = ("teams", "users")

    def __init__(self, half_life_us: int, quotas: Quotas) -> None:
        self.teams: FairShare[str] = FairShare(half_life_us, quotas.team_weights)
        self.users: FairShare[Party] = FairShare(half_life_us, quotas.user_weights)

    def set_weights(self, quotas: Quotas) -> None:
        self.teams.weights, self.users.weights = quotas.team_weights, quotas.user_weights

    def change(self, party: Party, rate: int, at: int) -> None:
        self.teams.change(party[0], rate, at)
        self.users.change(party, rate, at)

    def of(self, party: Party, now: int, extra: Mapping[str | Party, int] = MappingProxyType({})) -> Pair:
        """`extra`: rates of what is planned in this decision, of teams and of parties."""
        team = party[0]
        if not extra:
            return self.teams.share(team, now), self.users.share(party, now)
        return (
            self.teams.share(team, now, extra.get(team, 0)),
            self.users.share(party, now, extra.get(party, 0)),
        )

    def crossings(self, parties: Iterable[Party], now: int) -> Iterator[int]:
        """When two of the teams, or two users of one team, are next equal."""
        teams: dict[str, list[Party]] = {}
        for party in sorted(set(parties)):
            teams.setdefault(party[0], []).append(party)
        pairs = [self.teams.crossing(one, other, now) for one, other in combinations(teams, 2)]
        for users in teams.values():
            pairs += [self.users.crossing(one, other, now) for one, other in combinations(users, 2)]
        return (at for at in pairs if at is not None)
