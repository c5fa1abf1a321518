"""What is known in memory of one attempt, between the moments that are committed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tidemill.data.staging import Stopped
from tidemill.domain.model import Attempt, Resource
from tidemill.domain.outcome import AttemptEnd, RankEnd
from tidemill.domain.plan import JobPlan
from tidemill.engines.base import EngineEvent, TaskKey, TaskSpec

_SERVICE = ("task_ready", "task_unready", "task_restarting")
_BOUNDS = ("task_started", "task_exited")


@dataclass(frozen=True, slots=True)
class PlacedRank:
    rank: int
    node_index: int
    primary: bool
    log: str  # "user_logs/std_log.txt"
    task: TaskSpec | None = None  # None: it was started before, or never will be
    spared: bool = False
    after: tuple[int, ...] = ()  # ranks that must have succeeded before it is started


@dataclass(slots=True)
class LiveAttempt:
    """What is known in memory of one attempt."""

    attempt: Attempt
    row: Resource | None = None  # its job's, as it was when the attempt was made
    ranks: dict[int, PlacedRank] = field(default_factory=dict)
    ends: dict[int, RankEnd] = field(default_factory=dict)
    closed_nodes: dict[str, int] = field(default_factory=dict[str, int])  # when each was proved gone
    started_at: int | None = None
    result: AttemptEnd | None = None  # once every process is gone
    ended_full: bool = False  # the disk was full when it failed
    full_since: int | None = None  # there has been no space for its results since then
    notes: tuple[str, ...] = ()
    last_end: int = 0  # when its last process ended, or the node that it was lost with
    heard_late: int = 0  # microseconds from then until we were told
    fault: str = ""  # what failed last, where it is a fault of ours
    may_run: bool = False  # something of it was started, or may have been before a restart
    failure: AttemptEnd | None = None  # it cannot be started, and what may run of it is stopped first
    to_start: dict[int, TaskSpec] = field(default_factory=dict)  # not heard by their nodes yet
    to_stop: set[int] = field(default_factory=set)
    stop_why: str = ""  # the word that goes with a stop, once there is one
    stop_deadline: float | None = None  # of the loop's clock: then its nodes are closed
    news: list[EngineEvent] = field(default_factory=list[EngineEvent])  # of a service, not recorded yet
    port: int = 0  # of a service
    grouped: bool | None = None  # it is a run of a container group; None: not known yet
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def know(self, plan: JobPlan) -> None:
        self.grouped = plan.group is not None
        if not self.grouped:
            self.news = [event for event in self.news if event.kind not in _BOUNDS]

    def note(self, event: EngineEvent) -> None:
        """Keeps what is to be recorded of a service, and of a container also when it started and ended."""
        if event.kind in _SERVICE or (event.kind in _BOUNDS and self.grouped is not False):
            self.news.append(event)

    def rank_ended(self, event: EngineEvent, now: int) -> None:
        assert event.task is not None
        if event.task.rank not in self.ends:  # what is told again ends nothing later
            self._heard_end(event.at, now)
        placed = self.ranks.get(event.task.rank)
        self.ends[event.task.rank] = RankEnd(
            event.exit_code,
            event.signal,
            event.reason,
            event.message,
            event.at,
            event.peak_memory,
            placed.primary if placed else True,
            event.node_id,
        )

    def rank_lost(self, rank: int, now: int) -> None:
        """With its node."""
        node = self.node_of(rank)
        self._heard_end(self.closed_nodes[node], now)
        self.ends[rank] = RankEnd(reason="lost", primary=True, node=node)

    def rank_refused(self, rank: int, why: str, now: int) -> None:
        """By its node, which says that it can never start: as if it had tried."""
        key, epoch = TaskKey(self.attempt.id, rank), self.attempt.epoch
        told = EngineEvent(
            "task_exited", self.node_of(rank), key, epoch, now, reason="spawn_failed", message=why
        )
        self.note(told)
        self.rank_ended(told, now)

    def _heard_end(self, at: int, now: int) -> None:
        self.last_end = max(self.last_end, at or now)
        self.heard_late = max(now - self.last_end, 0)

    def node_of(self, rank: int) -> str:
        return self.attempt.nodes[self.ranks[rank].node_index]

    def going(self) -> None:
        """Raises Stopped once a stop is asked for: what is not staged yet is not started."""
        if self.attempt.stop_requested_at is not None:
            raise Stopped

    @property
    def settled(self) -> bool:
        return bool(self.ranks) and all(rank in self.ends for rank in self.ranks)

    @property
    def primaries_done(self) -> bool:
        """Those that decide how it ended. The containers of a group all do."""
        ended = [rank in self.ends for rank, placed in self.ranks.items() if placed.primary]
        return not self.grouped and all(ended)

    def may_start(self, rank: int) -> bool:
        """Whether those that it comes after have succeeded."""
        ends = [self.ends.get(before) for before in self.ranks[rank].after]
        return all(end is not None and end.exit_code == 0 and not end.reason for end in ends)

    @property
    def broken(self) -> bool:
        """Some rank ended badly, so its peers wait for it in vain."""
        return bool(self.failed_ranks())

    def failed_ranks(self) -> list[int]:
        """Of those that decide how the attempt ended."""
        return [
            rank
            for rank, end in self.ends.items()
            if rank in self.ranks
            and self.ranks[rank].primary
            and (end.reason or end.signal is not None or end.exit_code)
        ]
