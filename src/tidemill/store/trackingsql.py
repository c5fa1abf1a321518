"""MLflow's tracking data as SQL on one SQLite connection. Every query names its workspace: a run id (a job's
name) is unique in its workspace only."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.model import Touched
from tidemill.store import trackingmodels

ACTIVE = "active"
DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Experiment:
    id: str
    name: str
    artifact_location: str = ""
    lifecycle: str = ACTIVE  # or DELETED
    created_at: int = 0
    updated_at: int = 0
    tags: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Metric:
    """A point. `timestamp_ms` is the client's (MLflow counts milliseconds); NaN and infinity are values."""

    key: str
    value: float
    timestamp_ms: int
    step: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """`id` is the job's name for the run of a job. Times in microseconds."""

    id: str
    experiment_id: str
    name: str = ""
    user: str = ""
    status: str = "RUNNING"  # SCHEDULED | RUNNING | FINISHED | FAILED | KILLED
    lifecycle: str = ACTIVE
    artifact_uri: str = ""
    start_at: int = 0
    end_at: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run with what was logged: the latest point of each metric, ordered by key."""

    run: Run
    metrics: tuple[Metric, ...]
    params: dict[str, str]
    tags: dict[str, str]


_EXPERIMENT = "id, experiment_id, name, artifact_location, lifecycle, created_at, updated_at"
_RUN = (
    "r.id, r.run_id, e.experiment_id, r.name, r.user, r.status, r.lifecycle, r.artifact_uri, "
    "r.start_at, r.end_at"
)
_RUNS = f"SELECT {_RUN} FROM runs r JOIN experiments e ON e.id = r.experiment WHERE r.workspace = ?"
_UPSERT_SERIES = (
    "INSERT INTO series (run, key, timestamp_ms, step, value, is_nan) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (run, key) DO UPDATE SET timestamp_ms = excluded.timestamp_ms, step = excluded.step, "
    "value = excluded.value, is_nan = excluded.is_nan "
    "WHERE (excluded.step, excluded.timestamp_ms, excluded.value) >= (step, timestamp_ms, value)"
)


class TrackingRead:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._execute = connection.execute

    def experiment(self, workspace: str, experiment_id: str) -> Experiment:
        return self._experiment("experiment_id", workspace, experiment_id)[1]

    def experiment_by_name(self, workspace: str, name: str) -> Experiment:
        return self._experiment("name", workspace, name)[1]

    def _experiment(self, column: str, workspace: str, value: str) -> tuple[int, Experiment]:
        sql = f"SELECT {_EXPERIMENT} FROM experiments WHERE workspace = ? AND {column} = ?"
        row = self._execute(sql, (workspace, value)).fetchone()
        if row is None:
            what = "id" if column == "experiment_id" else "name"
            raise NotFound(
                f"No experiment with {what} {value!r} in this workspace.", "RESOURCE_DOES_NOT_EXIST"
            )
        return row[0], self._with_tags(row)

    def _with_tags(self, row: Any) -> Experiment:
        tags = self._execute("SELECT key, value FROM experiment_tags WHERE experiment = ?", row[:1])
        return Experiment(*row[1:], tags=dict(tags.fetchall()))

    def experiments(
        self, workspace: str, lifecycle: str | None, limit: int, after: str | None
    ) -> tuple[Experiment, ...]:
        sql, values = f"SELECT {_EXPERIMENT} FROM experiments WHERE workspace = ?", [workspace]
        if lifecycle is not None:
            sql, values = f"{sql} AND lifecycle = ?", [*values, lifecycle]
        if after is not None:
            sql = f"{sql} AND id < (SELECT id FROM experiments WHERE workspace = ? AND experiment_id = ?)"
            values = [*values, workspace, after]
        found = self._execute(f"{sql} ORDER BY id DESC LIMIT ?", [*values, limit or -1]).fetchall()
        return tuple(map(self._with_tags, found))

    def run(self, workspace: str, run_id: str) -> RunRecord:
        return self._record(self._run_row(workspace, run_id))

    def _run_row(self, workspace: str, run_id: str) -> Any:
        row = self._execute(f"{_RUNS} AND r.run_id = ?", (workspace, run_id)).fetchone()
        if row is None:
            raise NotFound(f"No run {run_id!r} in this workspace.", "RESOURCE_DOES_NOT_EXIST")
        return row

    def _record(self, row: Any) -> RunRecord:
        number, key = row[0], row[:1]
        params = self._execute("SELECT key, value FROM params WHERE run = ?", key).fetchall()
        tags = self._execute("SELECT key, value FROM tags WHERE run = ?", key).fetchall()
        return RunRecord(Run(*row[1:]), self._latest(number), dict(params), dict(tags))

    def _latest(self, number: int) -> tuple[Metric, ...]:
        sql = "SELECT key, value, timestamp_ms, step, is_nan FROM series WHERE run = ? ORDER BY key"
        return tuple(
            Metric(key, math.nan if is_nan else value, at, step)
            for key, value, at, step, is_nan in self._execute(sql, (number,)).fetchall()
        )

    def latest(self, workspace: str, run_id: str) -> tuple[Metric, ...]:
        return self._latest(self._run_row(workspace, run_id)[0])

    def history(
        self, workspace: str, run_id: str, key: str, after: Metric | None, limit: int
    ) -> tuple[Metric, ...]:
        number = self._run_row(workspace, run_id)[0]
        series = self._execute("SELECT id FROM series WHERE run = ? AND key = ?", (number, key)).fetchone()
        if series is None:
            return ()
        sql = "SELECT value, timestamp_ms, step, is_nan FROM points WHERE series = ?"
        values: list[Any] = [series[0]]
        if after is not None:
            sql += " AND (timestamp_ms, step, value, is_nan) > (?, ?, ?, ?)"
            values += [after.timestamp_ms, after.step, *_stored(after.value)]
        sql += " ORDER BY timestamp_ms, step, value, is_nan LIMIT ?"
        return tuple(
            Metric(key, math.nan if is_nan else value, at, step)
            for value, at, step, is_nan in self._execute(sql, [*values, limit or -1]).fetchall()
        )

    def runs(
        self,
        workspace: str,
        experiment_ids: Sequence[str] | None,
        lifecycle: str | None,
        ascending: bool,
        limit: int,
        after: str | None,
    ) -> tuple[RunRecord, ...]:
        sql, values = _RUNS, [workspace]
        if experiment_ids is not None:
            sql += f" AND e.workspace = ? AND e.experiment_id IN ({', '.join('?' * len(experiment_ids))})"
            values = [*values, workspace, *experiment_ids]
        if lifecycle is not None:
            sql, values = f"{sql} AND r.lifecycle = ?", [*values, lifecycle]
        if after is not None:
            sign = ">" if ascending else "<"
            sql += (
                f" AND (r.start_at, r.id) {sign} "
                "(SELECT start_at, id FROM runs WHERE workspace = ? AND run_id = ?)"
            )
            values = [*values, workspace, after]
        order = "r.start_at, r.id" if ascending else "r.start_at DESC, r.id DESC"
        found = self._execute(f"{sql} ORDER BY {order} LIMIT ?", [*values, limit or -1]).fetchall()
        return tuple(map(self._record, found))


class TrackingTx(TrackingRead):
    """Changes. `touched` tells listeners which runs changed (kind "run")."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.touched: list[Touched] = []

    def create_experiment(self, workspace: str, experiment: Experiment) -> Experiment:
        taken = self._execute(
            "SELECT name, lifecycle FROM experiments WHERE workspace = ? AND (name = ? OR experiment_id = ?)",
            (workspace, experiment.name, experiment.id),
        ).fetchone()
        if taken is not None:
            fix = " It is deleted: restore it or choose another name." if taken[1] == DELETED else ""
            raise Conflict(f"Experiment {taken[0]!r} exists already.{fix}", "RESOURCE_ALREADY_EXISTS")
        number = self._execute(
            "INSERT INTO experiments (workspace, experiment_id, name, artifact_location, lifecycle, "
            "created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                workspace,
                experiment.id,
                experiment.name,
                experiment.artifact_location,
                experiment.lifecycle,
                experiment.created_at,
                experiment.updated_at,
            ),
        ).lastrowid
        for key, value in experiment.tags.items():
            self._execute("INSERT INTO experiment_tags VALUES (?, ?, ?)", (number, key, value))
        return experiment

    def rename_experiment(self, workspace: str, experiment_id: str, name: str, at: int) -> None:
        number, held = self._experiment("experiment_id", workspace, experiment_id)
        if held.lifecycle != ACTIVE:
            raise InvalidRequest(
                f"Experiment {held.name!r} is deleted: restore it before renaming it.",
                "INVALID_PARAMETER_VALUE",
            )
        taken = self._execute(
            "SELECT 1 FROM experiments WHERE workspace = ? AND name = ? AND id <> ?",
            (workspace, name, number),
        ).fetchone()
        if taken is not None:
            raise Conflict(f"Experiment {name!r} exists already.", "RESOURCE_ALREADY_EXISTS")
        self._execute("UPDATE experiments SET name = ?, updated_at = ? WHERE id = ?", (name, at, number))

    def set_experiment_tag(self, workspace: str, experiment_id: str, key: str, value: str) -> None:
        number, _ = self._experiment("experiment_id", workspace, experiment_id)
        self._execute("INSERT OR REPLACE INTO experiment_tags VALUES (?, ?, ?)", (number, key, value))

    def delete_experiment(self, workspace: str, experiment_id: str, at: int) -> None:
        """Its active runs go with it and come back with it."""
        number, held = self._experiment("experiment_id", workspace, experiment_id)
        if held.lifecycle == DELETED:
            raise NotFound(f"Experiment {held.name!r} is deleted already.", "RESOURCE_DOES_NOT_EXIST")
        self._execute(
            "UPDATE experiments SET lifecycle = 'deleted', deleted_at = ?, updated_at = ? WHERE id = ?",
            (at, at, number),
        )
        self._execute(
            "UPDATE runs SET lifecycle = 'deleted', deleted_at = ? "
            "WHERE experiment = ? AND lifecycle = 'active'",
            (at, number),
        )

    def restore_experiment(self, workspace: str, experiment_id: str, at: int) -> None:
        number, held = self._experiment("experiment_id", workspace, experiment_id)
        if held.lifecycle == ACTIVE:
            raise NotFound(f"Experiment {held.name!r} is not deleted.", "RESOURCE_DOES_NOT_EXIST")
        self._execute(
            "UPDATE runs SET lifecycle = 'active', deleted_at = NULL WHERE experiment = ? AND deleted_at = "
            "(SELECT deleted_at FROM experiments WHERE id = ?)",
            (number, number),
        )
        self._execute(
            "UPDATE experiments SET lifecycle = 'active', deleted_at = NULL, updated_at = ? WHERE id = ?",
            (at, number),
        )

    def create_run(self, workspace: str, run: Run, tags: Iterable[tuple[str, str]]) -> RunRecord:
        number, experiment = self._experiment("experiment_id", workspace, run.experiment_id)
        if experiment.lifecycle != ACTIVE:
            raise InvalidRequest(
                f"Experiment {experiment.name!r} is deleted: restore it before adding runs.",
                "INVALID_PARAMETER_VALUE",
            )
        added = self._execute(
            "INSERT INTO runs (workspace, run_id, experiment, name, user, status, lifecycle, artifact_uri, "
            "start_at, end_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                workspace,
                run.id,
                number,
                run.name,
                run.user,
                run.status,
                run.lifecycle,
                run.artifact_uri,
                run.start_at,
                run.end_at,
            ),
        )
        if added.rowcount == 0:
            raise Conflict(f"Run {run.id!r} exists already.", "RESOURCE_ALREADY_EXISTS")
        self._set_tags(added.lastrowid or 0, tags)
        self.touched.append(Touched("run", run.id))
        return self.run(workspace, run.id)

    def update_run(
        self, workspace: str, run_id: str, status: str | None, end_at: int | None, name: str | None
    ) -> Run:
        number = self._run_row(workspace, run_id)[0]
        for column, value in (("status", status), ("end_at", end_at), ("name", name)):
            if value is not None:
                self._execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, number))
        self.touched.append(Touched("run", run_id))
        return Run(*self._run_row(workspace, run_id)[1:])

    def set_run_lifecycle(self, workspace: str, run_id: str, lifecycle: str, at: int) -> None:
        number = self._run_row(workspace, run_id)[0]
        self._execute(
            "UPDATE runs SET lifecycle = ?, deleted_at = ? WHERE id = ?",
            (lifecycle, at if lifecycle == DELETED else None, number),
        )
        self.touched.append(Touched("run", run_id))

    def log(
        self,
        workspace: str,
        run_id: str,
        metrics: Sequence[Metric],
        params: Iterable[tuple[str, str]],
        tags: Iterable[tuple[str, str]],
    ) -> None:
        number = self._active_run(workspace, run_id)
        self._set_params(number, run_id, params)
        self._set_tags(number, tags)
        self._add_points(number, metrics)
        self.touched.append(Touched("run", run_id))

    def _active_run(self, workspace: str, run_id: str) -> int:
        row = self._run_row(workspace, run_id)
        if row[6] != ACTIVE:
            raise InvalidRequest(
                f"Run {run_id!r} is deleted: restore it before logging to it.", "INVALID_PARAMETER_VALUE"
            )
        return row[0]

    def _set_params(self, number: int, run_id: str, params: Iterable[tuple[str, str]]) -> None:
        for key, value in params:
            added = self._execute(
                "INSERT INTO params VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (number, key, value)
            )
            if added.rowcount == 0:
                held = self._execute("SELECT value FROM params WHERE run = ? AND key = ?", (number, key))
                before = held.fetchone()[0]
                if before != value:
                    raise Conflict(
                        f"Param {key!r} of run {run_id!r} is {before!r} and cannot be changed to {value!r}: "
                        "params are written once. Log a value that changes as a metric or a tag.",
                        "INVALID_PARAMETER_VALUE",
                        key,
                    )

    def _set_tags(self, number: int, tags: Iterable[tuple[str, str]]) -> None:
        for key, value in tags:
            self._execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (number, key, value))

    def drop_runs(self, workspace: str, limit: int) -> int:
        """Removes up to `limit` runs with all that was logged. -> how many."""
        sql = "SELECT id, run_id FROM runs WHERE workspace = ? LIMIT ?"
        found = self._execute(sql, (workspace, limit)).fetchall()
        for number, run_id in found:
            self._drop(workspace, number, run_id)
        return len(found)

    def drop_run(self, workspace: str, run_id: str) -> None:
        """Removes a run with all that was logged; an absent one is left alone."""
        sql = "SELECT id FROM runs WHERE workspace = ? AND run_id = ?"
        for (number,) in self._execute(sql, (workspace, run_id)).fetchall():
            self._drop(workspace, number, run_id)

    def _drop(self, workspace: str, number: int, run_id: str) -> None:
        run = (number,)
        trackingmodels.drop(self.connection, workspace, run_id)
        self._execute("DELETE FROM points WHERE series IN (SELECT id FROM series WHERE run = ?)", run)
        for table in ("series", "params", "tags"):
            self._execute(f"DELETE FROM {table} WHERE run = ?", run)
        self._execute("DELETE FROM runs WHERE id = ?", run)
        self.touched.append(Touched("run", run_id))

    def drop_experiments(self, workspace: str) -> None:
        """Removes the experiments of a workspace that has no runs left."""
        trackingmodels.drop(self.connection, workspace)
        mine = "SELECT id FROM experiments WHERE workspace = ?"
        self._execute(f"DELETE FROM experiment_tags WHERE experiment IN ({mine})", (workspace,))
        self._execute("DELETE FROM experiments WHERE workspace = ?", (workspace,))

    def delete_tag(self, workspace: str, run_id: str, key: str) -> None:
        number = self._active_run(workspace, run_id)
        if self._execute("DELETE FROM tags WHERE run = ? AND key = ?", (number, key)).rowcount == 0:
            raise NotFound(f"Run {run_id!r} has no tag {key!r}.", "RESOURCE_DOES_NOT_EXIST")
        self.touched.append(Touched("run", run_id))

    def _add_points(self, number: int, metrics: Sequence[Metric]) -> None:
        by_key: dict[str, list[tuple[int, int, float, int]]] = {}
        for metric in metrics:
            point = (metric.timestamp_ms, metric.step, *_stored(metric.value))
            by_key.setdefault(metric.key, []).append(point)
        for key, points in by_key.items():
            last = max(points, key=lambda point: (point[1], point[0], point[2]))
            self._execute(_UPSERT_SERIES, (number, key, *last))
            series = self._execute(
                "SELECT id FROM series WHERE run = ? AND key = ?", (number, key)
            ).fetchone()[0]
            self.connection.executemany(
                "INSERT OR IGNORE INTO points VALUES (?, ?, ?, ?, ?)",
                [(series, *point) for point in points],
            )


def _stored(value: float) -> tuple[float, int]:
    return (0.0, 1) if math.isnan(value) else (value, 0)
