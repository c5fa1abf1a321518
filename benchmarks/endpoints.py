"""Deployments of a scikit-learn model, with its environment built before: until it answers, and from zero.

    python -m benchmarks.endpoints [--rounds 5]

The floor is measured in the same run: the same Python with the same imports, started bare on this host; an
instance has the CPU of its node, which is a slice. The environment is built at the start, from an index.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Table

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "integration"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

DEPLOY_S, DEPLOY_GOAL_S = 5.0, 2.0
ZERO_S, ZERO_GOAL_S = 2.0, 0.5
IMPORTS = "import json, os, numpy, joblib; from sklearn.linear_model import LogisticRegression"
SCORE = f"""
{IMPORTS}
def init():
    global model
    model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
def run(data):
    return {{"sum": int(model.predict([json.loads(data)["data"]])[0]), "version": 1, "pid": os.getpid()}}
"""
CONDA = "name: sk\ndependencies: [python=3.11, pip, {pip: [scikit-learn, numpy, joblib]}]\n"
HELD = "SELECT id FROM nodes WHERE state NOT IN ('Closed', 'Parked')"
PAID = "SELECT count(*) FROM intervals WHERE ended_at IS NULL"
TO_ZERO = {
    "scaleType": "TargetUtilization",
    "minInstances": 0,
    "maxInstances": 1,
    "idleTimeBeforeScaleToZero": "PT1S",
}


def main(argv: Sequence[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoints")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(argv).rounds
    deployed, parked, woken, asleep_free, floor = _measure(rounds)
    table = Table(
        f"A scikit-learn deployment on a Standard_DS3_v2, environment built; medians of {rounds}",
        ("what", "seconds", "bare start", "ratio", "target", "met", "goal", "met"),
    )
    for what, seconds, target, goal in (
        ("deploy, until it answers through the gateway", deployed, DEPLOY_S, DEPLOY_GOAL_S),
        ("first answer from zero, an instance parked", parked, ZERO_S, ZERO_GOAL_S),
        ("first answer from zero, nothing parked", woken, ZERO_S, ZERO_GOAL_S),
    ):
        table.add(
            what,
            f"{seconds:.2f}",
            f"{floor:.2f}",
            seconds / floor,
            f"<= {target:g}",
            seconds <= target,
            f"<= {goal:g}",
            "yes" if seconds <= goal else "no",
        )
    what = "nodes held, or paid for, while it sleeps"
    table.add(what, str(asleep_free), "", None, "0", asleep_free == 0, "", None)
    table.show()
    return table


def _measure(rounds: int) -> tuple[float, float, float, int, float]:
    """-> (deploy, first answer from zero with an instance parked, and without, nodes on the bill or of the
    scheduler while it sleeps, a bare start of the same imports)."""
    from jobserver import JobServer, until
    from servedeployments import Deployments
    from test_gateway_served import Caller

    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        server = JobServer(Path(folder) / "home")
        server.start()
        try:
            served = Deployments(server)
            served.prepare()
            served.code("sk", SCORE)
            image = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"  # the host stands in for it
            body = {"properties": {"image": image, "condaFile": CONDA}}
            status, answer = server.arm("PUT", "environments/sk/versions/1", body)
            assert status in (200, 201), answer
            given = {
                "environmentId": f"{server.workspace}/environments/sk/versions/1",
                "instanceType": "Standard_DS3_v2",
                "requestSettings": {"requestTimeout": "PT30S", "maxQueueWait": "PT30S"},
            }
            served.deploy("builds", code="sk", **given)
            served.until("Succeeded", "builds", 600)
            served.delete("builds")
            served.until("gone", "builds")
            caller = Caller(served)
            deployed = [_deploy(served, caller, f"round{number}", given) for number in range(rounds)]
            from_zero: dict[str, list[float]] = {}
            held = 0
            for name, park in (("parked", True), ("ended", False)):
                scale = {**TO_ZERO, "parkInstance": park}
                served.deploy(name, code="sk", scaleSettings=scale, **given)
                served.until("Succeeded", name)
                caller.traffic(**{name: 100})
                taken = from_zero.setdefault(name, [])
                for _ in range(rounds):
                    until(lambda: not served.routed(name), 60, "it sleeps")  # noqa: B023
                    until(lambda: not server.sql(HELD), 30, "no node is held")
                    assert len(server.nodes()) == park, "one stands still, or none"
                    held = max(held, server.sql(PAID)[0][0])
                    began = time.perf_counter()
                    status, _, answer = caller.ask(3)
                    taken.append(time.perf_counter() - began)
                    assert (status, answer["sum"]) == (200, 1), answer
                caller.traffic()
                served.delete(name)
                served.until("gone", name)
            floor = _floor(server.home, rounds)
            served.delete_endpoint()
            until(lambda: not served.rows() and not server.nodes(), 60, "nothing is left")
        finally:
            server.end()
    parked, woken = (statistics.median(from_zero[name]) for name in ("parked", "ended"))
    return statistics.median(deployed), parked, woken, held, floor


def _deploy(served: object, caller: object, name: str, given: dict[str, object]) -> float:
    """Seconds from the PUT to the first answer of that deployment."""
    from servedeployments import Deployments
    from test_gateway_served import Caller

    assert isinstance(served, Deployments)
    assert isinstance(caller, Caller)
    began = time.perf_counter()
    served.deploy(name, code="sk", **given)
    served.until("Succeeded", name, 60)
    status, _, answer = caller.ask(3, azureml_model_deployment=name)
    taken = time.perf_counter() - began
    assert (status, answer["sum"]) == (200, 1), answer
    served.delete(name)
    served.until("gone", name)
    return taken


def _floor(home: Path, rounds: int) -> float:
    packages = next((home / "envs").glob("*/lib/python*/site-packages/sklearn"))
    python = packages.parents[3] / "bin" / "python"
    taken: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([str(python), "-c", IMPORTS], check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
