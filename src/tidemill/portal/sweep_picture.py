"""A sweep's trials as a picture: what each one reached, in the order they were started, and the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 1000.0, 220.0
LEFT, MARGIN = 8.0, 16.0


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    title: str
    name: str
    state: str
    best: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """`front` is the line of the best so far: an SVG path. `low` and `high` are what the edges stand for."""

    dots: tuple[Dot, ...]
    front: str
    low: float
    high: float


def draw(sweep: Mapping[str, Any]) -> Picture | None:
    """None before any trial reported a number."""
    scored = [
        trial for trial in sweep["trials"] if trial["score"] is not None and math.isfinite(trial["score"])
    ]
    if not scored:
        return None
    values = [float(trial["score"]) for trial in scored]
    low, high = min(values), max(values)
    last = max(trial["number"] for trial in sweep["trials"])
    dots = [_dot(trial, low, high, last, sweep) for trial in scored]
    return Picture(tuple(dots), _front(dots, sweep["goal"] == "maximize"), low, high)


def _dot(trial: Mapping[str, Any], low: float, high: float, last: int, sweep: Mapping[str, Any]) -> Dot:
    across = (trial["number"] - 1) / max(last - 1, 1)
    up = (trial["score"] - low) / (high - low) if high > low else 0.5
    given = ", ".join(f"{key}={value}" for key, value in trial["values"].items())
    title = f"Trial {trial['number']}: {sweep['metric']} {trial['score']:g} with {given}"
    return Dot(
        round(LEFT + across * (WIDTH - 2 * LEFT), 1),
        round(HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN), 1),
        title + (f" (stopped: {trial['stopped']})" if trial["stopped"] else ""),
        trial["name"],
        trial["state"],
        trial["name"] == sweep["best"],
    )


def _front(dots: Sequence[Dot], maximize: bool) -> str:
    parts: list[str] = []
    best: float | None = None
    for dot in sorted(dots, key=lambda dot: dot.x):
        better = best is None or (dot.y < best if maximize else dot.y > best)
        if better:
            parts.append(f"M{dot.x},{dot.y}" if best is None else f"H{dot.x}V{dot.y}")
            best = dot.y
    return "".join(parts) + f"H{WIDTH - LEFT}"
