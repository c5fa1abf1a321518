"""A metric of any length as a curve of bounded length: of each stretch its lowest and highest point, besides
the first and the last of all. Read by a connection of its own, in a thread: a million points take a while."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from tidemill.store.sqlite import connect
from tidemill.store.trackingsql import Metric

_BETWEEN = "FROM points WHERE series = ? AND step BETWEEN ? AND ? AND is_nan = 0"


def sampled(
    path: Path, workspace: str, run_id: str, key: str, most: int, steps: tuple[int, int]
) -> tuple[Metric, ...]:
    """At most `most` (4 or more) points by step, all where there are no more; NaN is left out. Spread by
    step, or by time where all have one step. An absent run or metric has none."""
    connection = connect(path)
    try:
        connection.execute("PRAGMA query_only=1")
        connection.execute("BEGIN")
        return _sampled(connection, workspace, run_id, key, most, steps)
    finally:
        connection.close()


def _sampled(
    db: sqlite3.Connection, workspace: str, run_id: str, key: str, most: int, steps: tuple[int, int]
) -> tuple[Metric, ...]:
    series = db.execute(
        "SELECT s.id FROM series s JOIN runs r ON r.id = s.run "
        "WHERE r.workspace = ? AND r.run_id = ? AND s.key = ?",
        (workspace, run_id, key),
    ).fetchone()
    if series is None:
        return ()
    where = (series[0], *steps)
    count, *ends = _ends(db, where, "step")
    if count <= most:
        rows: list[Any] = db.execute(f"SELECT step, timestamp_ms, value {_BETWEEN}", where).fetchall()
    else:
        axis, place = ("step", 0) if ends[0][0] < ends[1][0] else ("timestamp_ms", 1)
        if place:
            _, *ends = _ends(db, where, axis)
        start, width = ends[0][place], ends[1][place] - ends[0][place] + 1
        rows = [*ends, *_extremes(db, where, axis, start, width, (most - 2) // 2)]
    return tuple(Metric(key, value, at, step) for step, at, value in sorted(set(rows)))


def _ends(db: sqlite3.Connection, where: tuple[int, int, int], axis: str) -> tuple[int, Any, Any]:
    """-> (how many, the first point by `axis`, the last). SQLite gives the other columns of the row that has
    the lowest (highest) value."""
    columns = {axis: f"{{}}({axis})"}
    listed = ", ".join(columns.get(name, name) for name in ("step", "timestamp_ms", "value"))
    first = db.execute(f"SELECT count(*), {listed.format('min')} {_BETWEEN}", where).fetchone()
    last = db.execute(f"SELECT {listed.format('max')} {_BETWEEN}", where).fetchone()
    return first[0], first[1:], last


def _extremes(
    db: sqlite3.Connection, where: tuple[int, int, int], axis: str, start: int, width: int, stretches: int
) -> list[Any]:
    """The lowest and the highest point of each stretch of `axis`."""
    # As floats: steps and times of 64 bits times the number of stretches would not fit into 64 bits.
    group = f"CAST(({axis} - CAST(? AS REAL)) * ? / ? AS INTEGER)"
    values = (*where, start, stretches, float(width))
    rows: list[Any] = []
    for extreme in ("min", "max"):
        sql = f"SELECT step, timestamp_ms, {extreme}(value) {_BETWEEN} GROUP BY {group}"
        rows += db.execute(sql, values).fetchall()
    return rows
