"""From a job's time line to its picture: which phase it was in, from when to when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 1000  # units of the picture's x axis
NARROWEST = 4.0  # so that a phase of a millisecond is still seen

# Event code -> the phase that begins with it. Codes that are not here (notes) leave the phase as it is.
BEGINS = {
    "Preparing": "environment",
    "EnvironmentReady": "queue",
    "Assigned": "start",
    "Started": "run",
    "Finalizing": "collect",
    "CancelRequested": "stop",
    "Completed": "",
    "Failed": "",
    "Canceled": "",
}
LABELS = {
    "queue": "Queue",
    "environment": "Environment",
    "nodes": "Nodes opening",
    "start": "Start",
    "run": "Run",
    "collect": "Collect",
    "stop": "Stop",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """`x` and `width` in units of WIDTH; `seconds` since the submit."""

    x: float
    width: float
    start: float
    end: float
    open: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One phase; it has several bars where a job was tried again."""

    phase: str
    label: str
    seconds: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    rows: tuple[Row, ...]
    seconds: float  # from the submit to the end, or to now


def draw(timeline: Sequence[Mapping[str, Any]], elapsed: float, final: bool, first: str = "queue") -> Picture:
    """`timeline` as in the native API, `elapsed` seconds since the submit; `first`: the phase that begins
    with it. Phases in the order they came."""
    spans = _spans(timeline, elapsed, final, first)
    total = max([elapsed, *(end for _, _, end, _ in spans)], default=0.0)
    rows: dict[str, list[Bar]] = {}
    for phase, start, end, is_open in spans:
        rows.setdefault(phase, []).append(_bar(start, end, total, is_open))
    return Picture(
        tuple(
            Row(phase, LABELS[phase], sum(bar.end - bar.start for bar in bars), tuple(bars))
            for phase, bars in rows.items()
        ),
        total,
    )


def _spans(
    timeline: Sequence[Mapping[str, Any]], elapsed: float, final: bool, first: str
) -> list[tuple[str, float, float, bool]]:
    """(phase, start, end, whether it goes on now)"""
    spans: list[tuple[str, float, float, bool]] = []
    phase, start = "", 0.0
    for entry in timeline:
        following = first if entry["code"] == "Submitted" else _begins(str(entry["code"]))
        if following is None or following == phase:
            continue
        at = float(entry["elapsed_s"])
        if phase and at > start:
            spans.append((phase, start, at, False))
        phase, start = following, at
    if phase:
        spans.append((phase, start, max(elapsed, start), not final))
    return spans


def _begins(code: str) -> str | None:
    if code.startswith("Waiting."):
        return "nodes" if code == "Waiting.NodesOpening" else "queue"
    return BEGINS.get(code)


def _bar(start: float, end: float, total: float, is_open: bool) -> Bar:
    scale = WIDTH / max(total, 1e-6)  # times are whole microseconds
    width = max((end - start) * scale, NARROWEST)
    x = min(start * scale, WIDTH - width)
    return Bar(round(max(x, 0.0), 2), round(width, 2), start, end, is_open)
