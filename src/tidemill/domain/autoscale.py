"""How many nodes a cluster has: pure arithmetic, one rule for opening and closing so that nothing flaps.

A cluster keeps `wanted` nodes: what runs, what queued work can use now, at least the minimum. Nodes open when
it has fewer; an idle node closes when it has more and has been idle long enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fleet:
    """Counts of one cluster's nodes. `coming`: opening, and decided but not yet made."""

    minimum: int
    maximum: int
    busy: int
    idle: int
    coming: int
    closing: int
    lost: int

    @property
    def usable(self) -> int:
        return self.busy + self.idle + self.coming

    @property
    def live(self) -> int:
        """Everything that holds room: closing and lost nodes do until they are proved gone."""
        return self.usable + self.closing + self.lost

    @property
    def slots(self) -> int:
        """How many nodes could take new work, counting those that could still be opened."""
        return max(0, self.maximum - self.busy - self.closing - self.lost)


def wanted(fleet: Fleet, planned: int) -> int:
    """Nodes to have when queued jobs can use `planned` nodes beside the busy ones."""
    return max(min(fleet.minimum, fleet.maximum), fleet.busy + planned)


def to_fill(fleet: Fleet) -> int:
    """Nodes missing to the minimum, within the maximum."""
    return max(0, min(min(fleet.minimum, fleet.maximum) - fleet.usable, fleet.maximum - fleet.live))


@dataclass(frozen=True, slots=True)
class Shrink:
    """`over`: this many idle nodes (the longest idle) close at once, the maximum was lowered; then `due`
    more, idle long enough; `next_at`: when the next one is due."""

    over: int
    due: int
    next_at: int | None


def shrink(fleet: Fleet, planned: int, idle_since: Sequence[int], idle_us: int, now: int) -> Shrink:
    """Which idle nodes close. `idle_since` is ascending, one entry per idle node."""
    surplus = min(len(idle_since), fleet.usable - wanted(fleet, planned))
    if surplus <= 0:
        return Shrink(0, 0, None)
    over = max(0, min(surplus, fleet.usable - fleet.maximum))
    closed = over
    while closed < surplus and idle_since[closed] + idle_us <= now:
        closed += 1
    return Shrink(over, closed - over, idle_since[closed] + idle_us if closed < surplus else None)
