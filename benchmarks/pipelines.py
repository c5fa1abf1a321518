"""Pipelines of no-op steps on warm nodes, over HTTP: what a step costs besides itself.

    python -m benchmarks.pipelines [--chain 20] [--wide 200] [--nodes 4]

Floor: a no-op job of its own on a warm node, in the same run. The overhead of a step is the time of a chain
divided by its steps, less nothing: the no-op itself is in it.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from benchmarks.common import Client, Table, running_server
from benchmarks.jobs import open_cluster, single


def register(client: Client) -> str:
    spec = {
        "type": "command",
        "name": "nothing",
        "command": "true $[[${{inputs.after}}]]; echo x > ${{outputs.done}}/x",
        "inputs": {"n": {"type": "integer"}, "after": {"type": "uri_folder", "optional": True}},
        "outputs": {"done": {"type": "uri_folder"}},
    }
    path = f"{client.server.workspace}/components/nothing/versions/1?api-version=2024-01-01-preview"
    return str(client.call("PUT", path, {"properties": {"componentSpec": spec}})["id"])


def steps(component: str, count: int, chain: bool, salt: int) -> dict[str, Any]:
    jobs: dict[str, Any] = {}
    for number in range(count):
        inputs: dict[str, Any] = {"n": {"job_input_type": "literal", "value": str(salt + number)}}
        if chain and number:
            binding = f"${{{{parent.jobs.s{number - 1}.outputs.done}}}}"
            inputs["after"] = {"job_input_type": "literal", "value": binding}
        jobs[f"s{number}"] = {"type": "command", "componentId": component, "inputs": inputs}
    return jobs


def run(client: Client, name: str, jobs: dict[str, Any], compute: str, **settings: Any) -> float:
    """Seconds from the PUT to the answer that the pipeline has ended."""
    body = {"jobType": "Pipeline", "jobs": jobs, "settings": {"default_compute": compute, **settings}}
    started = time.perf_counter()
    path = f"{client.server.workspace}/jobs/{name}?api-version=2024-01-01-preview"
    client.call("PUT", path, {"properties": body})
    while (found := client.wait(name))["status"] not in ("Completed", "Failed", "Canceled"):
        pass
    taken = time.perf_counter() - started
    if found["status"] != "Completed":
        raise SystemExit(f"pipeline {name} is {found['status']}: {found['error']}")
    return taken


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks pipelines")
    parser.add_argument("--chain", type=int, default=20, help="steps one after the other")
    parser.add_argument("--wide", type=int, default=200, help="steps that need nothing")
    parser.add_argument("--nodes", type=int, default=4)
    arguments = parser.parse_args(argv)
    table = Table("Pipelines of no-op steps", ("what", "figure", "floor", "ratio", "target", "met"))
    with running_server() as server:
        client = Client(server)
        compute = open_cluster(client, arguments.nodes)
        component = register(client)
        single(client, 5, "warm")
        alone = sorted(single(client, 30))[15]
        chains: list[float] = []
        for turn in range(5):
            jobs = steps(component, arguments.chain, True, 1000 * turn)
            chains.append(run(client, f"chain-{turn}", jobs, compute) / arguments.chain)
        middle = sorted(chains)[len(chains) // 2]
        table.add(
            f"a step in a chain of {arguments.chain}, p50",
            f"{middle * 1e3:.1f} ms",
            f"{alone * 1e3:.1f} ms",
            middle / alone,
            "<= 100 ms, goal 40",
            middle <= 0.100,
        )
        each: dict[int, float] = {}
        for turn, count in enumerate((arguments.wide // 4, arguments.wide)):
            jobs = steps(component, count, False, 100_000 * (turn + 1))
            each[count] = run(client, f"wide-{count}", jobs, compute) / count
        few, many = each.values()
        table.add(
            f"{arguments.wide} steps at once, each",
            f"{many * 1e3:.1f} ms",
            f"{few * 1e3:.1f} ms ({arguments.wide // 4} steps)",
            many / few,
            "linear: <= 1.5x",
            many / few <= 1.5,
        )
        jobs = steps(component, arguments.wide, False, 200_000)
        again = run(client, f"reused-{os.getpid()}", jobs, compute) / arguments.wide
        table.add(
            f"{arguments.wide} steps, all reused, each",
            f"{again * 1e3:.1f} ms",
            None,
            None,
            "<= 15 ms",
            again <= 0.015,
        )
        jobs = steps(component, arguments.chain, True, 0)
        chain_again = run(client, f"reused-chain-{os.getpid()}", jobs, compute) / arguments.chain
        table.add(
            f"a chain of {arguments.chain}, all reused, each",
            f"{chain_again * 1e3:.1f} ms",
            None,
            None,
            "<= 15 ms",
            chain_again <= 0.015,
        )
        children = client.call(
            "GET", f"/api/v1{server.workspace}/jobs?parent=reused-chain-{os.getpid()}&limit=1000"
        )["value"]
        ran = [job["name"] for job in children if job["attempts"]]
        if ran:
            raise SystemExit(f"{len(ran)} steps ran that were to be reused")
    table.show()
    return table


if __name__ == "__main__":
    main()
