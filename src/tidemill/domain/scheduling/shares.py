"""Fair share between teams: weighted dominant share with exponential decay.

A team's share is what it holds now plus its decayed mean of what it held (half-life), divided by its weight.
Rates are integers (parts per billion of the host), so that releasing takes back exactly what assigning added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tidemill.domain.model import Vector
from tidemill.domain.scheduling.types import Host, Usage

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


class FairShare:
    """Usages of all teams; changes only when a team takes or gives back nodes, never by being asked."""

    __slots__ = ("_means", "half_life_us", "usages", "weights")

    def __init__(self, half_life_us: int = DAY, weights: Mapping[str, float] | None = None) -> None:
        self.half_life_us = half_life_us
        self.weights: dict[str, float] = dict(weights or {})
        self.usages: dict[str, Usage] = {}
        self._means: dict[str, tuple[int, float]] = {}  # team -> (when, decayed mean then): asked many times

    def weight(self, team: str) -> float:
        return self.weights.get(team, 1.0)

    def restore(self, team: str, value: float, at: int) -> None:
        self.usages[team] = Usage(value, at, self.usages.get(team, NONE).rate)
        self._means.pop(team, None)

    def change(self, team: str, rate: int, at: int) -> None:
        """Adds `rate` (negative: gives back) from `at` on."""
        usage = self.usages.get(team)
        self._means.pop(team, None)
        if usage is None:
            self.usages[team] = Usage(0.0, at, rate)
            return
        at = max(at, usage.at)
        self.usages[team] = Usage(decayed(usage, at, self.half_life_us), at, usage.rate + rate)

    def share(self, team: str, now: int, extra: int = 0) -> float:
        usage = self.usages.get(team)
        if usage is None:
            return extra / self.weights.get(team, 1.0)
        known = self._means.get(team)
        if known is None or known[0] != now:
            known = self._means[team] = (now, decayed(usage, now, self.half_life_us))
        return (known[1] + usage.rate + extra) / self.weights.get(team, 1.0)

    def crossing(self, one: str, other: str, now: int) -> int | None:
        return crossing(
            self.usages.get(one, NONE),
            self.weight(one),
            self.usages.get(other, NONE),
            self.weight(other),
            now,
            self.half_life_us,
        )
