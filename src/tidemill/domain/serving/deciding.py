"""What is next for a deployment: a pure function of what was asked for and of how its instances are.

New instances come first and serve before old ones go; an update that fails leaves the old ones as they are.
Whatever is interrupted is decided again from the rows, so nothing is started twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tidemill.domain.plan import JobError
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.settling import SECOND, Fail, Finish, Gone, pause_us
from tidemill.domain.units import human_duration, plural

KEPT_ENDED = 8  # instances whose logs stay to be read
NOTHING = "No instances are wanted: it answers nothing until it is given some."


class Phase(StrEnum):
    STARTING = "starting"  # it waits for its environment, a node, its files, or its readiness
    READY = "ready"
    UNREADY = "unready"  # it was ready, and may be again: its node starts it anew
    DRAINING = "draining"  # no new requests
    PARKED = "parked"  # it stands still, without a node, until it is woken
    STOPPING = "stopping"
    ENDED = "ended"

    @property
    def counts(self) -> bool:
        """It serves, or will."""
        return self in (Phase.STARTING, Phase.READY, Phase.UNREADY)


@dataclass(frozen=True, slots=True)
class Instance:
    """`failure`: why it cannot become ready (its start failed, its node could not be had); of one that ended
    by itself, why. `due`: when it must be ready, or, not `placed` yet, have a node. `quiet`: while it drains,
    it is known to have no request any more. `answers`: its process is ready, whether it drains or not.
    `waking`: it was parked, and waits for a node again."""

    uid: str
    generation: int
    phase: Phase
    created_at: int
    ended_at: int = 0
    failure: JobError | None = None
    draining_at: int | None = None
    quiet: bool = False
    due: int | None = None
    placed: bool = True
    answers: bool = False
    waking: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """`wanted`: instances of `generation`, which was asked for last, at `asked_at`; `serving` is the
    generation that answers now or did last (0: none ever did), with `serving_wanted` instances. `routed`:
    the gateway knows how things are. `drained_us`: how long after its drain began an instance is stopped in
    any case. `parks`: of a deployment that sleeps one instance may be parked. `wakes`: without instances it
    sleeps until a request comes, else it answers nothing."""

    state: str
    generation: int
    wanted: int
    serving: int
    serving_wanted: int
    instances: Sequence[Instance]
    asked_at: int = 0
    routed: bool = True
    drained_us: int = 30 * SECOND
    parks: bool = False
    wakes: bool = True


@dataclass(frozen=True, slots=True)
class Start:
    generation: int
    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """They get no new requests from now on."""

    uids: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    uids: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Park:
    """It stands still from now on, and its node is given back."""

    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Wake:
    """It goes on, once it has its node again."""

    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Serve:
    """The generation that was asked for takes over: from this commit on its instances get the requests."""

    message: str


Decision = Start | Drain | Stop | Park | Wake | Serve | Finish | Fail | Gone


@dataclass(frozen=True, slots=True)
class Decided:
    """`again_at`: when to decide again at the latest (microseconds), None: not before something changes."""

    decisions: tuple[Decision, ...] = ()
    again_at: int | None = None


@dataclass(slots=True)
class _Round:
    now: int
    out: list[Decision] = field(default_factory=list["Decision"])
    again: list[int] = field(default_factory=list[int])

    def done(self) -> Decided:
        return Decided(tuple(self.out), min(self.again, default=None))


def decide(deployment: Deployment, now: int) -> Decided:
    """Decisions in the order in which they are to be carried out, in one commit."""
    round_ = _Round(now)
    if deployment.state == Provisioning.DELETING:
        _drain(round_, [i for i in deployment.instances if i.phase.counts], "the deployment is deleted")
        _parked(round_, deployment, None, "the deployment is deleted")
        _stop_drained(round_, deployment)
        if all(i.phase is Phase.ENDED for i in deployment.instances):
            round_.out.append(Gone())
        return round_.done()
    asked = deployment.state in (Provisioning.CREATING, Provisioning.UPDATING)
    if asked and (error := _failure(round_, deployment)) is not None:
        round_.out.append(Fail(error))
        asked = False
    dropped: tuple[str, ...] = ()
    generation, wanted = deployment.generation, deployment.wanted
    if not asked and deployment.serving != generation:  # what was asked for has failed
        dropped = _drop(round_, deployment, generation)
        generation, wanted = deployment.serving, deployment.serving_wanted
    own = _of(deployment, generation)
    useful = deployment.parks and (not wanted or len(own) < wanted)
    parked = _parked(round_, deployment, generation if useful else None, "it is not needed any more")
    _start(round_, deployment, generation, wanted, len(own), parked)
    switched = not asked or deployment.serving == generation
    if sum(i.phase is Phase.READY for i in own) >= wanted:
        if not switched:
            round_.out.append(Serve(_served(own, now, deployment.wakes)))
            switched = True
        elif asked and deployment.routed:
            round_.out.append(Finish(_finished(wanted, deployment.wakes)))
    kept = {generation} if switched else {generation, deployment.serving}
    others = [i for i in deployment.instances if i.generation not in kept and i.phase.counts]
    _drain(round_, [i for i in others if i.uid not in dropped], "newer instances take its place")
    if not switched and deployment.serving:
        there = len(_of(deployment, deployment.serving))
        _start(round_, deployment, deployment.serving, deployment.serving_wanted, there)
    _drain(round_, _surplus(own, wanted), f"{plural(wanted, 'instance')} wanted")
    if deployment.parks and not asked and not wanted and parked is None:
        dropped += _park(round_, deployment, generation)
    _stop_drained(round_, deployment, dropped)
    return round_.done()


def _of(deployment: Deployment, generation: int) -> list[Instance]:
    return [i for i in deployment.instances if i.generation == generation and i.phase.counts]


def _failure(round_: _Round, deployment: Deployment) -> JobError | None:
    """Why what was asked for cannot be had, if an instance of it says so."""
    for one in deployment.instances:
        if one.generation != deployment.generation:
            continue
        before = one.phase is Phase.ENDED and one.ended_at < deployment.asked_at
        if one.failure is not None and not before:
            return one.failure
        if one.phase is Phase.STARTING and one.due is not None:
            if one.due <= round_.now and not one.placed:
                return JobError(
                    "OutOfCapacity",
                    f"An instance waited {human_duration(one.due - one.created_at)} for a node (see "
                    "tidemill endpoint why). Ask for a smaller instance_type, for fewer, or make room.",
                )
            if one.due <= round_.now:
                return JobError(
                    "ResourceNotReady",
                    f"An instance was not ready within {human_duration(one.due - one.created_at)}: its "
                    "readiness probe does not pass. See its log; a slow init() needs a longer initial_delay, "
                    "or a higher failure_threshold, of the readiness probe.",
                )
            round_.again.append(one.due)
    return None


def _drop(round_: _Round, deployment: Deployment, generation: int) -> tuple[str, ...]:
    """Of a generation that is given up: nothing of it ever had a request."""
    uids = tuple(i.uid for i in deployment.instances if i.generation == generation and i.phase in _DROPPED)
    if uids:
        round_.out.append(Stop(uids, "the update failed"))
    return uids


_DROPPED = (Phase.STARTING, Phase.UNREADY, Phase.READY, Phase.DRAINING)


def _start(
    round_: _Round,
    deployment: Deployment,
    generation: int,
    wanted: int,
    there: int,
    parked: Instance | None = None,
) -> None:
    """Those that are missing; after some that failed in a row not at once. The one that is parked goes first:
    others come once it has its own node again, which they might be given else."""
    if there >= wanted or not generation or any(i.waking for i in deployment.instances):
        return
    if parked is not None:
        round_.out.append(Wake(parked.uid, f"{plural(wanted, 'instance')} wanted, {there} there"))
        return
    failed = [
        i
        for i in deployment.instances
        if i.generation == generation and i.phase is Phase.ENDED and i.failure is not None
    ]
    if failed and deployment.state in (Provisioning.SUCCEEDED, Provisioning.FAILED):
        at = max(i.ended_at for i in failed) + pause_us(len(failed))
        if at > round_.now:
            round_.again.append(at)
            return
    missing = wanted - there
    why = f"{plural(wanted, 'instance')} wanted, {there} there"
    round_.out.append(Start(generation, missing, why))


def _surplus(own: Sequence[Instance], wanted: int) -> list[Instance]:
    """The first to go are those that do not answer, then the youngest."""
    ranked = sorted(own, key=lambda i: (i.phase is Phase.READY, -i.created_at, i.uid))
    return ranked[: max(0, len(own) - wanted)]


def _drain(round_: _Round, instances: Sequence[Instance], why: str) -> None:
    """What never answered is stopped at once: it has no requests."""
    if answering := tuple(i.uid for i in instances if i.phase is not Phase.STARTING):
        round_.out.append(Drain(answering, why))
    if silent := tuple(i.uid for i in instances if i.phase is Phase.STARTING):
        round_.out.append(Stop(silent, why))


def _parked(round_: _Round, deployment: Deployment, generation: int | None, why: str) -> Instance | None:
    """The one of that generation that stays parked; all others are stopped."""
    found = [i for i in deployment.instances if i.phase is Phase.PARKED]
    kept = next((i for i in found if i.generation == generation), None)
    if gone := tuple(i.uid for i in found if i is not kept):
        round_.out.append(Stop(gone, why))
    return kept


def _park(round_: _Round, deployment: Deployment, generation: int) -> tuple[str, ...]:
    """Of those that have no requests any more the youngest, in place of its stop."""
    ready = [
        i
        for i in deployment.instances
        if i.generation == generation and i.phase is Phase.DRAINING and i.quiet and i.answers
    ]
    if not ready:
        return ()
    uid = max(ready, key=lambda i: (i.created_at, i.uid)).uid
    round_.out.append(Park(uid, "it waits for the next request"))
    return (uid,)


def _stop_drained(round_: _Round, deployment: Deployment, dropped: Sequence[str] = ()) -> None:
    done: list[str] = []
    for one in deployment.instances:
        if one.phase is not Phase.DRAINING or one.draining_at is None or one.uid in dropped:
            continue
        late = one.draining_at + deployment.drained_us
        if one.quiet or late <= round_.now:
            done.append(one.uid)
        else:
            round_.again.append(late)
    if done:
        round_.out.append(Stop(tuple(done), "it has no more requests"))


def _served(own: Sequence[Instance], now: int, wakes: bool) -> str:
    if not own:
        return "No instances are wanted: it sleeps." if wakes else NOTHING
    waited = human_duration(max(0, now - min(i.created_at for i in own)))
    return f"{plural(len(own), 'instance')} ready after {waited}."


def _finished(wanted: int, wakes: bool) -> str:
    if wanted:
        return f"{plural(wanted, 'instance')} in service."
    return "Asleep until a request comes." if wakes else NOTHING


def superseded(deployment: Deployment) -> tuple[str, ...]:
    """Ended instances that nobody needs any more: all but the newest few."""
    ended = sorted(
        (i for i in deployment.instances if i.phase is Phase.ENDED), key=lambda i: (i.ended_at, i.uid)
    )
    return tuple(i.uid for i in ended[:-KEPT_ENDED])
