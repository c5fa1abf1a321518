"""What nodes say of services, taken into the rows of their instances."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, cast

from tidemill.app.services import Services
from tidemill.app.serving import instances
from tidemill.app.serving.instances import News
from tidemill.controllers import staging
from tidemill.controllers.live_attempt import LiveAttempt
from tidemill.domain.outcome import RankEnd, attempt_end
from tidemill.domain.serving.service import STATE_FILE, Ended
from tidemill.engines.base import EngineError, EngineEvent

KINDS = {"task_ready": "ready", "task_unready": "unready", "task_restarting": "restarting"}
STATE_BYTES = 128 << 10


async def record(s: Services, live: LiveAttempt) -> None:
    """In the order they came. They are repeated after a restart of ours: that changes nothing."""
    events = list(live.news)
    news = [await _read(s, live, event) for event in events]
    await s.store.write(lambda tx: instances.record(tx, live.attempt.id, live.port, news))
    del live.news[: len(events)]


async def _read(s: Services, live: LiveAttempt, event: EngineEvent) -> News:
    kind = KINDS[event.kind]
    ended = await _ended(s, live, event) if kind == "restarting" else None
    return News(kind, event.at, event.message, event.restarts, event.again_in_s, ended)


async def _ended(s: Services, live: LiveAttempt, event: EngineEvent) -> Ended:
    """What the scoring server has written down of its failure; else how it ended, and the end of its log."""
    reason = event.reason
    if event.exit_code and not reason and (failed := await _told(s, live)) is not None:
        return Ended(event.at, "UserScriptFailed", failed)
    if reason == "unhealthy":
        return Ended(event.at, "LivenessFailed", f"Its {event.message.removeprefix('its ')}.")
    rank = live.ranks[0]
    tail = await staging.log_tail(s, live.attempt, live.node_of(0), rank.log)
    end = attempt_end({0: RankEnd(event.exit_code, event.signal, reason, event.message, event.at)}, "", tail)
    if event.exit_code == 0:
        text = "The scoring server ended by itself, with exit code 0."
        return Ended(event.at, "ContainerExited", text)
    return Ended(event.at, end.code, end.message, killed=event.signal is not None and not reason)


async def _told(s: Services, live: LiveAttempt) -> str | None:
    with suppress(EngineError, ValueError):
        raw = await s.engine.read_log(live.node_of(0), live.attempt.id, STATE_FILE, 0, STATE_BYTES)
        state = json.loads(raw) if raw else None
        error = cast(dict[str, Any], state).get("error") if isinstance(state, dict) else None
        if isinstance(error, dict):
            return _sentence({str(k): str(v) for k, v in cast(dict[str, Any], error).items()})
    return None


_STAGES = {
    "import": "the scoring script could not be imported",
    "init": "init() failed",
    "model": "the model could not be loaded",
    "warmup": "the warm-up request failed",
    "config": "it is told something wrong",
}


def _sentence(error: dict[str, str]) -> str:
    what = _STAGES.get(error.get("stage", ""), "it could not start")
    head = f"The scoring server did not start: {what}: {error.get('type', '')}: {error.get('message', '')}"
    trace = error.get("traceback", "").strip()
    return f"{head}\n{trace}" if trace else head
