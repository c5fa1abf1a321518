"""Who is let in at the gateway of a real server: keys, an endpoint's own tokens, tokens of who signed in."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from accessclient import issuer_of
from jobserver import JobServer, until
from test_access_server import Team

from tidemill.identity.tokens import TokenIssuer

MODES = {"keyed": "Key", "tokens": "AMLToken", "roles": "AADToken"}
IN = 404  # let in, and told that no deployment gets traffic


class Door:
    def __init__(self, server: JobServer) -> None:
        self.server = server
        self.team = Team(server)
        for name, mode in MODES.items():
            status, body = server.arm(
                "PUT", f"onlineEndpoints/{name}", {"location": "eastus", "properties": {"authMode": mode}}
            )
            assert status in (200, 201), body

    def endpoint(self, name: str) -> Any:
        return self.server.arm("GET", f"onlineEndpoints/{name}")[1]

    def ask(self, name: str, secret: str) -> tuple[int, str, str]:
        """-> (status, code, message)"""
        uri = self.endpoint(name)["properties"]["scoringUri"]
        context = ssl.create_default_context(cafile=str(self.server.home / "tls" / "ca.pem"))
        netloc, _, path = uri.removeprefix("https://").partition("/")
        connection = http.client.HTTPSConnection(netloc, timeout=20, context=context)
        try:
            headers = {"Authorization": f"Bearer {secret}"} if secret else {}
            connection.request("POST", "/" + path, b"{}", headers)
            reply = connection.getresponse()
            error = json.loads(reply.read())["error"]
            return reply.status, error["code"], error["message"]
        finally:
            connection.close()

    def token(self, name: str) -> str:
        status, body = self.server.arm("POST", f"onlineEndpoints/{name}/token")
        assert status == 200, body
        return body["accessToken"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    server = JobServer(tmp_path_factory.mktemp("door") / "home")
    server.start()
    made = Door(server)
    until(lambda: made.ask("roles", "")[0] == 401, what="the table")
    yield made
    server.end()


def late(door: Door) -> TokenIssuer:
    """The home's issuer, two hours ago."""
    made = issuer_of(door.server.home, door.server.state)
    made._now = lambda: (time.time_ns() // 1000) - 2 * 3600 * 1_000_000
    return made


def test_keys_of_others_and_of_before(door: Door) -> None:
    keys = door.server.arm("POST", "onlineEndpoints/keyed/listKeys")[1]
    assert door.ask("keyed", keys["primaryKey"])[:2] == (IN, "NoTraffic")
    assert door.ask("keyed", keys["secondaryKey"])[0] == IN
    assert door.ask("keyed", keys["primaryKey"][:-1])[:2] == (401, "InvalidKey")
    assert door.ask("tokens", keys["primaryKey"])[0] == 401
    assert door.ask("keyed", door.server.token())[:2] == (401, "InvalidKey")


def test_an_endpoints_own_tokens(door: Door) -> None:
    token = door.token("tokens")
    assert door.ask("tokens", token)[:2] == (IN, "NoTraffic")
    uid = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["aud"]
    owner = issuer_of(door.server.home, door.server.state).owner
    expired, _ = late(door).issue_for_endpoint(uid, owner.oid, "x")
    assert door.ask("tokens", expired) == (
        401,
        "ExpiredAuthenticationToken",
        "The access token has expired. Get a new one.",
    )
    other, _ = issuer_of(door.server.home, door.server.state).issue_for_endpoint("another", owner.oid, "x")
    status, code, message = door.ask("tokens", other)
    assert (status, code) == (401, "InvalidAuthenticationTokenAudience")
    assert "'another'" in message
    assert door.ask("tokens", door.server.token())[0] == 401  # of the home's owner, but not for this
    assert door.ask("tokens", token[:-4] + "AAAA")[0] == 401


def test_who_signed_in_needs_a_role(door: Door) -> None:
    assert door.ask("roles", door.server.token())[:2] == (IN, "NoTraffic")
    door.team.make("ann")
    token = door.team.tokens["ann"]
    status, code, message = door.ask("roles", token)
    assert (status, code) == (403, "AuthorizationFailed")
    assert "onlineEndpoints/score/action" in message
    assert "ann" in message
    door.team.cli("grant", "ann", "AzureML Data Scientist")
    assert door.ask("roles", token)[0] == IN  # at the next request
    door.team.cli("disable", "ann")
    assert door.ask("roles", token)[0] == 401
    expired = late(door).issue_owner(door.server.state["addresses"]["https"], 60)
    assert door.ask("roles", expired)[:2] == (401, "ExpiredAuthenticationToken")
    assert door.ask("roles", door.token("tokens"))[0] == 401


def test_limits_are_properties_of_the_endpoint(door: Door) -> None:
    body = door.endpoint("keyed")
    body["properties"]["properties"] = {"tidemill.requestsPerSecond": "2"}
    status, answer = door.server.arm("PUT", "onlineEndpoints/keyed", body)
    assert status in (200, 201), answer
    key = door.server.arm("POST", "onlineEndpoints/keyed/listKeys")[1]["primaryKey"]
    with ThreadPoolExecutor(8) as callers:  # one after another they may be slower than the rate
        until(
            lambda: any(one[0] == 429 for one in callers.map(lambda _: door.ask("keyed", key), range(8))),
            what="the rate's end",
        )
    body["properties"]["properties"] = {"tidemill.requestsPerSecond": "often"}
    status, answer = door.server.arm("PUT", "onlineEndpoints/keyed", body)
    assert status == 400
    assert "'often'" in answer["error"]["message"]


def test_nothing_of_it_is_in_a_log_or_in_the_table(door: Door) -> None:
    keys = door.server.arm("POST", "onlineEndpoints/keyed/listKeys")[1]
    door.ask("keyed", keys["primaryKey"])
    log = door.server.home / "logs" / "gateway-access.log"
    until(lambda: re.search(r"/keyed/score (404|429)", log.read_text()), what="the access log")
    for file in (log, log.with_name("gateway.log"), door.server.home / "serving" / "routes.json"):
        text = file.read_text()
        assert not any(key in text for key in (keys["primaryKey"], keys["secondaryKey"], door.server.token()))
