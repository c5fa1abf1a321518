"""Deployments where nodes have neither a sandbox nor a network of their own: each instance listens at a port
of the host that was free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jobserver import JobServer, until
from servedeployments import Deployments
from test_deployments_served import kill_instance, until_back
from test_gateway_served import Caller

pytestmark = pytest.mark.kill


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    home = tmp_path_factory.mktemp("plain") / "home"
    server = JobServer(home, isolation="plain", cancel_grace_s=2.0, close_grace_s=2.0)
    server.start()
    made = Deployments(server)
    made.prepare()
    yield made
    server.end()


def test_two_instances_answer_side_by_side_and_come_back(served: Deployments) -> None:
    served.deploy("plain", count=2)
    served.until("Succeeded", "plain")
    targets = served.routed("plain")
    assert len({target["port"] for target in targets}) == 2
    caller = Caller(served)
    caller.traffic(plain=100)
    seen: set[int] = set()
    until(lambda: seen.add(caller.ask(1, 2)[2]["pid"]) or len(seen) == 2, what="answers of both")
    killed = [kill_instance(served, target) for target in targets]
    for target, pids in zip(targets, killed, strict=True):
        until_back(served, target, pids)
    until(lambda: len(served.routed("plain")) == 2, what="both are back")
    assert caller.ask(1, 2)[2]["sum"] == 1003
    served.delete_endpoint()
    until(lambda: not served.rows() and not served.server.nodes(), what="nothing is left")
