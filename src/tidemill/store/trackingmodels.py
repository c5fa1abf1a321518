"""Logged models of MLflow 3 as SQL on the tracking data's SQLite connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from tidemill.domain.errors import NotFound

ABSENT = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True, slots=True)
class ModelMetric:
    """A point that is about a model, on a dataset if that was said; the newest of each counts."""

    key: str
    value: float
    timestamp_ms: int
    step: int
    run_id: str = ""
    dataset: str = ""
    digest: str = ""

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.key, self.run_id, self.dataset, self.digest


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """`status` is MLflow's, such as "LOGGED_MODEL_READY". Times in microseconds."""

    id: str
    experiment_id: str
    name: str
    artifact_uri: str
    run_id: str = ""
    model_type: str = ""
    status: str = "LOGGED_MODEL_PENDING"
    created_at: int = 0
    updated_at: int = 0
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: tuple[ModelMetric, ...] = ()


class _Data(msgspec.Struct):
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: list[tuple[str, str, int, int, str, str, str]] = []  # values as text: JSON has no NaN


_COLUMNS = (
    "m.model_id, e.experiment_id, m.name, m.artifact_uri, m.run_id, m.model_type, m.status, m.created_at, "
    "m.updated_at, m.data"
)
_MODELS = (
    f"SELECT {_COLUMNS} FROM logged_models m JOIN experiments e ON e.id = m.experiment "
    "WHERE m.workspace = ? AND m.deleted_at IS NULL"
)


def create(db: sqlite3.Connection, workspace: str, model: LoggedModel, otherwise: str) -> LoggedModel:
    """`otherwise`: where its files go if its run has a model there already. Raises NotFound where the
    experiment is absent."""
    found = db.execute(
        "SELECT id FROM experiments WHERE workspace = ? AND experiment_id = ?",
        (workspace, model.experiment_id),
    ).fetchone()
    if found is None:
        raise NotFound(f"No experiment with id {model.experiment_id!r} in this workspace.", ABSENT)
    taken = db.execute(
        "SELECT 1 FROM logged_models WHERE workspace = ? AND run_id = ? AND artifact_uri = ?",
        (workspace, model.run_id, model.artifact_uri),
    ).fetchone()
    if taken is not None:
        model = replace(model, artifact_uri=otherwise)
    db.execute(
        "INSERT INTO logged_models (workspace, model_id, experiment, run_id, name, model_type, status, "
        "artifact_uri, created_at, updated_at, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            workspace,
            model.id,
            found[0],
            model.run_id,
            model.name,
            model.model_type,
            model.status,
            model.artifact_uri,
            model.created_at,
            model.updated_at,
            _encoded(model),
        ),
    )
    return model


def get(db: sqlite3.Connection, workspace: str, model_id: str) -> LoggedModel:
    row = db.execute(f"{_MODELS} AND m.model_id = ?", (workspace, model_id)).fetchone()
    if row is None:
        raise NotFound(f"No logged model {model_id!r} in this workspace.", ABSENT, model_id)
    return _model(row)


def change(
    db: sqlite3.Connection,
    workspace: str,
    model_id: str,
    alter: Callable[[LoggedModel], LoggedModel],
    at: int,
) -> LoggedModel:
    """Stores what `alter` makes of the model: its status, params, tags and metrics."""
    model = replace(alter(get(db, workspace, model_id)), updated_at=at)
    db.execute(
        "UPDATE logged_models SET status = ?, updated_at = ?, data = ? WHERE workspace = ? AND model_id = ?",
        (model.status, at, _encoded(model), workspace, model_id),
    )
    return model


def delete(db: sqlite3.Connection, workspace: str, model_id: str, at: int) -> None:
    get(db, workspace, model_id)
    db.execute(
        "UPDATE logged_models SET deleted_at = ? WHERE workspace = ? AND model_id = ?",
        (at, workspace, model_id),
    )


def search(db: sqlite3.Connection, workspace: str, experiment_ids: Sequence[str]) -> tuple[LoggedModel, ...]:
    """Of these experiments, newest first."""
    marks = ", ".join("?" * len(experiment_ids))
    sql = f"{_MODELS} AND e.experiment_id IN ({marks}) ORDER BY m.id DESC"
    return tuple(map(_model, db.execute(sql, (workspace, *experiment_ids)).fetchall()))


def add_metrics(
    db: sqlite3.Connection, workspace: str, model_id: str, points: Sequence[ModelMetric], at: int
) -> None:
    def add(model: LoggedModel) -> LoggedModel:
        held = {point.place: point for point in model.metrics}
        for point in points:
            before = held.get(point.place)
            if before is None or (point.step, point.timestamp_ms) >= (before.step, before.timestamp_ms):
                held[point.place] = point
        return replace(model, metrics=tuple(held.values()))

    change(db, workspace, model_id, add, at)


def drop(db: sqlite3.Connection, workspace: str, run_id: str | None = None) -> None:
    """Removes those of a run for good, or all of a workspace."""
    if run_id is None:
        db.execute("DELETE FROM logged_models WHERE workspace = ?", (workspace,))
    else:
        db.execute("DELETE FROM logged_models WHERE workspace = ? AND run_id = ?", (workspace, run_id))


def _encoded(model: LoggedModel) -> str:
    points = [
        (p.key, repr(p.value), p.timestamp_ms, p.step, p.run_id, p.dataset, p.digest) for p in model.metrics
    ]
    return msgspec.json.encode(_Data(dict(model.params), dict(model.tags), points)).decode()


def _model(row: Any) -> LoggedModel:
    data = msgspec.json.decode(row[9], type=_Data)
    metrics = tuple(
        ModelMetric(key, float(value), at, step, run, dataset, digest)
        for key, value, at, step, run, dataset, digest in data.metrics
    )
    return LoggedModel(
        id=row[0],
        experiment_id=row[1],
        name=row[2],
        artifact_uri=row[3],
        run_id=row[4],
        model_type=row[5],
        status=row[6],
        created_at=row[7],
        updated_at=row[8],
        params=data.params,
        tags=data.tags,
        metrics=metrics,
    )
