"""Clusters for one purpose that wait for room: there can be as many as there are jobs, and each has but one.

Those whose turn cannot come are not looked at with every decision. The order is by priority, then between
teams and users by what they hold, then by age; what a party holds is the same for all of its jobs. So the
first few of each party are enough: whoever goes first is among them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from tidemill.domain.scheduling.types import ClusterSpec, JobRequest, Party

MOST = 8  # of each party, at one look

_Group = tuple[str, str, Party]  # workspace, what it is called, whose


class Dozing:
    def __init__(self) -> None:
        self._waiting: dict[_Group, list[tuple[int, int, str]]] = {}

    def add(self, spec: ClusterSpec, job: JobRequest) -> None:
        group = (spec.workspace.arm_id, spec.name, job.party)
        insort(self._waiting.setdefault(group, []), (-job.priority, job.submitted_at, spec.uid))

    def first(self, waits: Callable[[str], bool]) -> list[str]:
        """Takes out whoever may come next. `waits`: whether a cluster still has a job that waits."""
        found: list[str] = []
        for group, clusters in list(self._waiting.items()):
            taken = 0
            while clusters and taken < MOST:
                uid = clusters.pop(0)[2]
                if waits(uid):
                    found.append(uid)
                    taken += 1
            if not clusters:
                del self._waiting[group]
        return found
