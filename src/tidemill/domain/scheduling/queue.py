"""The queue of one cluster: by priority, then the team's share, then the user's share in it, then age.

Jobs lie in sorted lists per (priority, party), a party being a user of a team: which is next is looked up
among parties, never among jobs, so a change of shares reorders nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from tidemill.domain.quota import ANY
from tidemill.domain.scheduling.types import JobRequest, Party

Share = Callable[[Party], tuple[float, float]]  # of the team, of the user in it
Key = tuple[int, tuple[float, float], int, str]  # -priority, shares, submitted_at, uid: smallest first


class _Line:
    """Jobs of one party at one priority, oldest first; the front is left behind and cut off now and then."""

    __slots__ = ("entries", "start")

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = []
        self.start = 0

    def __len__(self) -> int:
        return len(self.entries) - self.start

    def add(self, entry: tuple[int, str]) -> None:
        insort(self.entries, entry, lo=self.start)

    def remove(self, entry: tuple[int, str]) -> None:
        if self.entries[self.start] == entry:
            self.start += 1
            if self.start > 64 and self.start * 2 > len(self.entries):
                del self.entries[: self.start]
                self.start = 0
        else:
            del self.entries[bisect_left(self.entries, entry, lo=self.start)]

    def before(self, entry: tuple[int, str]) -> int:
        return bisect_left(self.entries, entry, lo=self.start) - self.start


class JobQueue:
    """Add and remove cost O(log n) (plus a memory move in the middle); the first is found among parties."""

    __slots__ = ("_levels", "_order", "gangs", "jobs")

    def __init__(self) -> None:
        self.jobs: dict[str, JobRequest] = {}
        self.gangs = 0  # jobs of more than one node
        self._levels: dict[int, dict[Party, _Line]] = {}
        self._order: list[int] = []  # negated priorities, ascending

    def __len__(self) -> int:
        return len(self.jobs)

    def add(self, job: JobRequest) -> None:
        level = self._levels.get(-job.priority)
        if level is None:
            level = self._levels[-job.priority] = {}
            insort(self._order, -job.priority)
        line = level.get(job.party)
        if line is None:
            line = level[job.party] = _Line()
        line.add((job.submitted_at, job.uid))
        self.jobs[job.uid] = job
        self.gangs += job.node_count > 1

    def remove(self, uid: str) -> JobRequest | None:
        job = self.jobs.pop(uid, None)
        if job is None:
            return None
        level = self._levels[-job.priority]
        line = level[job.party]
        line.remove((job.submitted_at, uid))
        self.gangs -= job.node_count > 1
        if not line:
            del level[job.party]
            if not level:
                del self._levels[-job.priority]
                self._order.remove(-job.priority)
        return job

    def first(self, share: Share) -> JobRequest | None:
        """The next job; None if nothing waits."""
        if not self._order:
            return None
        level = self._levels[self._order[0]]
        best = min((share(party), *line.entries[line.start]) for party, line in level.items())
        return self.jobs[best[2]]

    def ahead(self, job: JobRequest, share: Share) -> int:
        """How many jobs come before this one as shares are now."""
        count = 0
        for priority in self._order:
            level = self._levels[priority]
            if priority < -job.priority:
                count += sum(len(line) for line in level.values())
            elif priority == -job.priority:
                mine, entry = share(job.party), (job.submitted_at, job.uid)
                for party, line in level.items():
                    theirs = share(party)
                    if party == job.party or theirs == mine:
                        count += line.before(entry)
                    elif theirs < mine:
                        count += len(line)
        return count

    def parties(self) -> set[Party]:
        return {party for level in self._levels.values() for party in level}

    def levels(self) -> Iterator[tuple[int, dict[Party, _Line]]]:
        for priority in self._order:
            yield priority, self._levels[priority]


class Walk:
    """Goes through a queue in order without changing it; shares may change between steps."""

    __slots__ = ("_at", "_left", "_levels", "_lines", "_party", "_priority")

    def __init__(self, queue: JobQueue) -> None:
        self._levels = queue.levels()
        self._lines: dict[Party, _Line] = {}
        self._at: dict[Party, int] = {}
        self._left: set[Party] = set()
        self._priority = 0
        self._party: Party = ("", "")
        self._next_level()

    def _next_level(self) -> bool:
        level = next(self._levels, None)
        if level is None:
            return False
        self._priority, self._lines = level
        self._at = {party: line.start for party, line in self._lines.items() if not self._leaves(party)}
        return True

    def _leaves(self, party: Party) -> bool:
        return bool(self._left) and (party in self._left or (party[0], ANY) in self._left)

    def peek(self, share: Share) -> Key | None:
        """The key of the next job; None at the end."""
        while not self._at:
            if not self._next_level():
                return None
        best: Key | None = None
        for party, at in self._at.items():
            submitted_at, uid = self._lines[party].entries[at]
            key = (self._priority, share(party), submitted_at, uid)
            if best is None or key < best:
                best, self._party = key, party
        return best

    def advance(self) -> None:
        """Steps over the job that `peek` gave."""
        at = self._at[self._party] + 1
        if at < len(self._lines[self._party].entries):
            self._at[self._party] = at
        else:
            del self._at[self._party]

    def leave(self, party: Party) -> None:
        """Steps over all the rest of a party; with ANY for the user, of a team."""
        self._left.add(party)
        self._at = {other: at for other, at in self._at.items() if not self._leaves(other)}
