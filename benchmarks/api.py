"""ARM reads per CPU second of the control process, against a bare ASGI handler with the same bytes.

    python -m benchmarks.api [--seconds 3] [--rounds 3] [--connections 16]

The floor (benchmarks/bare.py) is uvicorn with uvloop and httptools, one SQLite read and nothing else. Both
take turns within each round; the figures are medians over the rounds. CPU time is the server process's own,
from /proc/PID/stat; the load comes from a third process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bare, load
from benchmarks.common import Client, Server, Table, process_cpu_seconds, running_server

JOBS = 100
VERSION = "api-version=2024-01-01"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    ours: load.Target
    floor: load.Target
    target: float
    goal: float


def prepare(server: Server) -> list[str]:
    """100 ended jobs and a cluster. -> the paths of all of them, the cluster last."""
    client = Client(server)
    names = [f"api-{number:03d}" for number in range(JOBS)]
    client.submit_all(names, "true", tags={"team": "bench"}, environmentVariables={"SEED": "7"})
    while client.unfinished():
        time.sleep(0.05)
    cluster = f"{server.workspace}/computes/idle?{VERSION}"
    scale = {"minNodeCount": 0, "maxNodeCount": 2, "nodeIdleTimeBeforeScaleDown": "PT120S"}
    properties = {"vmSize": "Standard_DS2_v2", "scaleSettings": scale}
    client.call("PUT", cluster, {"properties": {"computeType": "AmlCompute", "properties": properties}})
    return [*(f"{server.workspace}/jobs/{name}?{VERSION}" for name in names), cluster]


def bodies(server: Server, paths: list[str]) -> list[tuple[str, bytes]]:
    """What the floor has to answer: our answers, one row each. The cluster is not among its newest 100."""
    client = Client(server)
    names = [*(f"job-{number:03d}" for number in range(JOBS)), "cluster"]
    return [(name, client.fetch(path)) for name, path in zip(names, paths, strict=True)]


def cases(server: Server, paths: list[str], port: int, tls_port: int) -> list[Case]:
    authorization = {"Authorization": f"Bearer {server.token}"}
    https = server.state["addresses"]["https"].split("://", 1)[1]
    ca = str(server.home / "tls" / "ca.pem")
    listed = f"{server.workspace}/jobs?{VERSION}"

    def ours(path: str) -> load.Target:
        return load.Target(server.netloc, path, authorization)

    def floor(path: str) -> load.Target:
        # The same header, so that both parse the same request.
        return load.Target(f"127.0.0.1:{port}", path, authorization)

    one = f"/one/job-{JOBS // 2:03d}"
    return [
        Case("GET one job", ours(paths[JOBS // 2]), floor(one), 0.4, 0.6),
        Case("GET one compute", ours(paths[-1]), floor("/one/cluster"), 0.4, 0.6),
        Case(f"list of {JOBS} jobs", ours(listed), floor("/list"), 0.4, 0.4),
        Case(
            "GET one job, TLS",
            load.Target(https, paths[JOBS // 2], authorization, ca),
            load.Target(f"localhost:{tls_port}", one, authorization, ca),
            0.4,
            0.6,
        ),
    ]


def per_cpu_second(pid: int, target: load.Target, connections: int, seconds: float) -> tuple[float, float]:
    """-> (requests per CPU second of `pid`, requests per second)."""
    before = process_cpu_seconds(pid)
    answer = load.run(target, connections=connections, seconds=seconds)
    used = process_cpu_seconds(pid) - before
    return answer.requests / used, answer.requests / answer.seconds


def check_same(server: Server, port: int) -> None:
    """The floor's list must be what ours is, or the comparison would mean nothing."""
    ours = json.loads(Client(server).fetch(f"{server.workspace}/jobs?{VERSION}"))
    theirs = json.loads(Client(server, f"127.0.0.1:{port}").fetch("/list"))
    named: Any = [sorted(item["name"] for item in answer["value"]) for answer in (ours, theirs)]
    if named[0] != named[1]:
        raise SystemExit("The floor's list is not the server's.")


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks api")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args(argv)
    table = Table(
        f"ARM reads, requests per CPU second, {options.connections} connections",
        ("what", "figure", "floor", "ratio", "target", "met", "req/s"),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-bare-")))
        server = stack.enter_context(running_server())
        paths = prepare(server)
        items = bodies(server, paths)
        tls = server.home / "tls"
        pid, port = stack.enter_context(bare.running(folder, items))
        tls_pid, tls_port = stack.enter_context(
            bare.running(folder, items, str(tls / "server.pem"), str(tls / "server.key"))
        )
        check_same(server, port)
        for case in cases(server, paths, port, tls_port):
            floor_pid = tls_pid if case.ours.ca else pid
            for target, owner in ((case.ours, server.state["pid"]), (case.floor, floor_pid)):
                per_cpu_second(owner, target, options.connections, 0.5)  # warm
            ours, theirs = [], []
            for _ in range(options.rounds):
                ours.append(
                    per_cpu_second(server.state["pid"], case.ours, options.connections, options.seconds)
                )
                theirs.append(per_cpu_second(floor_pid, case.floor, options.connections, options.seconds))
            ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
            goal = f", goal {case.goal:.0%}" if case.goal > case.target else ""
            table.add(
                case.name,
                f"{statistics.median(a[0] for a in ours):.0f}",
                f"{statistics.median(b[0] for b in theirs):.0f}",
                ratio,
                f">= {case.target:.0%}{goal}",
                ratio >= case.target,
                f"{statistics.median(a[1] for a in ours):.0f}",
            )
    table.show()
    return table


if __name__ == "__main__":
    main()
