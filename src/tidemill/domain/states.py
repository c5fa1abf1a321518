"""States of jobs, attempts and nodes as ordered small rules.

A proposed state passes the rules of its kind in order; the first that has an opinion decides: accept, reject
with the reason, or delay until something is known. What no rule stops is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tidemill.domain.model import AttemptState, JobState, NodeState, Outcome
from tidemill.domain.units import SECOND, human_duration, join_words, plural

State = JobState | AttemptState | NodeState


@dataclass(frozen=True, slots=True)
class Accept:
    """`changes` is False when it is in that state already: nothing is written, no event."""

    changes: bool = True


@dataclass(frozen=True, slots=True)
class Reject:
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delay:
    """Not yet: ask again when what `reason` names has happened."""

    code: str
    reason: str


Verdict = Accept | Reject | Delay


@dataclass(frozen=True, slots=True)
class Context:
    """What rules look at beside the states."""

    name: str = ""
    processes_gone: bool = True  # proved, not assumed
    holder: str = ""  # node: name of the job that holds it
    taker: str = ""  # node: name of the job that wants it


Rule = Callable[[State, State, Context], Verdict | None]

_J, _A, _N = JobState, AttemptState, NodeState

JOB_MOVES: Mapping[State, frozenset[State]] = {
    _J.QUEUED: frozenset(
        {_J.PREPARING, _J.PROVISIONING, _J.STARTING, _J.CANCEL_REQUESTED, _J.FAILED, _J.CANCELED}
    ),
    _J.PREPARING: frozenset({_J.QUEUED, _J.PROVISIONING, _J.CANCEL_REQUESTED, _J.FAILED, _J.CANCELED}),
    _J.PROVISIONING: frozenset({_J.QUEUED, _J.STARTING, _J.CANCEL_REQUESTED, _J.FAILED, _J.CANCELED}),
    _J.STARTING: frozenset(
        {_J.QUEUED, _J.RUNNING, _J.FINALIZING, _J.CANCEL_REQUESTED, _J.COMPLETED, _J.FAILED, _J.CANCELED}
    ),
    _J.RUNNING: frozenset(
        {_J.QUEUED, _J.FINALIZING, _J.CANCEL_REQUESTED, _J.COMPLETED, _J.FAILED, _J.CANCELED}
    ),
    _J.FINALIZING: frozenset({_J.QUEUED, _J.CANCEL_REQUESTED, _J.COMPLETED, _J.FAILED, _J.CANCELED}),
    _J.CANCEL_REQUESTED: frozenset({_J.CANCELED}),
}
ATTEMPT_MOVES: Mapping[State, frozenset[State]] = {
    # What needs no files is started without a word about staging.
    _A.ASSIGNED: frozenset({_A.STAGING, _A.STARTING, _A.RUNNING, _A.STOPPING, _A.COLLECTING, _A.ENDED}),
    _A.STAGING: frozenset({_A.STARTING, _A.STOPPING, _A.COLLECTING, _A.ENDED}),
    _A.STARTING: frozenset({_A.RUNNING, _A.STOPPING, _A.COLLECTING, _A.ENDED}),
    _A.RUNNING: frozenset({_A.STOPPING, _A.COLLECTING, _A.ENDED}),
    _A.STOPPING: frozenset({_A.COLLECTING, _A.ENDED}),
    _A.COLLECTING: frozenset({_A.ENDED}),
}
NODE_MOVES: Mapping[State, frozenset[State]] = {
    _N.OPENING: frozenset({_N.IDLE, _N.CLOSING, _N.LOST, _N.CLOSED}),
    _N.IDLE: frozenset({_N.RUNNING, _N.CLOSING, _N.LOST, _N.CLOSED}),
    _N.RUNNING: frozenset({_N.IDLE, _N.PARKED, _N.CLOSING, _N.LOST, _N.CLOSED}),
    _N.PARKED: frozenset({_N.OPENING, _N.CLOSING, _N.LOST, _N.CLOSED}),
    _N.CLOSING: frozenset({_N.LOST, _N.CLOSED}),
    _N.LOST: frozenset({_N.IDLE, _N.RUNNING, _N.CLOSING, _N.CLOSED}),
}
# By kind: states of different kinds share words ("Running"), and as strings they are equal.
_MOVES: Mapping[type, Mapping[State, frozenset[State]]] = {
    JobState: JOB_MOVES,
    AttemptState: ATTEMPT_MOVES,
    NodeState: NODE_MOVES,
}
WAITING = (_J.QUEUED, _J.PREPARING, _J.PROVISIONING)


def propose(current: State, target: State, context: Context | None = None) -> Verdict:
    """May it go from `current` to `target`? Both are states of the same kind."""
    context = context or Context()
    for rule in _RULES[type(current)]:
        verdict = rule(current, target, context)
        if verdict is not None:
            return verdict
    return Accept()


def moves(state: State) -> frozenset[State]:
    """Where it may go from `state`; empty for final states."""
    return _MOVES[type(state)].get(state, frozenset())


def is_final(state: State) -> bool:
    return not moves(state)


def _called(state: State, context: Context) -> str:
    kind = {_J: "Job", _A: "Attempt", _N: "Node"}[type(state)]
    return f"{kind} {context.name!r}" if context.name else f"The {kind.lower()}"


def _same(current: State, target: State, context: Context) -> Verdict | None:
    return Accept(changes=False) if current is target else None


def _final_stays(current: State, target: State, context: Context) -> Verdict | None:
    if not is_final(current):
        return None
    return Reject(
        "AlreadyFinal", f"{_called(current, context)} is {current}: that is final, it cannot become {target}."
    )


def _cancel_wins(current: State, target: State, context: Context) -> Verdict | None:
    """Who cancelled sees Canceled, however the processes ended meanwhile."""
    if current is not _J.CANCEL_REQUESTED or target is _J.CANCELED:
        return None
    return Reject(
        "CancelRequested", f"{_called(current, context)} is being cancelled: it can only end Canceled."
    )


def _known_move(current: State, target: State, context: Context) -> Verdict | None:
    if target in moves(current):
        return None
    allowed = join_words(sorted(moves(current)), "or")
    return Reject(
        "IllegalTransition",
        f"{_called(current, context)} cannot go from {current} to {target}: from there it goes to {allowed}.",
    )


def _proved_gone(current: State, target: State, context: Context) -> Verdict | None:
    """A job ends or is tried again, an attempt collects or ends, a node is free or closed only when every
    process is proved gone."""
    waits = (
        (isinstance(target, _J) and current not in WAITING and (target.final or target is _J.QUEUED))
        or target in (_A.COLLECTING, _A.ENDED, _N.CLOSED)
        or (current is _N.RUNNING and target is _N.IDLE)
    )
    if not waits or context.processes_gone:
        return None
    return Delay(
        "ProcessesAlive",
        f"{_called(current, context)} becomes {target} when all its processes are proved gone; "
        "some may still run.",
    )


def _one_job_per_node(current: State, target: State, context: Context) -> Verdict | None:
    if target is not _N.RUNNING or not context.holder or context.holder == context.taker:
        return None
    return Reject(
        "NodeTaken",
        f"{_called(current, context)} runs job {context.holder!r}; a node runs one job at a time.",
    )


_RULES: Mapping[type, Sequence[Rule]] = {
    JobState: (_same, _final_stays, _cancel_wins, _known_move, _proved_gone),
    AttemptState: (_same, _final_stays, _known_move, _proved_gone),
    NodeState: (_one_job_per_node, _same, _final_stays, _known_move, _proved_gone),
}

# ---------------------------------------------------------------- cancel


def cancel_target(state: JobState) -> JobState | None:
    """Where a cancel leads: a waiting job is Canceled at once, one with processes by the timetable; None:
    it is final or already being cancelled, nothing changes."""
    if state.final or state is JobState.CANCEL_REQUESTED:
        return None
    return JobState.CANCELED if state in WAITING else JobState.CANCEL_REQUESTED


@dataclass(frozen=True, slots=True)
class CancelTimetable:
    """Seconds after the request. `closed_s`: the node is closed with everything on it; `done_s`: the
    published deadline by which the job is Canceled."""

    term_s: float
    kill_s: float
    closed_s: float
    done_s: float

    @property
    def sentence(self) -> str:
        kill, closed, done = (
            human_duration(round(s * SECOND)) for s in (self.kill_s, self.closed_s, self.done_s)
        )
        return (
            f"SIGTERM at once, SIGKILL after {kill}, the node is closed after {closed}; "
            f"the job is Canceled after {done} at the latest."
        )


CLOSE_S = 10.0  # closing a node kills through its cgroup; this long is waited for the proof


def cancel_timetable(grace_s: float = 10.0, close_grace_s: float = 20.0) -> CancelTimetable:
    """TERM now, KILL after `grace_s`, close the node `close_grace_s` after that."""
    closed = grace_s + close_grace_s
    return CancelTimetable(0.0, grace_s, closed, closed + CLOSE_S)


DEFAULT_TIMETABLE = cancel_timetable()

# ---------------------------------------------------------------- retry


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a job is tried again. Preemptions cost no retry and have no limit unless one is set."""

    system_failures: int = 2
    preemptions: int | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A new attempt; `message` is for the time line."""

    message: str


@dataclass(frozen=True, slots=True)
class End:
    state: JobState
    code: str
    message: str


DEFAULT_LIMITS = Limits()


def after_attempt(
    outcome: Outcome,
    system_failures: int,
    code: str = "",
    message: str = "",
    preemptions: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> Retry | End:
    """What becomes of the job. Both counts include the attempt that has just ended; `code` and `message` say
    how it ended. The user's own failure is never tried again."""
    if outcome is Outcome.SUCCEEDED:
        return End(JobState.COMPLETED, code or "Completed", message or "Completed.")
    if outcome is Outcome.CANCELED:
        return End(JobState.CANCELED, code or "Canceled", message or "Canceled.")
    if outcome is Outcome.FAILED:
        return End(JobState.FAILED, code or "UserError", message or "The job's command failed.")
    if outcome is Outcome.PREEMPTED:
        if limits.preemptions is None or preemptions <= limits.preemptions:
            return Retry(f"{message or 'Preempted.'} It waits for a node again; this costs no retry.")
        return End(
            JobState.FAILED,
            "TooManyPreemptions",
            f"Preempted {plural(preemptions, 'time')}, the limit is {limits.preemptions}. {message}".rstrip(),
        )
    if system_failures <= limits.system_failures:
        return Retry(
            f"{message or 'The system failed.'} That is not the job's fault: it is tried again "
            f"(retry {system_failures} of at most {limits.system_failures})."
        )
    return End(
        JobState.FAILED,
        code or "SystemFailure",
        f"The system failed {plural(system_failures, 'time')} under this job, it is not tried again. "
        f"Last: {message}".rstrip(),
    )


# ---------------------------------------------------------------- deadlines


@dataclass(frozen=True, slots=True)
class Deadline:
    """`at`: when `owner` must have moved it on; then `action`."""

    at: int
    owner: str
    action: str


@dataclass(frozen=True, slots=True)
class Allowances:
    """Seconds each state may take."""

    look_again_s: float = 60.0  # waiting states: the owner checks that nothing was missed
    build_s: float = 3600.0
    open_s: float = 120.0
    stage_s: float = 3600.0
    start_s: float = 60.0
    collect_s: float = 3600.0
    lost_s: float = 60.0
    cancel: CancelTimetable = DEFAULT_TIMETABLE


DEFAULT_ALLOWANCES = Allowances()


def deadline(
    state: State,
    entered_at: int,
    allowances: Allowances = DEFAULT_ALLOWANCES,
    timeout_s: float | None = None,
    idle_us: int | None = None,
) -> Deadline | None:
    """The deadline of every state that is not final. `timeout_s`: the job's own limit (running states);
    `idle_us`: the cluster's (idle nodes). None only for final states."""
    if is_final(state):
        return None
    seconds, owner, action = _allowance(state, allowances, timeout_s)
    if state is NodeState.IDLE and idle_us is not None:
        return Deadline(entered_at + idle_us, owner, action)
    return Deadline(entered_at + round(seconds * SECOND), owner, action)


def _allowance(state: State, a: Allowances, timeout_s: float | None) -> tuple[float, str, str]:
    running = timeout_s if timeout_s is not None else a.look_again_s
    at_timeout = "stop the attempt, it is over its limit" if timeout_s is not None else "check its processes"
    jobs: Mapping[State, tuple[float, str, str]] = {
        _J.QUEUED: (a.look_again_s, "pool", "decide again"),
        _J.PREPARING: (a.build_s, "environments", "stop the build, fail the job"),
        _J.PROVISIONING: (a.look_again_s, "pool", "decide again"),
        _J.STARTING: (a.stage_s + a.start_s, "attempts", "stop the attempt, try again"),
        _J.RUNNING: (running, "attempts", at_timeout),
        _J.FINALIZING: (a.collect_s, "attempts", "end the job with what is stored"),
        _J.CANCEL_REQUESTED: (a.cancel.done_s, "attempts", "close the nodes"),
    }
    attempts: Mapping[State, tuple[float, str, str]] = {
        _A.ASSIGNED: (a.look_again_s, "attempts", "start it"),
        _A.STAGING: (a.stage_s, "attempts", "stop the attempt, try again"),
        _A.STARTING: (a.start_s, "attempts", "stop the attempt, try again"),
        _A.RUNNING: (running, "attempts", at_timeout),
        _A.STOPPING: (a.cancel.done_s, "attempts", "close the nodes"),
        _A.COLLECTING: (a.collect_s, "attempts", "end the attempt with what is stored"),
    }
    nodes: Mapping[State, tuple[float, str, str]] = {
        _N.OPENING: (a.open_s, "nodes", "close the node, open another"),
        _N.IDLE: (a.look_again_s, "pool", "close it if nothing can use it"),
        _N.RUNNING: (a.look_again_s, "nodes", "check that its agent answers"),
        _N.PARKED: (a.look_again_s, "nodes", "check that its agent answers"),
        _N.CLOSING: (a.cancel.closed_s, "nodes", "close it again"),
        _N.LOST: (a.lost_s, "nodes", "close the node, prove its processes gone"),
    }
    kinds: Mapping[type, Mapping[State, tuple[float, str, str]]] = {
        JobState: jobs,
        AttemptState: attempts,
        NodeState: nodes,
    }
    return kinds[type(state)][state]
