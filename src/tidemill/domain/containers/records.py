"""What nodes say of containers, taken into their records. What was taken in before changes nothing: after a
restart of the server it is told again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tidemill.domain.containers.plan import (
    ERROR,
    KEPT_EVENTS,
    RUNNING,
    START_ERROR,
    TERMINATED,
    WAITING,
    ContainerEvent,
    ContainerRecord,
    ContainerState,
)
from tidemill.domain.outcome import RankEnd

COMPLETED = "Completed"
NORMAL, WARNING = "Normal", "Warning"
STARTED, ENDED, AGAIN, READY, UNREADY = "started", "ended", "restarting", "ready", "unready"
KILLED = 128  # and the signal's number: the exit code of what a signal ended, as Docker has it


@dataclass(frozen=True, slots=True)
class ContainerNews:
    """`kind`: one of the words above. `reason`: as in `engines.base.EngineEvent`; `message`: a sentence."""

    kind: str
    at: int
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    again_in_s: float = 0.0


def ended_well(record: ContainerRecord) -> bool:
    """It came to its end by itself, and nothing starts it again."""
    return record.now.state == TERMINATED and record.now.detail == COMPLETED


def end_in_words(ends: Mapping[str, RankEnd]) -> str:
    """How the containers of a run ended, by name, where nothing but they themselves ended it."""
    if all(end.exit_code == 0 and not end.reason and end.signal is None for end in ends.values()):
        return "Its containers have ended with exit code 0."
    return f"Ended: {', '.join(f'{name} {_end(end)}' for name, end in ends.items())}."


def _end(end: RankEnd) -> str:
    if end.reason:
        words = {"oom": "by the memory limit", "spawn_failed": "without a start", "lost": "with its node"}
        return words.get(end.reason, f"with {end.message or end.reason}")
    return f"by signal {end.signal}" if end.signal is not None else f"with exit code {end.exit_code}"


def begun(name: str, attempt: int, before: ContainerRecord | None, probed: bool) -> ContainerRecord:
    """Of a new attempt: what happened in the last one stays to be read."""
    old = before or ContainerRecord(name)
    last = old.now if old.now.state != WAITING else old.before
    return ContainerRecord(name, attempt, before=last, ready=not probed, events=old.events)


def after(record: ContainerRecord, news: ContainerNews) -> ContainerRecord:
    now = record.now
    if news.kind == STARTED:
        if news.restarts != record.restarts or now.state != WAITING:
            return record
        started = ContainerState(RUNNING, news.at)
        return _told(replace(record, now=started), "Started", NORMAL, "Started container", news.at)
    if news.kind == AGAIN:
        if news.restarts <= record.restarts:
            return record
        why = _sentence(news)
        when = f"It starts again in {news.again_in_s:g} s." if news.again_in_s else "It starts again at once."
        waits = ContainerState(WAITING, detail="CrashLoopBackOff" if news.again_in_s else "Restarting")
        changed = replace(record, before=_ended(now, news), now=waits, restarts=news.restarts, ready=False)
        return _told(changed, _cause(news), _kind(news), f"{why} {when}", news.at)
    if news.kind == ENDED:
        if now.state == TERMINATED:
            return record
        changed = replace(record, now=_ended(now, news), ready=False)
        return _told(changed, _cause(news), _kind(news), _sentence(news), news.at)
    if news.kind == READY and not record.ready and now.state == RUNNING:
        return _told(replace(record, ready=True), "Ready", NORMAL, "Its readiness probe passes.", news.at)
    if news.kind == UNREADY and record.ready and now.state == RUNNING:
        message = f"Its readiness probe fails: {news.message}."
        return _told(replace(record, ready=False), "Unhealthy", WARNING, message, news.at)
    return record


def as_it_is(record: ContainerRecord, attempt: int, ended: str, ended_at: int | None) -> ContainerRecord:
    """A record as it holds while the run is at its attempt number `attempt`. `ended`: why the run is over, ""
    while it is not: what was lost with its node never said how it ended."""
    if record.attempt != attempt:
        record = begun(record.name, attempt, record, probed=True)
    if ended and record.now.state != TERMINATED:
        gone = replace(record.now, state=TERMINATED, finished_at=ended_at, detail=ended)
        return replace(record, now=gone, ready=False)
    return record


def _ended(now: ContainerState, news: ContainerNews) -> ContainerState:
    code = news.exit_code if news.signal is None else KILLED + news.signal
    failed = bool(code or news.reason)
    detail = {"oom": "OOMKilled", "stopped": "Stopped", "spawn_failed": START_ERROR}.get(news.reason, "")
    return ContainerState(
        TERMINATED, now.started_at, news.at, code, detail or (ERROR if failed else COMPLETED)
    )


def _sentence(news: ContainerNews) -> str:
    if news.reason == "oom":
        return "The memory of its group was used up, and the kernel killed it."
    if news.reason == "stopped":
        return "Stopped."
    if news.reason == "spawn_failed":
        return f"It could not be started: {news.message}."
    if news.reason:
        return f"{(news.message or news.reason)[:1].upper()}{(news.message or news.reason)[1:]}."
    if news.signal is not None:
        return f"Ended by signal {news.signal}."
    return f"Ended with exit code {news.exit_code}."


def _cause(news: ContainerNews) -> str:
    if news.reason == "unhealthy":
        return "Killing"
    if news.reason == "spawn_failed":
        return "Failed"
    return "Terminated"


def _kind(news: ContainerNews) -> str:
    return NORMAL if news.reason in ("", "stopped") and not news.exit_code and not news.signal else WARNING


def _told(record: ContainerRecord, name: str, kind: str, message: str, at: int) -> ContainerRecord:
    """With one event more, or counted on the same one."""
    events = list(record.events)
    same = next((e for e in events if (e.name, e.message) == (name, message)), None)
    if same is not None:
        events.remove(same)
        events.append(replace(same, last_at=at, count=same.count + 1))
    else:
        events.append(ContainerEvent(name, kind, message, at, at))
    return replace(record, events=tuple(events[-KEPT_EVENTS:]))
