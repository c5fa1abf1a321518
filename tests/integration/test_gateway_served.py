"""The gateway in front of deployments on a real server: split, keys, kills, changes under load."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from jobserver import JobServer, alive, until
from servedeployments import SCORE, Deployments

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]


class Caller:
    """Of endpoint `sums`, through the gateway."""

    def __init__(self, served: Deployments) -> None:
        self.served = served
        self.server = served.server
        self.uri = self._endpoint()["properties"]["scoringUri"]
        self.keys = self._keys()

    def _endpoint(self) -> dict[str, Any]:
        status, body = self.server.arm("GET", "onlineEndpoints/sums")
        assert status == 200, body
        return body

    def _keys(self) -> list[str]:
        status, body = self.server.arm("POST", "onlineEndpoints/sums/listKeys")
        assert status == 200, body
        return [body["primaryKey"], body["secondaryKey"]]

    def connection(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.server.home / "tls" / "ca.pem"))
        port = int(self.uri.split("/")[2].rsplit(":", 1)[1])
        return http.client.HTTPSConnection("localhost", port, timeout=30, context=context)

    def ask(self, *data: float, key: str = "", **headers: str) -> tuple[int, dict[str, str], Any]:
        connection = self.connection()
        try:
            return self.ask_on(connection, *data, key=key, **headers)
        finally:
            connection.close()

    def ask_on(
        self, connection: http.client.HTTPConnection, *data: float, key: str = "", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        path = "/" + self.uri.split("/", 3)[3]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        bearer = {"Authorization": f"Bearer {key or self.keys[0]}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps({"data": data}), {**bearer, **named})
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, {n.lower(): v for n, v in reply.getheaders()}, json.loads(text)

    def traffic(self, **shares: int) -> None:
        body = self._endpoint()
        body["properties"]["traffic"] = shares
        status, answer = self.server.arm("PUT", "onlineEndpoints/sums", body)
        assert status in (200, 201), answer


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    server = JobServer(tmp_path_factory.mktemp("called") / "home", cancel_grace_s=2.0, close_grace_s=2.0)
    server.start()
    served = Deployments(server)
    served.prepare()
    settings = {"maxConcurrentRequestsPerInstance": 64, "requestTimeout": "PT10S", "maxQueueWait": "PT5S"}
    served.code("two", SCORE.replace("VERSION", "2"))
    served.deploy("blue", requestSettings=settings)
    served.deploy("green", code="two", requestSettings=settings)
    served.until("Succeeded", "blue")
    served.until("Succeeded", "green")
    caller = Caller(served)
    caller.traffic(blue=90, green=10)
    yield caller
    server.end()


def test_it_answers_and_splits_exactly(called: Caller) -> None:
    connection = called.connection()
    until(lambda: called.ask(1, 2)[0] == 200, what="an answer")
    seen: Counter[tuple[str, int]] = Counter()
    for _ in range(200):
        status, headers, body = called.ask_on(connection, 1, 2)
        assert (status, body.get("sum")) == (200, 1003), body
        seen[headers["azureml-model-deployment"], body["version"]] += 1
    connection.close()
    # Those before it took a part of the first hundred.
    assert set(seen) == {("blue", 1), ("green", 2)}
    assert 10 <= seen["green", 2] <= 30
    for name, version in (("blue", 1), ("green", 2)):
        _, headers, body = called.ask(1, azureml_model_deployment=name)
        assert (headers["azureml-model-deployment"], body["version"]) == (name, version)


def test_who_may_not_is_told_why(called: Caller) -> None:
    status, headers, body = called.ask(1, key="x" * 43)
    assert (status, body["error"]["code"]) == (401, "InvalidKey")
    assert headers["www-authenticate"] == "Bearer"
    status, _, body = called.ask(1, azureml_model_deployment="red")
    assert status == 404
    assert "blue, green" in body["error"]["message"]
    status, answer = called.server.arm(
        "POST", "onlineEndpoints/sums/regenerateKeys", {"keyType": "Secondary"}
    )
    assert status in (200, 202), answer
    old = called.keys[1]
    until(lambda: called.ask(1, key=old)[0] == 401, what="the end of the old key")
    called.keys = called._keys()
    assert called.ask(1, key=called.keys[1])[0] == 200


def test_it_goes_on_without_control_and_comes_back_itself(called: Caller) -> None:
    gateway = called.server.state["gateway_pid"]
    called.server.kill()
    assert called.ask(1, 2)[2]["sum"] == 1003
    os.kill(gateway, signal.SIGKILL)
    called.server.start()
    assert not alive(gateway)
    until(lambda: called.ask(1, 2)[0] == 200, what="an answer of the new gateway")
