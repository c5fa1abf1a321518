"""MLflow's protocol under load: the first metric, points by log-batch, a run of a million points.

    python -m benchmarks.tracking [--points 1000000] [--seconds 5]

The floor of log-batch is the same points put into the same tables by SQLite alone, a commit for each batch.
The first metric is measured inside jobs on a warm node: from the start that the server notes to the answer
that the metric is on disk. Its floor is the same program, outside of a job, that sends nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import msgspec

from benchmarks.common import Client, Server, Table, running_server
from tidemill.store import tracking as tracking_store

FIRST_MS, POINTS_S = 50.0, 5000.0
PLOT_MS, PAGE_MS = 2000.0, 200.0
BATCH = 1000
JOBS = 10
LOG_ONE = r"""
import os, socket, time
def log(key, value):
    line = socket.create_connection((host, int(port)))
    body = "{\"run_id\":\"%s\",\"key\":\"%s\",\"value\":%r}" % (os.environ["MLFLOW_RUN_ID"], key, value)
    head = "POST /%s/api/2.0/mlflow/runs/log-metric HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"
    head += "Connection: close\r\nContent-Length: %d\r\n\r\n"
    line.sendall((head % (path, at, os.environ["MLFLOW_TRACKING_TOKEN"], len(body)) + body).encode())
    answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer
if "MLFLOW_TRACKING_URI" in os.environ:
    at, path = os.environ["MLFLOW_TRACKING_URI"].split("://")[1].split("/", 1)
    host, port = at.split(":")
    began = time.time()
    log("first", 1.0)
    done = time.time()
    log("done_at", done)
    log("own", done - began)
"""


def main(arguments: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args(arguments)
    table = Table("Tracking", ("what", "measured", "floor", "ratio", "target", "met"))
    with running_server() as server:
        _first_metric(server, table)
        _log_batch(server, table, chosen.seconds)
        _long_run(server, table, chosen.points)
    table.show()
    return table


def _api(server: Server) -> str:
    return f"/mlflow/v2.0{server.workspace}/api/2.0/mlflow"


def _new_run(client: Client) -> str:
    made = client.call("POST", f"{_api(client.server)}/runs/create", {"experiment_id": "0"})
    return made["run"]["info"]["run_id"]


def _first_metric(server: Server, table: Table) -> None:
    client = Client(server)
    client.submit("warm", "true")
    client.wait("warm")
    whole: list[float] = []
    own: list[float] = []
    for number in range(JOBS):
        name = f"first-{number}"
        client.submit(name, f"python3 -S -c '{LOG_ONE}'")
        job = client.wait(name)
        if job["status"] != "Completed":
            raise SystemExit(f"{name} ended as {job['status']}: {job['error']}")
        metrics = client.call("GET", f"/api/v1{server.workspace}/jobs/{name}")["metrics"]
        whole.append((metrics["done_at"] - datetime.fromisoformat(job["started_at"]).timestamp()) * 1000)
        own.append(metrics["own"] * 1000)
    p50, floor = statistics.median(whole), _alone()
    table.add(
        "first metric of a job, after its start (p50)",
        f"{p50:.1f} ms",
        f"{floor:.1f} ms",
        p50 / floor,
        f"<= {FIRST_MS:.0f} ms",
        p50 <= FIRST_MS,
    )
    table.add("  of it the call itself (p50)", f"{statistics.median(own):.1f} ms", None, None, None, None)


def _alone() -> float:
    """Milliseconds of the program by itself."""
    times: list[float] = []
    for _ in range(JOBS):
        began = time.perf_counter()
        subprocess.run(["python3", "-S", "-c", LOG_ONE], check=True, env={"PATH": os.defpath})
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _batch(run_id: str, key: str, start: int, count: int = BATCH) -> bytes:
    metrics = [
        {"key": key, "value": math.sin(i / 1000), "timestamp": 1_700_000_000_000 + i, "step": i}
        for i in range(start, start + count)
    ]
    return msgspec.json.encode({"run_id": run_id, "metrics": metrics})


def _log_batch(server: Server, table: Table, seconds: float) -> None:
    client = Client(server)
    run_id = _new_run(client)
    bodies = [_batch(run_id, "loss", number * BATCH) for number in range(200)]
    path = f"{_api(server)}/runs/log-batch"
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < seconds and count < len(bodies):
        client.fetch(path, "POST", bodies[count])
        count += 1
    rate = count * BATCH / (time.perf_counter() - began)
    floor = _bare(count)
    table.add(
        f"points by log-batch of {BATCH}, one client",
        f"{rate:.0f} /s",
        f"{floor:.0f} /s",
        floor / rate,
        f">= {POINTS_S:.0f} /s",
        rate >= POINTS_S,
    )


def _bare(batches: int) -> float:
    """Points a second of SQLite alone."""
    schema = Path(tracking_store.__file__).with_name("schema_tracking.sql").read_text()
    with (
        tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder,
        closing(sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)) as db,
    ):
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(schema)
        began = time.perf_counter()
        for number in range(batches):
            start = number * BATCH
            rows = [(1, start + i, start + i, math.sin(i), 0) for i in range(BATCH)]
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT OR IGNORE INTO points VALUES (?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
        return batches * BATCH / (time.perf_counter() - began)


def _long_run(server: Server, table: Table, points: int) -> None:
    client = Client(server)
    run_id = _new_run(client)
    path = f"{_api(server)}/runs/log-batch"
    began = time.perf_counter()
    for start in range(0, points, BATCH):
        client.fetch(path, "POST", _batch(run_id, "loss", start))
    spike = {
        "run_id": run_id,
        "key": "loss",
        "value": 99.0,
        "timestamp": 1_700_000_000_000,
        "step": points // 3,
    }
    client.call("POST", f"{_api(server)}/runs/log-metric", spike)
    table.add(f"{points} points logged", f"{time.perf_counter() - began:.1f} s", None, None, None, None)
    query = f"run_ids={run_id}&metric_key=loss&max_results=1000"
    plot = f"{_api(server)}/metrics/get-history-bulk-interval?{query}"
    curve, took, waited = _plotted(client, plot)
    assert any(point["value"] == 99.0 for point in curve), "the highest point is lost"
    assert len(curve) <= 1000
    table.add(
        f"{points} points as a curve of {len(curve)} (p50)",
        f"{took:.0f} ms",
        None,
        None,
        f"<= {PLOT_MS:.0f} ms",
        took <= PLOT_MS,
    )
    table.add("  longest wait of another call meanwhile", f"{waited:.0f} ms", None, None, None, None)
    page, times = "", []
    for _ in range(20):
        asked = f"{_api(server)}/metrics/get-history?run_id={run_id}&metric_key=loss&page_token={page}"
        began = time.perf_counter()
        page = client.call("GET", asked)["next_page_token"]
        times.append((time.perf_counter() - began) * 1000)
    p50 = statistics.median(times)
    table.add(
        "a page of 10,000 of its points (p50)",
        f"{p50:.0f} ms",
        None,
        None,
        f"<= {PAGE_MS:.0f} ms",
        p50 <= PAGE_MS,
    )


def _plotted(client: Client, plot: str) -> tuple[list[dict[str, float]], float, float]:
    """-> (the curve, ms of one plot, longest ms of a status call while plots are made)."""
    times: list[float] = []
    waits: list[float] = []
    done = threading.Event()

    def ask() -> None:
        other = Client(client.server)
        while not done.is_set():
            began = time.perf_counter()
            other.call("GET", "/api/v1/status")
            waits.append((time.perf_counter() - began) * 1000)
            done.wait(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(5):
            began = time.perf_counter()
            curve = client.call("GET", plot)["metrics"]
            times.append((time.perf_counter() - began) * 1000)
    finally:
        done.set()
        asking.join()
    return curve, statistics.median(times), max(waits)


if __name__ == "__main__":
    main()
