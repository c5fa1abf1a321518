"""MLflow's tracking data (experiments, runs, params, metrics, tags) in a SQLite file of its own: a training
loop that logs thousands of points a second does not touch the file that jobs are scheduled from.

`workspace` is any string that names one (its ARM id); case does not count. Absent things raise NotFound,
names that are taken Conflict, changes to deleted things InvalidRequest; `code` is MLflow's error code.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tidemill.domain.errors import TidemillError
from tidemill.store import sampling, trackingmodels
from tidemill.store.groupcommit import GroupWriter, Listener
from tidemill.store.rows import fold
from tidemill.store.sqlite import SqliteSession, connect, make_private, translate_sqlite
from tidemill.store.trackingmodels import LoggedModel, ModelMetric
from tidemill.store.trackingsql import (
    ACTIVE,
    DELETED,
    Experiment,
    Metric,
    Run,
    RunRecord,
    TrackingRead,
    TrackingTx,
)

__all__ = [
    "ACTIVE",
    "DELETED",
    "Experiment",
    "LoggedModel",
    "Metric",
    "ModelMetric",
    "Run",
    "RunRecord",
    "TrackingStore",
]

T = TypeVar("T")

_SCHEMA = ("schema_tracking.sql", "schema_tracking_2.sql")  # each made from the one before
VERSION = len(_SCHEMA)  # PRAGMA user_version
_DROPPED_AT_ONCE = 20  # runs per commit


class TrackingStore:
    """Opens (or makes) the file. Writes return when they are on disk; writes that wait share one fsync."""

    def __init__(self, path: Path) -> None:
        self._path = path
        make_private(path)
        try:
            _prepare(path)
            session = SqliteSession(path, TrackingTx)
            self._reader = connect(path)
        except sqlite3.Error as error:
            raise translate_sqlite(error, path) from error
        self._reader.execute("PRAGMA query_only=1")
        self._writer: GroupWriter[TrackingTx] = GroupWriter(session, "tracking-writer")
        self._read = TrackingRead(self._reader)

    async def create_experiment(self, workspace: str, experiment: Experiment) -> Experiment:
        return await self._writer.submit(lambda tx: tx.create_experiment(fold(workspace), experiment))

    async def get_experiment(self, workspace: str, experiment_id: str) -> Experiment:
        return self._reading(lambda read: read.experiment(fold(workspace), experiment_id))

    async def get_experiment_by_name(self, workspace: str, name: str) -> Experiment:
        return self._reading(lambda read: read.experiment_by_name(fold(workspace), name))

    async def search_experiments(
        self, workspace: str, *, lifecycle: str | None = ACTIVE, limit: int = 0, after: str | None = None
    ) -> tuple[Experiment, ...]:
        """Newest first. `lifecycle` None: both; `limit` 0: all; `after`: last id of the page before."""
        return self._reading(lambda read: read.experiments(fold(workspace), lifecycle, limit, after))

    async def rename_experiment(self, workspace: str, experiment_id: str, name: str, at: int) -> None:
        await self._writer.submit(lambda tx: tx.rename_experiment(fold(workspace), experiment_id, name, at))

    async def set_experiment_tag(self, workspace: str, experiment_id: str, key: str, value: str) -> None:
        await self._writer.submit(
            lambda tx: tx.set_experiment_tag(fold(workspace), experiment_id, key, value)
        )

    async def delete_experiment(self, workspace: str, experiment_id: str, at: int) -> None:
        await self._writer.submit(lambda tx: tx.delete_experiment(fold(workspace), experiment_id, at))

    async def restore_experiment(self, workspace: str, experiment_id: str, at: int) -> None:
        await self._writer.submit(lambda tx: tx.restore_experiment(fold(workspace), experiment_id, at))

    async def create_run(self, workspace: str, run: Run, tags: Iterable[tuple[str, str]] = ()) -> RunRecord:
        pairs = tuple(tags)
        return await self._writer.submit(lambda tx: tx.create_run(fold(workspace), run, pairs))

    async def get_run(self, workspace: str, run_id: str) -> RunRecord:
        return self._reading(lambda read: read.run(fold(workspace), run_id))

    async def update_run(
        self,
        workspace: str,
        run_id: str,
        *,
        status: str | None = None,
        end_at: int | None = None,
        name: str | None = None,
    ) -> Run:
        """None leaves a field as it is."""
        return await self._writer.submit(
            lambda tx: tx.update_run(fold(workspace), run_id, status, end_at, name)
        )

    async def delete_run(self, workspace: str, run_id: str, at: int) -> None:
        await self._writer.submit(lambda tx: tx.set_run_lifecycle(fold(workspace), run_id, DELETED, at))

    async def restore_run(self, workspace: str, run_id: str, at: int) -> None:
        await self._writer.submit(lambda tx: tx.set_run_lifecycle(fold(workspace), run_id, ACTIVE, at))

    async def drop_run(self, workspace: str, run_id: str) -> None:
        """Removes a run for good, with all that was logged; an absent one is left alone."""
        await self._writer.submit(lambda tx: tx.drop_run(fold(workspace), run_id))

    async def delete_workspace(self, workspace: str) -> None:
        """Removes everything of a workspace, in commits small enough to let other writers in between."""
        while await self._writer.submit(lambda tx: tx.drop_runs(fold(workspace), _DROPPED_AT_ONCE)):
            pass
        await self._writer.submit(lambda tx: tx.drop_experiments(fold(workspace)))

    async def log_batch(
        self,
        workspace: str,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Iterable[tuple[str, str]] = (),
        tags: Iterable[tuple[str, str]] = (),
        about: Mapping[str, Sequence[ModelMetric]] | None = None,
        at: int = 0,
    ) -> None:
        """All or nothing, in one commit. A point that is there already is not added again. Conflict when a
        param has another value already. `about`: points of logged models, by their ids; `at`: now."""
        points, values, marks = tuple(metrics), tuple(params), tuple(tags)

        def change(tx: TrackingTx) -> None:
            tx.log(fold(workspace), run_id, points, values, marks)
            for model_id, of_model in (about or {}).items():
                trackingmodels.add_metrics(tx.connection, fold(workspace), model_id, of_model, at)

        await self._writer.submit(change)

    async def set_tag(self, workspace: str, run_id: str, key: str, value: str) -> None:
        await self.log_batch(workspace, run_id, tags=((key, value),))

    async def delete_tag(self, workspace: str, run_id: str, key: str) -> None:
        await self._writer.submit(lambda tx: tx.delete_tag(fold(workspace), run_id, key))

    async def metric_history(
        self, workspace: str, run_id: str, key: str, after: Metric | None = None, limit: int = 0
    ) -> tuple[Metric, ...]:
        """Ordered by (timestamp, step, value). `after`: the last point of the page before; `limit` 0: all."""
        return self._reading(lambda read: read.history(fold(workspace), run_id, key, after, limit))

    async def sampled(
        self, workspace: str, run_id: str, key: str, most: int, steps: tuple[int, int]
    ) -> tuple[Metric, ...]:
        """At most `most` points (4 or more) between two steps, both included, by step: of a longer curve the
        lowest and highest of each stretch. NaN is left out; an absent run or metric has none."""
        try:
            return await asyncio.to_thread(
                sampling.sampled, self._path, fold(workspace), run_id, key, most, steps
            )
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error

    async def latest(self, workspace: str, run_id: str) -> tuple[Metric, ...]:
        """The point of each metric with the highest (step, timestamp, value), ordered by key."""
        return self._reading(lambda read: read.latest(fold(workspace), run_id))

    async def search_runs(
        self,
        workspace: str,
        experiment_ids: Sequence[str] | None = None,
        *,
        lifecycle: str | None = ACTIVE,
        ascending: bool = False,
        limit: int = 0,
        after: str | None = None,
    ) -> tuple[RunRecord, ...]:
        """By start time, newest first unless `ascending`. `after`: id of the last run of the page before."""
        return self._reading(
            lambda read: read.runs(fold(workspace), experiment_ids, lifecycle, ascending, limit, after)
        )

    async def create_logged_model(self, workspace: str, model: LoggedModel, otherwise: str) -> LoggedModel:
        """`otherwise`: where its files go if its run has a model there already."""
        return await self._writer.submit(
            lambda tx: trackingmodels.create(tx.connection, fold(workspace), model, otherwise)
        )

    async def get_logged_model(self, workspace: str, model_id: str) -> LoggedModel:
        return self._reading(lambda read: trackingmodels.get(read.connection, fold(workspace), model_id))

    async def change_logged_model(
        self, workspace: str, model_id: str, alter: Callable[[LoggedModel], LoggedModel], at: int
    ) -> LoggedModel:
        """`alter` may change status, params, tags and metrics."""
        return await self._writer.submit(
            lambda tx: trackingmodels.change(tx.connection, fold(workspace), model_id, alter, at)
        )

    async def delete_logged_model(self, workspace: str, model_id: str, at: int) -> None:
        await self._writer.submit(
            lambda tx: trackingmodels.delete(tx.connection, fold(workspace), model_id, at)
        )

    async def search_logged_models(
        self, workspace: str, experiment_ids: Sequence[str]
    ) -> tuple[LoggedModel, ...]:
        """Newest first."""
        return self._reading(
            lambda read: trackingmodels.search(read.connection, fold(workspace), experiment_ids)
        )

    def on_commit(self, listener: Listener) -> None:
        """Called with Touched("run", run_id) once per commit, before its writers resume."""
        self._writer.on_commit(listener)

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()

    def _reading(self, fn: Callable[[TrackingRead], T]) -> T:
        self._reader.execute("BEGIN")
        try:
            return fn(self._read)
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error
        finally:
            self._reader.execute("COMMIT")


def _prepare(path: Path) -> None:
    connection = connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for step in _SCHEMA[version:]:
            for statement in Path(__file__).with_name(step).read_text().split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        if version < VERSION:
            connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()
    if version > VERSION:
        raise TidemillError(
            f"{path} is of version {version}, made by a newer Tidemill; this one knows up to {VERSION}. "
            "Upgrade Tidemill, or give another --home.",
            "DatabaseTooNew",
            status=500,
        )
