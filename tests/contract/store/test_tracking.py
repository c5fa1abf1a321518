"""The tracking store: MLflow's rules for experiments, runs, metrics, params and tags."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.domain.model import Touched
from tidemill.store import tracking as tracking_module
from tidemill.store.rows import fold
from tidemill.store.tracking import (
    DELETED,
    VERSION,
    Experiment,
    LoggedModel,
    Metric,
    ModelMetric,
    Run,
    TrackingStore,
)

WS = "/subscriptions/S/main"


@pytest.fixture
async def tracking(tmp_path: Path) -> AsyncIterator[TrackingStore]:
    store = TrackingStore(tmp_path / "tracking.db")
    await store.create_experiment(WS, Experiment("e1", "Default", "azureml://x", created_at=1, updated_at=1))
    await store.create_run(WS, Run("r1", "e1", "first", "me", start_at=10), [("mlflow.user", "me")])
    yield store
    await store.close()


async def test_experiments(tracking: TrackingStore) -> None:
    second = Experiment("e2", "Second", tags={"team": "a"}, created_at=2, updated_at=2)
    await tracking.create_experiment(WS, second)
    assert await tracking.get_experiment(WS.upper(), "e2") == second
    assert (await tracking.get_experiment_by_name(WS, "Default")).id == "e1"
    with pytest.raises(NotFound, match="'Nope'"):
        await tracking.get_experiment_by_name(WS, "Nope")
    with pytest.raises(NotFound):
        await tracking.get_experiment("/elsewhere", "e2")
    for taken in (Experiment("e3", "Second"), Experiment("e2", "Third")):
        with pytest.raises(Conflict):
            await tracking.create_experiment(WS, taken)
    await tracking.create_experiment("/elsewhere", second)
    assert [e.id for e in await tracking.search_experiments(WS)] == ["e2", "e1"]
    assert [e.id for e in await tracking.search_experiments(WS, limit=1)] == ["e2"]
    assert [e.id for e in await tracking.search_experiments(WS, after="e2")] == ["e1"]
    await tracking.rename_experiment(WS, "e2", "Renamed", 5)
    await tracking.set_experiment_tag(WS, "e2", "team", "b")
    renamed = await tracking.get_experiment(WS, "e2")
    assert (renamed.name, renamed.updated_at, renamed.tags) == ("Renamed", 5, {"team": "b"})
    with pytest.raises(Conflict):
        await tracking.rename_experiment(WS, "e2", "Default", 6)


async def test_a_deleted_experiment_takes_its_runs_and_brings_them_back(tracking: TrackingStore) -> None:
    await tracking.create_run(WS, Run("r2", "e1", start_at=20))
    await tracking.delete_run(WS, "r2", 30)
    await tracking.delete_experiment(WS, "e1", 40)
    assert await tracking.search_experiments(WS) == ()
    assert [e.lifecycle for e in await tracking.search_experiments(WS, lifecycle=None)] == [DELETED]
    assert await tracking.search_runs(WS) == ()
    with pytest.raises(InvalidRequest, match="deleted"):
        await tracking.create_run(WS, Run("r3", "e1"))
    with pytest.raises(InvalidRequest, match="deleted"):
        await tracking.rename_experiment(WS, "e1", "x", 41)
    with pytest.raises(Conflict, match="restore"):
        await tracking.create_experiment(WS, Experiment("e9", "Default"))
    with pytest.raises(NotFound):
        await tracking.delete_experiment(WS, "e1", 41)
    await tracking.restore_experiment(WS, "e1", 50)
    assert [r.run.id for r in await tracking.search_runs(WS)] == ["r1"]
    await tracking.restore_run(WS, "r2", 60)
    assert [r.run.id for r in await tracking.search_runs(WS)] == ["r2", "r1"]


async def test_runs(tracking: TrackingStore) -> None:
    record = await tracking.get_run(WS, "r1")
    assert record.run == Run("r1", "e1", "first", "me", start_at=10)
    assert record.tags == {"mlflow.user": "me"}
    with pytest.raises(Conflict):
        await tracking.create_run(WS, Run("r1", "e1"))
    with pytest.raises(NotFound, match="'e7'"):
        await tracking.create_run(WS, Run("r7", "e7"))
    ended = await tracking.update_run(WS, "r1", status="FINISHED", end_at=99)
    assert (ended.status, ended.end_at, ended.name) == ("FINISHED", 99, "first")
    with pytest.raises(NotFound):
        await tracking.get_run("/elsewhere", "r1")
    # The same id in another workspace is another run.
    await tracking.create_experiment("/elsewhere", Experiment("e1", "Default"))
    await tracking.create_run("/elsewhere", Run("r1", "e1"))
    assert (await tracking.get_run("/elsewhere", "r1")).run.status == "RUNNING"


async def test_metrics_keep_nan_and_infinity_and_know_the_latest(tracking: TrackingStore) -> None:
    points = [
        Metric("loss", 0.5, 1000, 0),
        Metric("loss", math.nan, 1001, 1),
        Metric("loss", math.inf, 1002, 2),
        Metric("loss", -math.inf, 999, 3),
        Metric("acc", 1e-300, 1000, 0),
    ]
    await tracking.log_batch(WS, "r1", points)
    history = await tracking.metric_history(WS, "r1", "loss")
    assert [(m.timestamp_ms, m.step) for m in history] == [(999, 3), (1000, 0), (1001, 1), (1002, 2)]
    assert history[0].value == -math.inf
    assert math.isnan(history[2].value)
    page = await tracking.metric_history(WS, "r1", "loss", after=history[0], limit=1)
    assert page == (history[1],)
    assert await tracking.metric_history(WS, "r1", "loss", after=history[2]) == (history[3],)
    assert await tracking.metric_history(WS, "r1", "nothing") == ()
    # The highest step is the latest, not the highest time; an older point does not replace it.
    assert await tracking.latest(WS, "r1") == (points[4], points[3])
    await tracking.log_batch(WS, "r1", [Metric("loss", 7.0, 5000, 1)])
    assert (await tracking.latest(WS, "r1"))[1] == points[3]
    # A batch that a client sends again adds nothing.
    await tracking.log_batch(WS, "r1", points)
    assert len(await tracking.metric_history(WS, "r1", "loss")) == 5
    assert len(await tracking.metric_history(WS, "r1", "acc")) == 1


async def test_params_are_written_once_and_a_batch_is_all_or_nothing(tracking: TrackingStore) -> None:
    await tracking.log_batch(WS, "r1", params=[("lr", "0.1")])
    await tracking.log_batch(WS, "r1", params=[("lr", "0.1")])
    results = await asyncio.gather(
        tracking.log_batch(WS, "r1", [Metric("m", 1.0, 1)], [("new", "1"), ("lr", "0.2")], [("t", "v")]),
        tracking.log_batch(WS, "r1", [Metric("n", 1.0, 1)]),
        return_exceptions=True,
    )
    assert isinstance(results[0], Conflict)
    assert "'0.1'" in str(results[0])
    assert results[1] is None
    record = await tracking.get_run(WS, "r1")
    assert record.params == {"lr": "0.1"}
    assert record.tags == {"mlflow.user": "me"}
    assert [m.key for m in record.metrics] == ["n"]


async def test_tags(tracking: TrackingStore) -> None:
    await tracking.set_tag(WS, "r1", "a", "1")
    await tracking.set_tag(WS, "r1", "a", "2")
    assert (await tracking.get_run(WS, "r1")).tags["a"] == "2"
    await tracking.delete_tag(WS, "r1", "a")
    with pytest.raises(NotFound, match="'a'"):
        await tracking.delete_tag(WS, "r1", "a")
    await tracking.delete_run(WS, "r1", 5)
    with pytest.raises(InvalidRequest, match="deleted"):
        await tracking.set_tag(WS, "r1", "a", "1")


async def test_search_runs_pages_by_start(tracking: TrackingStore) -> None:
    await tracking.create_experiment(WS, Experiment("e2", "Second"))
    for number in range(2, 8):
        await tracking.create_run(
            WS, Run(f"r{number}", "e2" if number % 2 else "e1", start_at=10 * (number // 2))
        )

    async def ids(*args: object, **named: object) -> list[str]:
        return [r.run.id for r in await tracking.search_runs(WS, *args, **named)]  # type: ignore[arg-type]

    newest = ["r7", "r6", "r5", "r4", "r3", "r2", "r1"]
    assert await ids() == newest
    assert await ids(ascending=True) == newest[::-1]
    assert await ids(limit=3) == newest[:3]
    assert await ids(limit=3, after="r5") == newest[3:6]
    assert await ids(["e2"]) == ["r7", "r5", "r3"]
    assert await ids([]) == []
    assert await ids(["e1", "e2"], limit=2, after="r2", ascending=True) == ["r3", "r4"]


async def test_listeners_hear_of_runs_and_it_opens_again(tracking: TrackingStore, tmp_path: Path) -> None:
    heard: list[frozenset[Touched]] = []
    tracking.on_commit(heard.append)
    await tracking.log_batch(WS, "r1", [Metric("m", 1.0, 1)])
    assert heard == [{Touched("run", "r1")}]
    again = TrackingStore(tmp_path / "tracking.db")
    assert [m.key for m in await again.latest(WS, "r1")] == ["m"]
    await again.close()


@pytest.mark.parametrize("steps", ["each its own", "all one"])
async def test_a_long_metric_is_thinned_out_with_its_extremes(tracking: TrackingStore, steps: str) -> None:
    points = [
        Metric("m", math.sin(i / 50), 1000 + i, i if steps == "each its own" else 0) for i in range(5000)
    ]
    points[2345] = Metric("m", 99.0, 1000 + 2345, points[2345].step)
    points[3456] = Metric("m", -99.0, 1000 + 3456, points[3456].step)
    points[100] = Metric("m", math.nan, 1100, points[100].step)
    await tracking.log_batch(WS, "r1", metrics=points)
    every = (-(2**63), 2**63 - 1)
    curve = await tracking.sampled(WS, "r1", "m", 100, every)
    assert 50 <= len(curve) <= 100
    assert set(curve) <= set(points)
    assert {points[0], points[2345], points[3456], points[-1]} <= set(curve)
    assert list(curve) == sorted(curve, key=lambda point: (point.step, point.timestamp_ms))
    if steps == "each its own":
        part = await tracking.sampled(WS, "r1", "m", 4, (10, 12))
        assert part == tuple(points[10:13])
    assert await tracking.sampled(WS, "r1", "absent", 100, every) == ()
    assert await tracking.sampled(WS, "absent", "m", 100, every) == ()


async def test_steps_at_the_ends_of_64_bits_are_thinned_out(tracking: TrackingStore) -> None:
    points = [Metric("m", float(i), i, (i - 50) * 2**56) for i in range(101)]
    await tracking.log_batch(WS, "r1", metrics=points)
    curve = await tracking.sampled(WS, "r1", "m", 10, (-(2**63), 2**63 - 1))
    assert len(curve) <= 10
    assert (curve[0], curve[-1]) == (points[0], points[-1])


async def test_logged_models(tracking: TrackingStore) -> None:
    model = LoggedModel("m-1", "e1", "net", "mlflow-artifacts:/x/net", "r1", created_at=1, params={"p": "1"})
    assert await tracking.create_logged_model(WS, model, "elsewhere") == model
    second = await tracking.create_logged_model(WS, replace(model, id="m-2"), "mlflow-artifacts:/x/m-2")
    assert second.artifact_uri == "mlflow-artifacts:/x/m-2"
    with pytest.raises(NotFound, match="'nope'"):
        await tracking.create_logged_model(WS, replace(model, id="m-3", experiment_id="nope"), "x")
    early, late = (ModelMetric("acc", value, 5, step, "r1") for step, value in ((1, 0.5), (2, math.inf)))
    for point in (late, early):
        await tracking.log_batch(WS, "r1", about={"m-1": [point]}, at=7)
    held = await tracking.get_logged_model(WS, "m-1")
    assert (held.metrics, held.updated_at) == ((late,), 7)
    with pytest.raises(NotFound):
        await tracking.log_batch(WS, "r1", params=[("x", "1")], about={"absent": [late]})
    assert (await tracking.get_run(WS, "r1")).params == {}  # all or nothing
    await tracking.change_logged_model(WS, "m-2", lambda m: replace(m, status="LOGGED_MODEL_READY"), 9)
    assert [m.status for m in await tracking.search_logged_models(WS, ["e1"])] == [
        "LOGGED_MODEL_READY",
        "LOGGED_MODEL_PENDING",
    ]
    await tracking.delete_logged_model(WS, "m-1", 9)
    with pytest.raises(NotFound):
        await tracking.get_logged_model(WS, "m-1")
    await tracking.drop_run(WS, "r1")
    assert await tracking.search_logged_models(WS, ["e1"]) == ()


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "tracking.db"
    first = Path(tracking_module.__file__).with_name("schema_tracking.sql").read_text()
    with closing(sqlite3.connect(path)) as old:
        old.executescript(first + "PRAGMA user_version=1;")
        old.execute(
            "INSERT INTO experiments VALUES (1, ?, 'e1', 'Default', '', 'active', 1, 1, NULL)", (fold(WS),)
        )
        old.commit()
    store = TrackingStore(path)
    assert [e.id for e in await store.search_experiments(WS)] == ["e1"]
    await store.create_logged_model(WS, LoggedModel("m-1", "e1", "net", "x"), "y")
    await store.close()
    with closing(sqlite3.connect(path)) as again:
        assert again.execute("PRAGMA user_version").fetchone() == (VERSION,)
