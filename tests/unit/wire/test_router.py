"""The path trie: which route a path finds, with which variables."""

from __future__ import annotations

import pytest
from starlette.responses import Response

from tidemill.wire.http import PUBLIC, Context, Route, Router, bytes_response, json_response


async def _answer(ctx: Context) -> Response:
    return Response()


def _router(*paths: str) -> Router:
    return Router(Route("GET", path, PUBLIC, _answer) for path in paths)


ROUTER = _router(
    "/",
    "/jobs",
    "/jobs/{name}",
    "/jobs/{name}/cancel",
    "/jobs/special/{id}/end",
    "/{kind}/{name}/other",
    "/files/{rest:path}",
    "/files/{name}/raw/now",
    "/files/fixed",
)


@pytest.mark.parametrize(
    ("path", "route", "params"),
    [
        ("/", "/", {}),
        ("/jobs", "/jobs", {}),
        ("/JOBS/", "/jobs", {}),
        ("/jobs/A", "/jobs/{name}", {"name": "A"}),
        ("/Jobs/A/Cancel", "/jobs/{name}/cancel", {"name": "A"}),
        ("/jobs/special", "/jobs/{name}", {"name": "special"}),
        ("/jobs/special/cancel", "/jobs/{name}/cancel", {"name": "special"}),
        ("/jobs/special/7/end", "/jobs/special/{id}/end", {"id": "7"}),
        ("/jobs/x/other", "/{kind}/{name}/other", {"kind": "jobs", "name": "x"}),
        ("/jobs/a%2Fb", "/jobs/{name}", {"name": "a/b"}),
        ("/files", "/files/{rest:path}", {"rest": ""}),
        ("/files/fixed", "/files/fixed", {}),
        ("/files/fixed/b", "/files/{rest:path}", {"rest": "fixed/b"}),
        ("/files/A/raw", "/files/{rest:path}", {"rest": "A/raw"}),
        ("/files/A/raw/now", "/files/{name}/raw/now", {"name": "A"}),
        ("/files/A/raw/then/x%20y", "/files/{rest:path}", {"rest": "A/raw/then/x y"}),
    ],
)
def test_a_path_finds_its_route(path: str, route: str, params: dict[str, str]) -> None:
    found, values, methods = ROUTER.match("GET", path)
    assert found is not None
    assert (found.path, values, methods) == (route, params, ("GET",))


@pytest.mark.parametrize("path", ["/nothing", "/jobs/a/b", "/jobs/special/7", "/jobs/special/7/end/more"])
def test_others_find_none(path: str) -> None:
    assert ROUTER.match("GET", path) == (None, {}, ())


def test_a_method_that_is_not_offered_names_those_that_are() -> None:
    assert ROUTER.match("PUT", "/jobs/a") == (None, {}, ("GET",))
    assert ROUTER.match("HEAD", "/jobs/a")[0] is not None


def test_two_routes_of_one_path_are_refused() -> None:
    with pytest.raises(ValueError, match="two routes"):
        _router("/jobs/{name}", "/Jobs/{other}")


def test_encoded_bodies_have_their_headers() -> None:
    reply = bytes_response(b'{"a":1}', 201, {"ETag": '"x"'})
    assert (reply.status_code, reply.body, reply.headers["etag"]) == (201, b'{"a":1}', '"x"')
    assert (reply.headers["content-length"], reply.headers["content-type"]) == ("7", "application/json")
    assert json_response({"a": 1}).body == b'{"a":1}'
