"""A sweep of trials that only log one number: how many a second, against the same trials as plain jobs.

    python -m benchmarks.sweeps [--trials 1000] [--nodes 4]

Each trial posts its metric by curl, the smallest thing that can. Floor: as many command jobs with the same
command, submitted by four clients at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from typing import Any

from benchmarks.common import Client, Table, running_server
from benchmarks.jobs import open_cluster

BODY = (
    '{\\"run_id\\":\\"$MLFLOW_RUN_ID\\",\\"key\\":\\"score\\",\\"value\\":%s,\\"timestamp\\":1,\\"step\\":0}'
)
METRIC = (
    'curl -sf -o /dev/null --cacert $REQUESTS_CA_BUNDLE -H "Authorization: Bearer $MLFLOW_TRACKING_TOKEN" '
    f'-H "Content-Type: application/json" -d "{BODY}" '
    "$MLFLOW_TRACKING_URI/api/2.0/mlflow/runs/log-metric"
)


def sweep(client: Client, name: str, trials: int, compute: str, algorithm: dict[str, Any]) -> float:
    """Seconds from the submit to the end."""
    body = {
        "jobType": "Sweep",
        "computeId": compute,
        "searchSpace": {"x": ["uniform", [0.0, 1.0]]},
        "samplingAlgorithm": algorithm,
        "objective": {"primaryMetric": "score", "goal": "maximize"},
        "limits": {"maxTotalTrials": trials, "maxConcurrentTrials": 32},
        "trial": {"command": METRIC % "${{search_space.x}}"},
    }
    started = time.perf_counter()
    path = f"{client.server.workspace}/jobs/{name}?api-version=2024-01-01-preview"
    client.call("PUT", path, {"properties": body})
    while (done := client.wait(name))["status"] not in ("Completed", "Failed", "Canceled"):
        pass
    if done["status"] != "Completed":
        raise SystemExit(f"{name}: {done['status']} {done['error']}")
    return time.perf_counter() - started


def plain(client: Client, count: int, compute: str) -> float:
    started = time.perf_counter()
    names = [f"plain-{n}-{os.getpid()}" for n in range(count)]
    client.submit_all(names, METRIC % "0.5", computeId=compute)
    while client.unfinished():
        time.sleep(0.01)
    return time.perf_counter() - started


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks sweeps")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=4)
    arguments = parser.parse_args(argv)
    if shutil.which("curl") is None:
        raise SystemExit("the trials of this benchmark need curl")
    table = Table("Sweeps", ("what", "figure", "floor", "ratio", "target", "met"))
    with running_server() as server:
        client = Client(server)
        compute = open_cluster(client, arguments.nodes)
        floor = arguments.trials / plain(client, arguments.trials, compute)
        for title, algorithm, count in (
            ("random", {"samplingAlgorithmType": "Random", "seed": 1}, arguments.trials),
            ("bayesian", {"samplingAlgorithmType": "Bayesian", "seed": 1}, arguments.trials // 5),
        ):
            rate = count / sweep(client, f"sweep-{title}-{os.getpid()}", count, compute, algorithm)
            goal = title == "random"
            table.add(
                f"{count} trials, {title}",
                f"{rate:.0f} trials/s",
                f"{floor:.0f} jobs/s",
                rate / floor,
                ">= 30/s" if goal else None,
                rate >= 30 if goal else None,
            )
    table.show()
    return table


if __name__ == "__main__":
    main()
