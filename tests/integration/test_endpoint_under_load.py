"""What must hold: 64 clients at full rate while traffic moves, a deployment is updated, an instance is killed
and control is killed: nothing fails but what was in flight on the killed instance.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import JobServer, until
from loadclient import Load
from servedeployments import SCORE, Deployments
from test_deployments_served import kill_instance, until_back
from test_gateway_served import Caller

pytestmark = [pytest.mark.kill, pytest.mark.timeout(400)]

CLIENTS = 64
SETTINGS = {"maxConcurrentRequestsPerInstance": 64, "requestTimeout": "PT80S", "maxQueueWait": "PT60S"}


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    server = JobServer(tmp_path_factory.mktemp("loaded") / "home", cancel_grace_s=2.0, close_grace_s=2.0)
    server.start()
    served = Deployments(server)
    served.prepare()
    for number in (2, 3):
        served.code(f"v{number}", SCORE.replace("VERSION", str(number)))
    served.deploy("blue", count=2, requestSettings=SETTINGS)
    served.deploy("green", code="v2", count=2, requestSettings=SETTINGS)
    served.until("Succeeded", "blue")
    served.until("Succeeded", "green")
    caller = Caller(served)
    caller.traffic(blue=100)
    until(lambda: caller.ask(1)[0] == 200, what="an answer")
    yield caller
    server.end()


def load(called: Caller, least: int) -> Load:
    """`least`: answers that it gets before it stops, however slow this machine is."""
    port = json.loads((called.server.home / "gateway.json").read_text())["http_port"]
    return Load(int(port), "/" + called.uri.split("/", 3)[3], called.keys[0], CLIENTS, least)


def test_nothing_fails_but_what_was_in_flight_on_what_was_killed(called: Caller) -> None:
    served, running = called.served, load(called, 1001)
    for blue in (75, 50, 25, 0):
        called.traffic(**{name: share for name, share in (("blue", blue), ("green", 100 - blue)) if share})
        time.sleep(0.5)  # under load: nothing is waited for
    served.deploy("green", code="v3", count=2, requestSettings=SETTINGS)
    served.until("Succeeded", "green")
    until(lambda: called.ask(1)[2]["version"] == 3, what="the new version")
    time.sleep(0.5)
    target = served.routed("green")[0]
    killed_at = time.time()
    until_back(served, target, kill_instance(served, target))
    until(lambda: len(served.routed("green")) == 2, what="it is back")
    back_at = time.time()
    served.server.kill()
    time.sleep(0.5)
    served.server.start()
    until(lambda: served.state("green") == "Succeeded", what="control is back")
    time.sleep(0.5)
    result = running.stop()
    print(f"{result['answered']} answered, {len(result['failed'])} failed")
    assert result["answered"] > 1000
    others = [what for at, what in result["failed"] if not killed_at <= at <= back_at]
    assert others == []
    assert len(result["failed"]) <= CLIENTS


def nodes(served: Deployments) -> dict[str, int]:
    """Of `sleepy`: node -> pid of its agent."""
    return {name: pid for name, pid in served.server.nodes().items() if name.startswith("sums.sleepy-")}


def test_from_zero_nothing_of_a_burst_is_lost(called: Caller) -> None:
    served = called.served
    zero = {
        "scaleType": "TargetUtilization",
        "minInstances": 0,
        "maxInstances": 2,
        "idleTimeBeforeScaleToZero": "PT2S",
        "parkInstance": False,
    }
    served.deploy("sleepy", requestSettings=SETTINGS, scaleSettings=zero)
    served.until("Succeeded", "sleepy")
    until(lambda: not served.routed("sleepy"), what="it sleeps")
    until(lambda: not nodes(served), what="no node is held")
    called.traffic(sleepy=100)
    running = load(called, 2 * CLIENTS)
    until(lambda: served.routed("sleepy"), what="it is awake")
    time.sleep(1)
    result = running.stop()
    assert result["failed"] == []
    assert result["answered"] > CLIENTS
    until(lambda: not served.routed("sleepy"), what="it sleeps again")


def test_parked_it_costs_nothing_outlives_control_and_the_same_process_answers(called: Caller) -> None:
    """Goes on with the deployment of the test before."""
    served, server = called.served, called.server
    scale = {"scaleType": "TargetUtilization", "minInstances": 0, "maxInstances": 2}
    served.deploy(
        "sleepy", requestSettings=SETTINGS, scaleSettings={**scale, "idleTimeBeforeScaleToZero": "PT2S"}
    )
    served.until("Succeeded", "sleepy")
    status, _, before = called.ask(1)
    assert status == 200
    if not may_park(served):
        pytest.skip("this host has no control groups of version 2, or does not count memory")
    parked(served)
    server.kill()
    server.start()
    served.until("Succeeded", "sleepy")
    status, _, answer = called.ask(1)
    assert (status, answer["pid"]) == (200, before["pid"]), "it was started anew"
    parked(served)
    (agent,) = nodes(served).values()
    running = load(called, 2 * CLIENTS)
    until(lambda: served.routed("sleepy"), what="it is awake")
    time.sleep(0.5)
    result = running.stop()
    assert result["failed"] == []
    assert result["answered"] > CLIENTS
    parked(served)
    os.kill(agent, signal.SIGKILL)
    until(lambda: agent not in nodes(served).values(), what="its node is gone, nothing is left")
    assert called.ask(1)[0] == 200, "another is started"
    called.traffic(blue=100)
    served.delete("sleepy")
    served.until("gone", "sleepy")
    until(lambda: not nodes(served), what="no node is left")


def may_park(served: Deployments) -> bool:
    query = "SELECT limits FROM nodes WHERE id LIKE 'sums.sleepy-%' AND state <> 'Closed'"
    limits = json.loads(served.server.sql(query)[0][0])
    return limits["processes"]["by"].startswith("cgroup v2") and bool(limits["memory"]["enforced"])


def parked(served: Deployments) -> None:
    """Waits until it sleeps: one instance stands still, nothing is paid for."""
    held = "SELECT state FROM nodes WHERE id LIKE 'sums.sleepy-%' AND state <> 'Closed'"
    until(lambda: served.server.sql(held) == [("Parked",)], what="one instance is parked")
    paid = "SELECT id FROM intervals WHERE node_id LIKE 'sums.sleepy-%' AND ended_at IS NULL"
    assert served.server.sql(paid) == []
    (pid,) = nodes(served).values()
    until(lambda: stands_still(pid), what="its processes stand still")


def stands_still(agent: int) -> bool:
    """By the kernel's word: the control group of what that agent runs is frozen."""
    (group,) = {
        line.removeprefix("0::")
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        for line in Path(f"/proc/{child}/cgroup").read_text().splitlines()
        if line.startswith("0::/tidemill-") and "/t" in line
    }
    unified = next(top for top in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(top + group).is_dir())
    return "frozen 1" in Path(f"{unified}{group}/cgroup.events").read_text()
