"""Deployments on a real server: they answer, fail with a reason, are updated, killed, lost, deleted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest
from jobserver import JobServer, alive, until
from servedeployments import SCORE, Deployments

from tidemill.helper.nodedir import home_id
from tidemill.sandbox import processes

pytestmark = pytest.mark.kill


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    server = JobServer(tmp_path_factory.mktemp("served") / "home", cancel_grace_s=2.0, close_grace_s=2.0)
    server.start()
    made = Deployments(server)
    made.prepare()
    yield made
    server.end()


def pids_of(served: Deployments, target: dict) -> list[int]:
    marker = processes.marker(home_id(served.server.home), target["node"], f"{target['attempt']}/0")
    return processes.marked(marker)


def kill_instance(served: Deployments, target: dict) -> set[int]:
    """-> the processes that it had."""
    pids = pids_of(served, target)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it went with another
            os.kill(pid, signal.SIGKILL)
    return set(pids)


def until_back(served: Deployments, target: dict, killed: set[int]) -> None:
    """Started again, it answers. That it is out of the table meanwhile may be too short to be seen."""
    until(lambda: set(pids_of(served, target)) - killed, what="its start")
    assert served.ask(target, 1)["sum"] == 1001


def test_deployed_it_answers(served: Deployments) -> None:
    began = time.monotonic()
    served.deploy("first")
    served.until("Succeeded", "first")
    print(f"deployed in {time.monotonic() - began:.2f} s")
    (target,) = served.routed("first")
    assert served.ask(target, 1, 2)["sum"] == 1003
    assert "loaded {'bias': 1000}" in served.logs("first")


def test_somebody_looks_inside(served: Deployments) -> None:
    (target,) = served.routed("first")
    (name,) = served.server.sql("SELECT name FROM resources WHERE uid = ?", target["uid"])[0]
    said = served.server.cli("ssh", name, "--", "cat", "score.py")
    assert said.returncode == 0, said.stderr
    assert "def run(data)" in said.stdout


def test_a_failing_init_is_told_in_seconds_and_what_serves_goes_on(served: Deployments) -> None:
    began = time.monotonic()
    served.deploy("keeps")
    served.until("Succeeded", "keeps")
    slow = time.monotonic() - began  # this machine, now
    (target,) = served.routed("keeps")
    served.code("broken", "def init():\n    raise RuntimeError('no weights')\ndef run(data):\n    return 1\n")
    served.deploy("keeps", code="broken")
    served.until("Failed", "keeps", 15 + slow)  # probes would give up after five minutes
    error = served.error("keeps")
    assert error["code"] == "UserScriptFailed"
    assert "init() failed: RuntimeError: no weights" in error["message"]
    assert "raise RuntimeError('no weights')" in error["message"]
    assert served.routed("keeps") == [target]
    assert served.ask(target, 1)["sum"] == 1001


def test_updated_in_place(served: Deployments) -> None:
    served.deploy("updated")
    served.until("Succeeded", "updated")
    (old,) = served.routed("updated")
    served.code("two", SCORE.replace("VERSION", "2"))
    served.deploy("updated", code="two")
    served.until("Succeeded", "updated")
    (new,) = served.routed("updated")
    assert served.ask(new, 1)["version"] == 2
    until(lambda: not pids_of(served, old), what="the end of the old instance")
    until(lambda: old["node"] not in served.server.nodes(), what="the end of its node")


def test_killed_it_is_back_and_control_knows(served: Deployments) -> None:
    served.deploy("killed")
    served.until("Succeeded", "killed")
    (target,) = served.routed("killed")
    until_back(served, target, kill_instance(served, target))
    until(lambda: served.routed("killed") == [target], what="it serves again")
    assert served.ask(target, 1)["sum"] == 1001


def test_it_restarts_and_serves_while_control_is_dead(served: Deployments) -> None:
    served.deploy("alone")
    served.until("Succeeded", "alone")
    (target,) = served.routed("alone")
    served.server.kill()
    kill_instance(served, target)
    assert served.ask(target, 5)["sum"] == 1005
    served.server.start()
    until(lambda: served.routed("alone") == [target], what="it is in the table")
    assert served.state("alone") == "Succeeded"
    assert served.ask(target, 5)["sum"] == 1005


def test_a_lost_node_is_replaced(served: Deployments) -> None:
    served.deploy("lost")
    served.until("Succeeded", "lost")
    (target,) = served.routed("lost")
    os.kill(served.server.nodes()[target["node"]], signal.SIGKILL)
    (fresh,) = until(
        lambda: (found := served.routed("lost")) and found[0]["node"] != target["node"] and found,
        what="a new one",
    )
    assert served.ask(fresh, 1)["sum"] == 1001


def test_control_is_killed_at_any_instant_of_a_deploy_and_of_an_update(served: Deployments) -> None:
    served.code("three", SCORE.replace("VERSION", "3"))
    served.deploy("chaos")
    for wait in (0.0, 0.15, 0.4):
        time.sleep(wait)  # an instant, not a condition: whatever is going on there
        served.server.kill()
        served.server.start()
    served.until("Succeeded", "chaos")
    served.deploy("chaos", code="three")
    for wait in (0.05, 0.3, 0.6):
        time.sleep(wait)
        served.server.kill()
        served.server.start()
    served.until("Succeeded", "chaos")
    (target,) = served.routed("chaos")
    assert served.ask(target, 1)["version"] == 3
    until(
        lambda: len([n for n in served.server.nodes() if n.startswith("sums.chaos-")]) == 1, what="one node"
    )


def test_deleted_nothing_is_left(served: Deployments) -> None:
    served.deploy("deleted", count=2)
    served.until("Succeeded", "deleted")
    targets = served.routed("deleted")
    assert len(targets) == 2
    served.delete("deleted")
    served.until("gone", "deleted")
    until(lambda: not any(n.startswith("sums.deleted-") for n in served.server.nodes()), what="no nodes")
    assert not any(pids_of(served, target) for target in targets)
    left = "SELECT 1 FROM resources WHERE name LIKE 'sums.deleted%'"
    until(lambda: not served.server.sql(left), what="no rows")


def test_nothing_runs_but_what_serves(served: Deployments) -> None:
    for name in {name for _, name in served.rows()}:
        served.delete(name)
    until(lambda: not served.rows(), what="all are gone")
    until(lambda: not served.server.nodes(), what="no nodes")
    held = "SELECT id FROM intervals WHERE ended_at IS NULL"
    until(lambda: not served.server.sql(held), what="the end of what is billed")
    assert alive(served.server.state["pid"])
