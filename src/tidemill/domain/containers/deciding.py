"""What is next for a container group: a pure function of what was asked for and of how its runs are.

A run is all containers of a group on one node, from their start to their end. What is interrupted is decided
again from the rows, so nothing is started twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tidemill.domain.plan import JobError
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.settling import SECOND, Fail, Finish, Gone, pause_us
from tidemill.domain.units import human_duration

NODE_US = 20 * 60 * SECOND  # that a run may wait for its node
KEPT_ENDED = 2  # runs whose logs stay to be read


class Phase(StrEnum):
    STARTING = "starting"  # it waits for images, a node, its files
    RUNNING = "running"  # each of its containers was started
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Run:
    """`failure`: of one that ended, why, where its containers did not just come to their end. `placed`: it
    has a node, or waits for its images. `own`: an init container has failed for good, which another run would
    not mend."""

    uid: str
    generation: int
    phase: Phase
    created_at: int
    ended_at: int = 0
    failure: JobError | None = None
    placed: bool = True
    own: bool = False

    @property
    def live(self) -> bool:
        return self.phase is not Phase.ENDED


@dataclass(frozen=True, slots=True)
class Group:
    """`wanted`: it is to run (else it is stopped). `runs`: oldest first."""

    state: str
    wanted: bool
    generation: int
    runs: Sequence[Run]


@dataclass(frozen=True, slots=True)
class Start:
    """`why`: within a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    uid: str
    why: str


Decision = Start | Stop | Finish | Fail | Gone


@dataclass(frozen=True, slots=True)
class Decided:
    """`again_at`: when to decide again at the latest (microseconds), None: not before something changes."""

    decisions: tuple[Decision, ...] = ()
    again_at: int | None = None


def decide(group: Group, now: int) -> Decided:
    """Decisions in the order in which they are to be carried out, in one commit."""
    live = [run for run in group.runs if run.live]
    asked = group.state in (Provisioning.CREATING, Provisioning.UPDATING)
    if group.state == Provisioning.DELETING:
        return Decided(_stops(live, "the group is deleted") if live else (Gone(),))
    if not group.wanted:
        stops = _stops(live, "the group is stopped")
        if stops or live or not asked:
            return Decided(stops)
        return Decided((Finish("Stopped: it has no node, and costs nothing."),))
    old = [run for run in live if run.generation != group.generation]
    if old:
        return Decided(_stops(old, "the group starts anew"))
    if live:
        return _of_live(live[-1], asked, now)
    mine = [run for run in group.runs if run.generation == group.generation]
    if not mine:
        return Decided((Start("it is to run"),))
    return _of_ended(group, mine, asked, now)


def _of_live(run: Run, asked: bool, now: int) -> Decided:
    if run.phase is Phase.RUNNING:
        return Decided((Finish("Its containers are started."),) if asked else ())
    if run.placed or not asked:
        return Decided()
    due = run.created_at + NODE_US
    if due > now:
        return Decided(again_at=due)
    waited = human_duration(due - run.created_at)
    error = JobError(
        "OutOfCapacity",
        f"It waited {waited} for a node (see tidemill container why). Ask for less CPU and memory, or make "
        "room.",
    )
    return Decided((Fail(error), Stop(run.uid, "no node could be had")))


def _of_ended(group: Group, mine: Sequence[Run], asked: bool, now: int) -> Decided:
    """Its last run has ended. What its containers did ends it for good; what the system lost is run again."""
    last = mine[-1]
    if last.failure is None:
        return Decided((Finish("Its containers have ended."),) if asked else ())
    if asked:
        return Decided((Fail(last.failure),))
    if group.state == Provisioning.FAILED or last.own:
        return Decided()
    failed = 0
    for run in reversed(mine):
        if run.failure is None:
            break
        failed += 1
    at = last.ended_at + pause_us(failed)
    if at > now:
        return Decided(again_at=at)
    why = last.failure.message.split("\n", 1)[0].rstrip(".")
    return Decided((Start(f"its last run was lost: {why}"),))


def _stops(runs: Sequence[Run], why: str) -> tuple[Decision, ...]:
    return tuple(Stop(run.uid, why) for run in runs if run.phase is not Phase.STOPPING)


def superseded(group: Group) -> tuple[str, ...]:
    """Ended runs that nobody needs any more: all but the newest."""
    ended = [run.uid for run in group.runs if not run.live]
    return tuple(ended[:-KEPT_ENDED])
