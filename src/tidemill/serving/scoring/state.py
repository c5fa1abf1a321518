"""The state file: what whoever started the server reads, written whole and renamed."""

from __future__ import annotations

import json
import os
import traceback
from typing import Any, Callable

TRACEBACK_LIMIT = 32 << 10

STARTING, READY, FAILED, DRAINING = "starting", "ready", "failed", "draining"


def failure(stage: str, error: BaseException, text: str = "") -> dict[str, str]:
    """`stage`: config, import, init, model, warmup. The end of a traceback is what helps, so that is kept."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if len(trace) > TRACEBACK_LIMIT:
        trace = "…" + trace[-TRACEBACK_LIMIT:]
    return {
        "stage": stage,
        "type": type(error).__name__,
        "message": (text or str(error))[:4096],
        "traceback": trace,
    }


class StateFile:
    """`failed` is told of a file that cannot be written: the server serves all the same."""

    def __init__(self, path: str, host: str, failed: Callable[[str], None]) -> None:
        self._path = path
        self._failed = failed
        self._now: dict[str, Any] = {
            "state": STARTING,
            "pid": os.getpid(),
            "host": host,
            "port": None,
            "workers": 0,
            "restarts": 0,
            "error": None,
        }

    @property
    def state(self) -> str:
        return str(self._now["state"])

    def set(self, **changed: Any) -> None:
        if all(self._now[name] == value for name, value in changed.items()) and os.path.exists(self._path):
            return
        self._now.update(changed)
        if not self._path:
            return
        partial = self._path + ".part"
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump(self._now, file)
            os.replace(partial, self._path)
        except OSError as error:
            self._failed(f"TIDEMILL_SERVING_STATE={self._path}: {error.strerror}")

    def get(self, name: str) -> Any | None:
        return self._now[name]
