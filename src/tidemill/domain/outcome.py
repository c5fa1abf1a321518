"""How an attempt ended, decided from what its ranks reported and what had been asked of it."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.domain.model import Outcome

TAIL_BYTES = 4000
LOG_END = "The end of its log:"  # a line of its own below the sentence
# What the kernel sends a program for its own faults (signal(7)).
CRASHES = (signals.SIGSEGV, signals.SIGABRT, signals.SIGFPE, signals.SIGBUS, signals.SIGILL, signals.SIGSYS)


@dataclass(frozen=True, slots=True)
class RankEnd:
    """One rank's exit record. `reason`: as in `engines.base.EngineEvent`."""

    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    ended_at: int = 0
    peak_memory: int | None = None
    primary: bool = True
    node: str = ""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    outcome: Outcome
    code: str
    message: str
    exit_code: int | None = None
    signal: int | None = None


def attempt_end(ranks: Mapping[int, RankEnd], stop_reason: str, log_tail: str = "") -> AttemptEnd:
    """`stop_reason`: "" | "cancel" | "preempted" | "peer" (a rank failed, the others were stopped).

    Order of the rules: what the user asked for, then what the system broke, then the user's first failure.
    """
    lost = [(rank, end) for rank, end in sorted(ranks.items()) if end.reason == "lost"]
    failed = sorted(
        ((rank, end) for rank, end in ranks.items() if end.primary and _failed(end)),
        key=lambda item: (item[1].reason == "stopped", item[1].ended_at, item[0]),
    )
    if stop_reason == "cancel":
        return AttemptEnd(Outcome.CANCELED, "Canceled", "Canceled.")
    if stop_reason == "preempted":
        return AttemptEnd(Outcome.PREEMPTED, "Preempted", "Its node was taken for other work.")
    if lost:
        rank, end = lost[0]
        return AttemptEnd(
            Outcome.SYSTEM_FAILURE,
            "NodeLost",
            f"Node {end.node} was lost while rank {rank} ran there; its processes were proved gone.",
        )
    if failed and all(end.reason == "stopped" for _, end in failed):
        # Nobody asked for that, and no peer failed first: the node was closed under it.
        return AttemptEnd(
            Outcome.SYSTEM_FAILURE,
            "NodeClosed",
            f"Node {failed[0][1].node} was closed while rank {failed[0][0]} ran there; "
            "its processes were proved gone.",
        )
    if not failed:
        return AttemptEnd(Outcome.SUCCEEDED, "Completed", "Completed.", exit_code=0)
    rank, end = failed[0]
    where = f"Rank {rank}: " if len(ranks) > 1 else ""
    if end.reason == "timeout":
        return AttemptEnd(
            Outcome.CANCELED,
            "JobTimeout",
            f"{where}The job ran longer than its limits.timeout and was stopped.",
            end.exit_code,
            end.signal,
        )
    if end.reason == "oom":
        peak = f" (peak {end.peak_memory / 2**20:,.0f} MiB)" if end.peak_memory else ""
        return AttemptEnd(
            Outcome.FAILED,
            "OutOfMemory",
            f"{where}The node's memory limit was reached{peak} and the kernel killed the job. "
            "Use a larger size or less memory." + _tail(log_tail),
            end.exit_code,
            end.signal,
        )
    if end.reason == "pids":
        return AttemptEnd(
            Outcome.FAILED,
            "ProcessLimit",
            f"{where}The node's limit of processes was reached ({end.message}), and a new one was refused. "
            "Start fewer processes or threads at once." + _tail(log_tail),
            end.exit_code,
            end.signal,
        )
    if end.reason == "disk_full":
        return AttemptEnd(
            Outcome.FAILED,
            "DiskFull",
            f"{where}Disk full: {end.message} on the node's work disk. "
            "Use a size with a larger disk, or write less." + _tail(log_tail),
            end.exit_code,
            end.signal,
        )
    if end.reason == "spawn_failed":
        return AttemptEnd(
            Outcome.FAILED,
            "StartFailed",
            f"{where}The command could not be started: {end.message}.",
            end.exit_code,
            end.signal,
        )
    if end.signal is not None:
        return AttemptEnd(
            Outcome.FAILED,
            "KilledBySignal",
            f"{where}{_ended_by(end.signal)}" + _tail(log_tail),
            end.exit_code,
            end.signal,
        )
    return AttemptEnd(
        Outcome.FAILED,
        "UserError",
        f"{where}The command ended with exit code {end.exit_code}." + _tail(log_tail),
        end.exit_code,
    )


def _failed(end: RankEnd) -> bool:
    return bool(end.reason) or end.signal is not None or bool(end.exit_code)


def _ended_by(number: int) -> str:
    """A crash is the program's own. Of other signals nobody can tell from outside who sent them."""
    name = _signal_name(number)
    if number in CRASHES:
        return f"The command crashed with {name}."
    return (
        f"The command was ended by {name}, which Tidemill did not send: the job itself did, or somebody else."
    )


def _signal_name(number: int) -> str:
    try:
        return f"{signals.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


def _tail(text: str) -> str:
    text = text[-TAIL_BYTES:].strip("\n")
    return f"\n{LOG_END}\n{text}" if text else ""
