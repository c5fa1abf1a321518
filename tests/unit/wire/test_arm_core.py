"""Envelopes, pages, ETags: what ARM clients read."""

from __future__ import annotations

import json

import pytest

from tidemill.app.times import iso
from tidemill.domain.errors import Conflict, ErrorDetail, InvalidRequest, PreconditionFailed
from tidemill.domain.model import Key, Resource, Scope
from tidemill.wire.arm.envelope import arm_id, arm_type, join, render, render_list
from tidemill.wire.arm.errors import error_response
from tidemill.wire.arm.etag import check_conditions, etag
from tidemill.wire.arm.paging import Page, read_page, split_page
from tidemill.wire.http import Request

W = Scope("s", "g", "w")


def row(kind: str, name: str, parent: str = "", scope: Scope = W, **more) -> Resource:
    return Resource("u-" + name, Key(scope, kind, name, parent), created_at=1_800_000_000_000_001, **more)


def request(query: str = "", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"method": "GET", "path": "/p", "headers": raw, "query_string": query.encode()}
    return Request(scope, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "id", "type"),
    [
        (row("computes", "c"), W.arm_id + "/computes/c", "workspaces/computes"),
        (row("models/versions", "3", "m"), W.arm_id + "/models/m/versions/3", "workspaces/models/versions"),
        (row("workspaces", "w", scope=Scope("s", "g")), W.arm_id, "workspaces"),
    ],
)
def test_ids_and_types_follow_from_the_key(made, id, type):
    assert arm_id(made) == id
    assert arm_type(made) == f"Microsoft.MachineLearningServices/{type}"


def test_ids_of_groups_and_deployments():
    group = row("resourceGroups", "g", scope=Scope("s"))
    assert arm_id(group) == "/subscriptions/s/resourceGroups/g"
    deployment = row("deployments", "d", scope=Scope("s", "g"))
    assert (
        arm_id(deployment) == "/subscriptions/s/resourceGroups/g/providers/Microsoft.Resources/deployments/d"
    )


def test_render_joins_stored_bytes_and_keeps_unknown_fields():
    made = row(
        "computes", 'q"uote', spec=b'{"computeType":"AmlCompute","future":[1,{"x":null}]}', location="eastus"
    )
    body = json.loads(
        render(made, extra_properties=b'{"provisioningState":"Succeeded"}', extra=b'{"kind":"k"}')
    )
    assert body["properties"] == {
        "computeType": "AmlCompute",
        "future": [1, {"x": None}],
        "provisioningState": "Succeeded",
    }
    assert (body["name"], body["location"], body["tags"], body["kind"]) == ('q"uote', "eastus", {}, "k")
    assert body["systemData"]["createdAt"] == "2027-01-15T08:00:00.000001Z"


def test_untracked_resources_have_no_location():
    assert "location" not in json.loads(render(row("jobs", "j")))


def test_join_and_list():
    assert join(b"{}", b"{}") == b"{}"
    assert join(b'{"a":1}', b"{}") == b'{"a":1}'
    assert join(b"{}", b'{"b":2}') == b'{"b":2}'
    assert json.loads(join(b'{"a":1}', b'{"b":2}')) == {"a": 1, "b": 2}
    assert json.loads(render_list([])) == {"value": []}
    assert json.loads(render_list([b"{}", b"1"], "https://n")) == {"value": [{}, 1], "nextLink": "https://n"}


def test_iso():
    assert iso(0) == "1970-01-01T00:00:00.000000Z"
    assert iso(1_800_000_000_123_456) == "2027-01-15T08:00:00.123456Z"


def test_pages():
    rows = [row("jobs", str(n)) for n in range(4)]
    assert read_page(request()) == Page(100, None, None)
    assert read_page(request("$top=3&$skipToken=u")) == Page(3, "u", 3)
    assert read_page(request("count=30&isDefault=true")).limit == 30
    assert split_page(rows, Page(4, None, None)) == (rows, None)
    assert split_page(rows, Page(3, None, None)) == (rows[:3], "u-2")
    assert split_page(rows, Page(3, None, 3)) == (rows[:3], None)  # no more was wanted
    for bad in ("$top=0", "$top=-1", "$top=x"):
        with pytest.raises(InvalidRequest, match="positive"):
            read_page(request(bad))


def test_conditions():
    there = row("computes", "c", revision=3)
    check_conditions(request(), None)
    check_conditions(request(if_match=etag(there)), there)
    check_conditions(request(if_match="*"), there)
    check_conditions(request(if_none_match="*"), None)
    for headers, found in (
        ({"if_match": '"old"'}, there),
        ({"if_match": "*"}, None),
        ({"if_none_match": "*"}, there),
        ({"if_none_match": etag(there)}, there),
    ):
        with pytest.raises(PreconditionFailed):
            check_conditions(request(**headers), found)


def test_error_body():
    error = Conflict("It is taken.", "Taken", "name")
    error.details = (ErrorDetail("D", "more", "t"),)
    response = error_response(error)
    assert response.status_code == 409
    assert json.loads(response.body) == {
        "error": {
            "code": "Taken",
            "message": "It is taken.",
            "target": "name",
            "details": [{"code": "D", "message": "more", "target": "t"}],
        }
    }
