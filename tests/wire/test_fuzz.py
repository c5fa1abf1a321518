"""Hostile input at every route of every dialect: refused, bounded, nothing shown, and never a 5xx.

The routes have no OpenAPI description to generate from: paths come from the route table itself, bodies from
one right body of each kind (`seeds.py`) with a value of `hostile.VALUES` put at any place. It is asked as the
owner, so that no refusal hides the code behind it; a second pass asks without a token.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hostile import BODIES, SEGMENTS, TYPES, VALUES, RawClient, filled, places, problem, put_at, variables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seeds import COMPUTE, ML, QUERIES, SEEDS

from tidemill.server.compose import routes
from tidemill.wire.http import PUBLIC, UPGRADE, Route

SCOPES = ("sub", "rg", "ws")
WITHOUT_BODY = ("GET", "HEAD", "DELETE")
ROUTES = routes()
FUZZ = settings(
    max_examples=600,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    database=None,
)


class Fuzzed:
    """The server under test: a client with the owner's token, and what is there."""

    def __init__(self, server: Any) -> None:
        from tidemill.cli.session import Given, Session

        session = Session(Given(home=str(server.home)))
        session.client.get("/api/v1/status")
        self.port = int(server.state["addresses"]["http"].rsplit(":", 1)[1])
        self.token = str(session.client._token)
        self.client = RawClient(self.port, {"Authorization": f"Bearer {self.token}"})
        where = server.state["workspace"]
        self.names = {"sub": where["subscription"], "rg": where["group"], "ws": where["name"], "loc": "local"}
        self.log = server.home / "logs" / "control.log"
        self._numbers = itertools.count(1)
        self._known: dict[str, str] = {}
        self.put_there()

    def put_there(self) -> None:
        """A compute, an experiment and a run."""
        assert self.ask("PUT", "{W}/computes/cpu", COMPUTE).status in (200, 201)
        answer = json.loads(self.ask("POST", ML + "/experiments/create", {"name": "exp"}).body)
        self._known["EXP"] = answer["experiment_id"]
        answer = json.loads(self.ask("POST", ML + "/runs/create", {"experiment_id": "EXP"}).body)
        self._known["RUN"] = answer["run"]["info"]["run_id"]

    def say(self, text: str) -> str:
        subscription = f"/subscriptions/{self.names['sub']}"
        group = f"{subscription}/resourceGroups/{self.names['rg']}"
        workspace = f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{self.names['ws']}"
        number = next(self._numbers)
        words = {"{W}": workspace, "{G}": group, "{S}": subscription, "{n}": str(number)}
        words |= {"{guid}": str(uuid.UUID(int=number)), **self._known}
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        raw = None if body is None else self.say(json.dumps(body)).encode()
        return self.client.send(method, self.say(path), raw, {"Content-Type": "application/json"})

    def target(self, route: Route, values: dict[str, str]) -> str:
        """The route's path; one that makes, changes or removes a workspace is not about the one in use."""
        usual = dict.fromkeys(variables(route.path), "fuzz") | {"version": "1"} | self.names
        if route.path.endswith("{ws}") and route.method != "GET":
            usual["ws"] = "fuzz-ws"
        return filled(route.path, usual | values)


@pytest.fixture(scope="module")
def fuzzed(server: Any) -> Iterator[Fuzzed]:
    made = Fuzzed(server)
    yield made
    made.client.close()
    log = made.log.read_text()
    assert "Traceback" not in log, log[-4000:]


def is_alone(route: Route) -> bool:
    """Long answers and those that sign out are asked elsewhere."""
    return not route.path.endswith("/stream")


def test_paths(fuzzed: Fuzzed) -> None:
    """Each variable of each route with hostile segments, all own ones at once and each scope by itself."""
    wrong: list[str] = []
    segments = itertools.cycle(SEGMENTS)
    for route in filter(is_alone, ROUTES):
        body = None if route.method in WITHOUT_BODY else b"{}"
        own = [name for name in variables(route.path) if name not in SCOPES]
        tries = [{name: next(segments) for name in own} for _ in range(4 if own else 0)]
        tries += [{name: next(segments)} for name in SCOPES if name in variables(route.path)]
        for values in tries:
            target = fuzzed.target(route, values) + "?timeout=0&api-version=2023-10-01"
            found = problem(fuzzed.client.send(route.method, target, body), target)
            wrong += [f"{route.method} {target[:300]}: {found}"] if found else []
    assert not wrong, "\n".join(wrong)


def unlike(method_in: Any) -> Iterator[Route]:
    """One route of each handler: dialects that share one differ in the path only."""
    seen: set[Any] = set()
    for route in filter(is_alone, ROUTES):
        if method_in(route.method) and (route.handler, route.method) not in seen:
            seen.add((route.handler, route.method))
            yield route


def test_bodies(fuzzed: Fuzzed) -> None:
    wrong: list[str] = []
    for route in unlike(lambda method: method not in WITHOUT_BODY):
        for body, kind in zip(BODIES, itertools.cycle(TYPES), strict=False):
            target = fuzzed.target(route, {})
            reply = fuzzed.client.send(route.method, target, body, {"Content-Type": kind})
            found = problem(reply, target)
            wrong += [f"{route.method} {target}: {found} {body[:60]!r}"] if found else []
    assert not wrong, "\n".join(wrong)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(fuzzed: Fuzzed) -> None:
    path = fuzzed.say("{W}/jobs/large")
    reply = fuzzed.client.send("PUT", path, b'{"x":"' + b"y" * (17 << 20) + b'"}')
    assert reply.status == 413
    assert json.loads(reply.body)["error"]["code"] == "RequestEntityTooLarge"


def test_queries(fuzzed: Fuzzed) -> None:
    wrong: list[str] = []
    for route in unlike(lambda method: method == "GET"):
        for query in QUERIES:
            target = f"{fuzzed.target(route, {'name': 'cpu'})}?{query}"
            found = problem(fuzzed.client.send("GET", target), target)
            wrong += [f"{target[:300]}: {found}"] if found else []
    assert not wrong, "\n".join(wrong)


LATER = {"tags": {"later": "1"}, "properties": {"tags": {"later": "2"}, "properties": {"later": "3"}}}
CHANGES = [(at, place) for at, (_, _, body) in enumerate(SEEDS) for place in places(body)]


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.sampled_from(VALUES)), min_size=8, max_size=8))
def test_a_wrong_value_at_any_place(fuzzed: Fuzzed, changes: list[tuple[tuple[int, Any], Any]]) -> None:
    for (at, place), value in changes:
        check(fuzzed, at, [(place, value)])


@FUZZ
@given(st.data(), st.sampled_from(range(len(SEEDS))))
def test_several_wrong_values_at_once(fuzzed: Fuzzed, data: st.DataObject, at: int) -> None:
    spots = list(places(SEEDS[at][2]))
    count = data.draw(st.integers(2, 4))
    pairs = st.tuples(st.sampled_from(spots), st.sampled_from(VALUES))
    check(fuzzed, at, [data.draw(pairs) for _ in range(count)])


def check(fuzzed: Fuzzed, at: int, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    method, path, body = SEEDS[at]
    for place, value in changes:
        body = put_at(body, place, value)
    where = fuzzed.say(path)
    said = [fuzzed.ask(method, where, body)]
    if (
        method == "PUT" and said[0].status < 300 and path.startswith("{")
    ):  # what was taken is read and changed
        said += [fuzzed.ask("GET", where), fuzzed.ask("PATCH", where, LATER)]
        said += [fuzzed.ask("GET", where.rpartition("/")[0] + "?$top=3"), fuzzed.ask("PUT", where, body)]
    for reply in said:
        found = problem(reply, path)
        assert not found, f"{method} {path} {found}: {json.dumps(changes)[:400]} -> {reply.body[:300]!r}"


def test_the_right_bodies_are_taken(fuzzed: Fuzzed) -> None:
    """Else the changes would only ever meet the first check."""
    replies = {path: fuzzed.ask(method, path, body) for method, path, body in SEEDS}
    for path, reply in replies.items():
        assert reply.status < 400 or reply.status in (400, 404), (path, reply)
    assert sum(reply.status < 400 for reply in replies.values()) >= 18, replies


@pytest.mark.parametrize("header", [None, "Bearer x", "Basic YTpi", "Bearer " + "e" * 9_000, "Bearer a.b.c"])
def test_without_a_good_token_everything_is_shut(fuzzed: Fuzzed, header: str | None) -> None:
    client = RawClient(fuzzed.port, {} if header is None else {"Authorization": header})
    wrong: list[str] = []
    for route in ROUTES:
        if route.action == PUBLIC:
            continue
        target = fuzzed.target(route, {})
        reply = client.send(route.method, target, None if route.method in WITHOUT_BODY else b"{}")
        too_long = route.method == UPGRADE and len(header or "") > 8192  # refused before it is read
        shut = reply.status == (400 if too_long else 401)
        shut = shut or (route.path.startswith("/ui") and reply.status in (303, 307))
        if not shut or len(reply.body) > 8_000:
            wrong.append(f"{route.method} {target}: {reply.status} {reply.body[:200]!r}")
    client.close()
    assert not wrong, "\n".join(wrong)
