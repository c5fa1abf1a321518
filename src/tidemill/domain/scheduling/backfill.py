"""When the first job that must wait will start, and what may run meanwhile without delaying it (EASY)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LOOK = 64  # how many jobs behind the blocked one are looked at in one decision


@dataclass(slots=True)
class Reservation:
    """`at`: the earliest the blocked job can start: a job done by then delays nothing. `extra`: nodes it
    leaves over then, free for jobs of any length. `expected_at`: its start if the
    estimates hold; None: unknown."""

    at: int
    extra: int
    expected_at: int | None

    def admits(self, node_count: int, estimated_us: int | None, now: int) -> bool:
        if estimated_us is not None and now + estimated_us <= self.at:
            return True
        if node_count <= self.extra:
            self.extra -= node_count
            return True
        return False


def reserve(needs: int, free: int, ends: Iterable[tuple[int | None, int]], now: int) -> Reservation:
    """`ends`: (expected end, nodes) of what holds the cluster's other nodes; None, or an end that has passed,
    may happen at any moment. Unknown ends are taken as now for `at` (nothing may slip in) and as never for
    `extra` (nothing is left over)."""
    known = sorted((end, nodes) for end, nodes in ends if end is not None and end > now)
    unknown = sum(nodes for end, nodes in ends if end is None or end <= now)
    sure = unknown == 0
    reached = free + unknown
    if reached >= needs:
        return Reservation(now, 0, None)
    for index, (end, nodes) in enumerate(known):
        reached += nodes
        more_now = index + 1 < len(known) and known[index + 1][0] == end
        if reached >= needs and not more_now:
            return Reservation(end, reached - needs if sure else 0, end if sure else None)
    return Reservation(now, 0, None)
