"""Curves of one metric of several runs as a picture: paths over a common scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000.0, 220.0
MARGIN = 12.0

Point = tuple[int, float]  # step, value


@dataclass(frozen=True, slots=True)
class Curve:
    """`path`: SVG; `hue`: the number of the run, for its colour."""

    run: str
    hue: int
    path: str


@dataclass(frozen=True, slots=True)
class Picture:
    """`low`, `high`, `first` and `last` are what the edges stand for."""

    curves: tuple[Curve, ...]
    low: float
    high: float
    first: int
    last: int


def draw(runs: Sequence[tuple[str, Sequence[Point]]]) -> Picture | None:
    """`runs`: each with its points by step. What is not finite is left out; None where nothing is left."""
    finite = [(run, [point for point in points if math.isfinite(point[1])]) for run, points in runs]
    all_points = [point for _, points in finite for point in points]
    if not all_points:
        return None
    first, last = min(p[0] for p in all_points), max(p[0] for p in all_points)
    low, high = min(p[1] for p in all_points), max(p[1] for p in all_points)

    def place(point: Point) -> str:
        across = (point[0] - first) / (last - first) if last > first else 0.5
        span = high - low
        up = (point[1] - low) / span if span > 0 and math.isfinite(span) else 0.5
        x = MARGIN + across * (WIDTH - 2 * MARGIN)
        return f"{x:.1f},{HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN):.1f}"

    curves = tuple(
        # A path of one point draws a dot only if it goes somewhere: to itself.
        Curve(run, hue, "M" + "L".join(map(place, points if len(points) > 1 else [*points, *points])))
        for hue, (run, points) in enumerate(finite)
        if points
    )
    return Picture(curves, low, high, first, last)
