"""Any JSON is rows for a model, or refused with a reason: nothing else comes out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.serving.scoring import inputs, jsonio, payload, tensors
from tidemill.serving.scoring.http import Head, Refused
from tidemill.serving.scoring.loaders import _rows
from tidemill.serving.scoring.request import Request

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FORMS = st.sampled_from([*payload.FORMS, "columns", "index", "params", "x"])
BODIES = JSON | st.dictionaries(FORMS, JSON, max_size=3)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=3) | JSON,
        "shape": st.lists(st.integers(-2, 4), max_size=3) | JSON,
        "datatype": st.sampled_from(["FP64", "INT8", "BOOL", "BYTES", "UINT64", "?"]) | JSON,
        "data": st.lists(st.floats() | st.integers(), max_size=8) | JSON,
    },
)
TO_ROWS = [
    _rows(4, list("abcd")),
    _rows(None, None),
    _rows(None, None, dimensions=None),
    _rows(2, ["a", "b"]),
]


def posted(body: bytes, path: str = "/score") -> Request:
    return Request(Head("POST", path, 1, {"content-type": "application/json"}), body)


def refusal(make: Callable[[], Any]) -> tuple[Any, int]:
    """-> (what is made or None, the status of its refusal or 0). Other exceptions fail the test."""
    try:
        return make(), 0
    except Refused as refused:
        return None, refused.status if refused.message else -1


def is_rows_or_refused(make: Callable[[], Any]) -> None:
    rows, status = refusal(make)
    if status:
        assert 400 <= status < 500
    else:
        assert isinstance(rows, numpy.ndarray)
        assert len(rows) > 0


@settings(deadline=None)
@given(BODIES, st.sampled_from(TO_ROWS))
def test_any_json_is_rows_or_refused(body: Any, to_rows: Any) -> None:
    is_rows_or_refused(lambda: to_rows(payload.read(posted(json.dumps(body).encode()))))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    assert refusal(lambda: inputs.json_body(posted(body)))[1] in (0, 400)


@settings(deadline=None)
@given(st.lists(TENSORS, max_size=3) | JSON)
def test_any_tensors_are_rows_or_refused(given_: Any) -> None:
    body = json.dumps({"inputs": given_}).encode()

    def make() -> Any:
        rows, _ = tensors.read(posted(body, "/v2/models/m/infer"), "m")
        return TO_ROWS[1](rows)

    is_rows_or_refused(make)


def test_json_that_is_too_deep_is_refused() -> None:
    with pytest.raises(Refused, match="could not be decoded"):
        inputs.json_body(posted(b"[" * 200_000))


@settings(deadline=None)
@given(JSON)
def test_answers_are_what_json_would_write(value: Any) -> None:
    """NaN as NaN, None as null, whichever library writes."""
    try:
        expected = json.loads(json.dumps(value))
    except ValueError:
        return

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return a == b or (math.isnan(a) and math.isnan(b))
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return bool(a == b)

    assert same(json.loads(jsonio.dumps(value)), expected)
