"""`tidemill tracking …`: runs and their metrics, as MLflow's protocol tells them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tidemill.cli import text
from tidemill.cli.errors import NOT_FOUND, USAGE, CliError, did_you_mean
from tidemill.cli.framework import command, group
from tidemill.cli.http import checked
from tidemill.cli.mlflow_export import FileStore
from tidemill.cli.output import Column, key, print_list
from tidemill.cli.session import Session
from tidemill.cli.urls import segment

tracking = group("tracking", "MLflow's runs and metrics of the workspace.")
_experiment = click.option("--experiment", "-e", help="Only runs of this experiment.")
_PAGE = 1000


@command(
    tracking,
    "runs",
    """tidemill tracking runs
    tidemill tracking runs --experiment losses --filter "metrics.loss < 0.5" --order-by 'metrics.loss ASC'""",
)
@_experiment
@click.option(
    "--filter", "where", default="", help="In MLflow's language: metrics.loss < 0.5 and params.a = 'b'."
)
@click.option("--order-by", multiple=True, metavar="TEXT", help="metrics.loss ASC; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
def runs(session: Session, experiment: str | None, where: str, order_by: tuple[str, ...], limit: int) -> None:
    """List runs, those of jobs among them, newest first unless ordered."""
    experiments = _experiments(session, experiment)
    found = _runs(session, list(experiments), where, list(order_by), limit)
    rows = [_row(run, experiments) for run in found]
    columns = (
        Column("run", key("run"), wide=True),
        Column("name", key("name"), wide=True),
        Column("experiment", key("experiment")),
        Column("status", key("status")),
        Column("started", key("started_at"), text.ago),
        Column("metrics", key("metrics"), _values, wide=True),
        Column("params", key("params"), _values, wide=True),
    )
    print_list(session, rows, columns, "No runs. A job is one; or set MLFLOW_TRACKING_URI.")


@command(
    tracking,
    "metrics",
    """tidemill tracking metrics losses-1
    tidemill tracking metrics losses-1 --name loss --points 20""",
)
@click.argument("run")
@click.option("--name", "-n", help="The curve of this metric; without, the last value of each.")
@click.option(
    "--points",
    type=click.IntRange(4, 2500),
    default=50,
    show_default=True,
    help="At most so many of a longer curve; its lowest and highest points are kept.",
)
def metrics(session: Session, run: str, name: str | None, points: int) -> None:
    """Show a run's metrics."""
    held = session.client.get(_path(session, "runs/get"), {"run_id": run})["run"]["data"]["metrics"]
    if name is None:
        rows = held
    else:
        known = [metric["key"] for metric in held]
        if name not in known:
            more = did_you_mean(name, known) or f" There are: {', '.join(known) or 'none'}."
            raise CliError(f"Run {run!r} has no metric {name!r}.{more}", NOT_FOUND, "ResourceNotFound")
        query = {"run_ids": run, "metric_key": name, "max_results": points}
        rows = session.client.get(_path(session, "metrics/get-history-bulk-interval"), query)["metrics"]
    columns = (
        Column("metric", key("key"), wide=True),
        Column("step", key("step")),
        Column("value", key("value"), lambda value, _: text.number(value)),
        Column("at", lambda row: _iso(row["timestamp"])),
    )
    print_list(session, rows, columns, f"Run {run} has logged no metrics.")


@command(
    tracking,
    "export",
    """tidemill tracking export --to mlruns
    mlflow server --backend-store-uri ./mlruns""",
)
@click.option("--to", "to", required=True, metavar="DIR", help="A new or empty folder.")
@_experiment
@click.option("--no-artifacts", is_flag=True, help="Without the files of runs and models.")
def export(session: Session, to: str, experiment: str | None, no_artifacts: bool) -> None:
    """Write runs, metrics, files and (without --experiment) registered models as a file store that
    MLflow's own server opens. Datasets, logged models of MLflow 3 and what is deleted are left out."""
    folder = Path(to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CliError(f"--to {to}: is no empty folder. Give a new one.", USAGE, "UsageError")
    experiments = _experiments(session, experiment, whole=True)
    store = FileStore(folder, lambda what: session.note(f"Left out: {what}"))
    count = 0
    for held in experiments.values():
        store.experiment(held)
        for run in _runs(session, [held["experiment_id"]]):
            run_id = run["info"]["run_id"]
            files = store.run(run, lambda metric, run_id=run_id: _history(session, run_id, metric))
            count += 1
            if not no_artifacts:
                _download(session, store, f"ExperimentRun/dcid.{run_id}", files)
    models = 0 if experiment else _export_models(session, store, not no_artifacts)
    session.note(
        f"{count} runs of {len(experiments)} experiments and {models} model versions are in {folder}. "
        f"To see them: mlflow server --backend-store-uri {folder}"
    )


def _export_models(session: Session, store: FileStore, files: bool) -> int:
    count = 0
    for model in _pages(session, "registered-models/search", "registered_models"):
        store.model(model)
    for version in _pages(session, "model-versions/search", "model_versions"):
        folder = store.version(version)
        if folder is not None:
            count += 1
            if files:
                _download(session, store, f"models/{version['name']}:{version['version']}/model", folder)
    return count


def _experiments(session: Session, name: str | None, whole: bool = False) -> dict[str, Any]:
    """id -> experiment; only the one of that name if it is given."""
    found: list[dict[str, Any]] = []
    body: dict[str, Any] = {"max_results": _PAGE}
    while True:
        answer = session.client.call("POST", _path(session, "experiments/search"), body)
        found += answer.get("experiments") or []
        if not answer.get("next_page_token"):
            break
        body["page_token"] = answer["next_page_token"]
    if name is not None:
        names = [held["name"] for held in found]
        if name not in names:
            more = did_you_mean(name, names) or f" There are: {', '.join(names)}."
            raise CliError(f"There is no experiment {name!r}.{more}", NOT_FOUND, "ResourceNotFound")
        found = [held for held in found if held["name"] == name]
    return {held["experiment_id"]: held for held in found}


def _runs(
    session: Session,
    experiments: list[str],
    where: str = "",
    order_by: list[str] | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    body: dict[str, Any] = {"experiment_ids": experiments, "filter": where, "order_by": order_by or []}
    while limit is None or limit > 0:
        body["max_results"] = _PAGE if limit is None else min(limit, _PAGE)
        answer = session.client.call("POST", _path(session, "runs/search"), body)
        found = answer.get("runs") or []
        yield from found
        limit = None if limit is None else limit - len(found)
        if not answer.get("next_page_token"):
            return
        body["page_token"] = answer["next_page_token"]


def _history(session: Session, run_id: str, metric: str) -> Iterator[dict[str, Any]]:
    return _pages(session, "metrics/get-history", "metrics", {"run_id": run_id, "metric_key": metric})


def _pages(
    session: Session, path: str, name: str, query: dict[str, str | int] | None = None
) -> Iterator[dict[str, Any]]:
    asked = dict(query or {})
    while True:
        answer = session.client.get(_path(session, path), asked)
        yield from answer.get(name) or []
        if not answer.get("next_page_token"):
            return
        asked["page_token"] = answer["next_page_token"]


def _download(session: Session, store: FileStore, remote: str, folder: Path, below: str = "") -> None:
    base = f"/mlflow/v2.0{session.workspace_id()}/api/2.0/mlflow-artifacts/artifacts"
    for file in session.client.get(base, {"path": f"{remote}/{below}".rstrip("/")})["files"]:
        path = f"{below}/{file['path']}".lstrip("/")
        if file.get("is_dir"):
            _download(session, store, remote, folder, path)
            continue
        target = store.place(folder, path)
        if target is not None:
            where = "/".join(segment(part) for part in f"{remote}/{path}".split("/"))
            target.write_bytes(checked(session.client.request("GET", f"{base}/{where}")).body)


def _row(run: dict[str, Any], experiments: dict[str, Any]) -> dict[str, Any]:
    info, data = run["info"], run["data"]
    return {
        "run": info["run_id"],
        "name": info["run_name"],
        "experiment": experiments[info["experiment_id"]]["name"],
        "status": info["status"],
        "started_at": _iso(info["start_time"]),
        "ended_at": _iso(info["end_time"]) if info.get("end_time") else None,
        "metrics": {metric["key"]: metric["value"] for metric in data["metrics"]},
        "params": {param["key"]: param["value"] for param in data["params"]},
    }


def _values(values: dict[str, Any], now: float) -> str:
    return " ".join(f"{name}={text.number(value)}" for name, value in values.items())


def _iso(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat().replace("+00:00", "Z")


def _path(session: Session, path: str) -> str:
    return f"/mlflow/v2.0{session.workspace_id()}/api/2.0/mlflow/{path}"
