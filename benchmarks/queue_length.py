"""What a job costs as the queue grows: control CPU per no-op job with 100, 1,000 and 10,000 queued.

    python -m benchmarks.queue_length [--queued 100,1000,10000] [--rounds 1]

The only node of a cluster is held until all jobs are queued. Then it is let go and the first 300 of them run,
one after another, while the others wait. Those are not waited for: the time is bounded. The floor of each
figure is the one of the shortest queue, in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from benchmarks.common import Client, Server, Table, running_server

CLUSTER = "queue"
MEASURED = 300
QUIET_S = 1.0  # what the server puts off until it is quiet is not the next job's
FLAT = 1.3


def cost(queued: int) -> tuple[float, float]:
    """-> CPU seconds per job of (a submit behind `queued` others, a run while they wait)."""
    with running_server() as server:
        client = Client(server)
        _hold_node(server, client)
        names = [f"queued-{number:05d}" for number in range(queued)]
        on_cluster = {"computeId": f"{server.workspace}/computes/{CLUSTER}"}
        client.submit_all(names, "true", **on_cluster)
        time.sleep(QUIET_S)
        before = server.cpu_seconds()
        last = [f"last-{number:03d}" for number in range(MEASURED)]
        client.submit_all(last, "true", **on_cluster)
        submits = server.cpu_seconds() - before
        time.sleep(QUIET_S)
        before = server.cpu_seconds()
        client.call("POST", f"{server.workspace}/jobs/holder/cancel?api-version=2024-01-01")
        ended = client.wait([*names, *last][MEASURED - 1])
        runs = server.cpu_seconds() - before
        if ended["status"] != "Completed":
            raise SystemExit(f"A job did not complete: {ended}")
        return submits / MEASURED, runs / MEASURED


def _hold_node(server: Server, client: Client) -> None:
    scale = {"minNodeCount": 1, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT120S"}
    properties = {"vmSize": "Standard_DS2_v2", "scaleSettings": scale}
    path = f"{server.workspace}/computes/{CLUSTER}"
    client.call(
        "PUT",
        f"{path}?api-version=2024-01-01",
        {"properties": {"computeType": "AmlCompute", "properties": properties}},
    )
    client.submit("holder", "sleep 300", computeId=path)
    while client.states(["holder"])["holder"] != "Running":
        time.sleep(0.02)


def main(argv: Sequence[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks queue_length")
    parser.add_argument("--queued", default="100,1000,10000")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(argv)
    lengths = [int(text) for text in options.queued.split(",")]
    rounds = [[cost(length) for length in lengths] for _ in range(options.rounds)]
    table = Table(
        f"CPU of the control process per job, first {MEASURED} of a queue",
        ("what", "figure", "floor", "ratio", "target", "met"),
    )
    for column, what in enumerate(("submit", "run")):
        floor = statistics.median(figures[0][column] for figures in rounds)
        for place, length in enumerate(lengths):
            figure = statistics.median(figures[place][column] for figures in rounds)
            ratio = figure / floor
            table.add(
                f"{what}, {length:,} queued",
                f"{figure * 1e3:.2f} ms",
                f"{floor * 1e3:.2f} ms ({lengths[0]:,} queued)" if place else None,
                ratio if place else None,
                f"<= {FLAT}x" if place else None,
                ratio <= FLAT if place else None,
            )
    table.show()
    return table


if __name__ == "__main__":
    main()
