"""The log of requests is bounded, whatever the rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidemill.serving.scoring import log as module
from tidemill.serving.scoring.log import LINES_PER_SECOND, AccessLog


def test_of_many_requests_the_first_have_lines_and_the_others_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, written, waiting = [100.0], [""], list[tuple[float, Callable[[], None]]]()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "write", lambda text: written.append(text))
    access = AccessLog(lambda after, call: waiting.append((now[0] + after, call)))

    def passes(seconds: float) -> list[str]:
        now[0] += seconds
        written.clear()
        due = [call for at, call in waiting if at <= now[0]]
        waiting[:] = [(at, call) for at, call in waiting if at > now[0]]
        for call in due:
            call()
        return "".join(written).splitlines()

    def ask(count: int, status: int = 200) -> None:
        for _ in range(count):
            access.add("POST", "/score", status, 1.25, 10, "id")

    ask(1)
    (line,) = passes(0.5)
    assert line.endswith("INFO POST /score 200 1.250ms 10 id")
    ask(10_000)
    ask(3, 500)
    lines = passes(0.5)
    assert len(lines) == LINES_PER_SECOND
    assert passes(1.0)[0].endswith(f"INFO and {10_003 - LINES_PER_SECOND} more requests (200: 9950, 500: 3)")
    assert not waiting, "nothing to do, and still a timer"
