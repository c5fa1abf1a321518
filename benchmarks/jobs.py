"""No-op jobs through the whole path, over HTTP, against floors taken in the same run.

    python -m benchmarks.jobs [--jobs 1000] [--single 100] [--nodes 4]

Once without a sandbox, once with the whole of it, where it can be had.
Floors: `posix_spawn` of /bin/true; one fsynced SQLite commit per job (a bare queue).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import Client, Server, Table, running_server


def floor_spawn(count: int = 300) -> float:
    """Seconds per posix_spawn + wait of /bin/true, median."""
    taken: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def floor_commits(count: int = 300) -> float:
    """Seconds per synced SQLite commit of one row, median."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "queue.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT)")
        taken: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            database.execute("INSERT INTO jobs (state) VALUES ('done')")
            taken.append(time.perf_counter() - started)
        database.close()
    return statistics.median(taken)


def single(client: Client, count: int, prefix: str = "one") -> list[float]:
    """Seconds from the PUT to the answer that the job has ended, one after another on a warm node."""
    taken: list[float] = []
    for i in range(count):
        started = time.perf_counter()
        client.submit(f"{prefix}-{i}-{os.getpid()}", "true")
        client.wait(f"{prefix}-{i}-{os.getpid()}")
        taken.append(time.perf_counter() - started)
    return taken


def open_cluster(client: Client, nodes: int) -> str:
    """A cluster whose nodes are open and stay open -> its id."""
    compute = f"{client.server.workspace}/computes/warm"
    scale = {"minNodeCount": nodes, "maxNodeCount": nodes, "nodeIdleTimeBeforeScaleDown": "PT2M"}
    inner = {"vmSize": "Standard_DS3_v2", "scaleSettings": scale}
    body = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": inner}}
    client.call("PUT", f"{compute}?api-version=2023-08-01-preview", body)
    deadline = time.monotonic() + 30
    while client.call("GET", f"/api/v1{compute}")["nodes"]["idle"] < nodes:
        if time.monotonic() > deadline:
            raise SystemExit(f"{nodes} nodes were not open after 30 s")
        time.sleep(0.02)
    return compute


def many(client: Client, count: int, prefix: str, compute: str) -> tuple[float, float]:
    """-> (seconds to submit them all, seconds until the last has ended)."""
    started = time.perf_counter()
    names = [f"{prefix}-{i}-{os.getpid()}" for i in range(count)]
    client.submit_all(names, "true", computeId=compute)
    submitted = time.perf_counter() - started
    while client.unfinished():
        time.sleep(0.02)
    taken = time.perf_counter() - started
    states = client.states(names)
    wrong = {name: state for name, state in states.items() if state != "Completed"}
    if wrong:
        raise SystemExit(f"{len(wrong)} jobs did not complete: {dict(list(wrong.items())[:3])}")
    return submitted, taken


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks jobs")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--single", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=4, help="nodes that share this host's cores")
    arguments = parser.parse_args(argv)
    spawn, commit = floor_spawn(), floor_commits()
    table = Table("No-op jobs", ("what", "figure", "floor", "ratio", "target", "met"))
    levels = ("plain", "full") if os.geteuid() == 0 and shutil.which("bwrap") else ("plain",)
    for level in levels:
        with running_server(isolation=level) as server:
            _measure(table, level, server, arguments, spawn, commit)
    table.show()
    return table


def _measure(
    table: Table, level: str, server: Server, arguments: argparse.Namespace, spawn: float, commit: float
) -> None:
    """The rows of one level of isolation."""
    client = Client(server)
    started = time.perf_counter()
    client.submit("first", "true")
    client.wait("first")
    cold = time.perf_counter() - started
    table.add(
        f"{level}: from zero nodes",
        f"{cold * 1e3:.0f} ms",
        f"{spawn * 1e3:.2f} ms",
        cold / spawn,
        "<= 300 ms, goal 120",
        cold <= 0.300,
    )
    times = single(client, arguments.single)
    middle = statistics.median(times)
    table.add(
        f"{level}: one job, warm, p50",
        f"{middle * 1e3:.1f} ms",
        f"{spawn * 1e3:.2f} ms",
        middle / spawn,
        "<= 25 ms, goal 10",
        middle <= 0.025,
    )
    worst = statistics.quantiles(times, n=100)[98] if len(times) > 2 else max(times)
    table.add(f"{level}: one job, warm, p99", f"{worst * 1e3:.1f} ms", None, None, None, None)
    compute = open_cluster(client, arguments.nodes)
    cpu = server.cpu_seconds()
    submitted, taken = many(client, arguments.jobs, "many", compute)
    used = server.cpu_seconds() - cpu
    rate = arguments.jobs / taken
    table.add(
        f"{level}: {arguments.jobs} jobs queued, {arguments.nodes} nodes",
        f"{rate:.0f} jobs/s",
        f"{1 / commit:.0f} commits/s",
        rate * commit,
        ">= 250 jobs/s, goal 600",
        rate >= 250,
    )
    table.add("  submitted", f"{arguments.jobs / submitted:.0f} jobs/s", None, None, None, None)
    table.add("  control process", f"{used / arguments.jobs * 1e3:.2f} ms CPU/job", None, None, None, None)


if __name__ == "__main__":
    main()
