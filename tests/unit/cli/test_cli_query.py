"""`--query`: what is picked, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.cli.errors import CliError
from tidemill.cli.query import parse, pick

JOBS = [{"name": "a", "price": {"usd": 1}}, {"name": "b", "price": None}]


@pytest.mark.parametrize(
    ("value", "query", "picked"),
    [
        (JOBS[0], "name", "a"),
        (JOBS[0], "price.usd", 1),
        (JOBS[0], '"price"."usd"', 1),
        (JOBS[1], "price.usd", None),
        (JOBS[0], "nothing", None),
        (JOBS, "[0].name", "a"),
        (JOBS, "[-1].name", "b"),
        (JOBS, "[2].name", None),
        (JOBS, "[].name", ["a", "b"]),
        (JOBS, "[*].price.usd", [1]),
        ({"jobs": JOBS}, "jobs[].name", ["a", "b"]),
    ],
)
def test_picked(value: Any, query: str, picked: Any) -> None:
    assert pick(value, parse(query)) == picked


@pytest.mark.parametrize("query", ["", ".name", "name.", "[?a=='b']", "length(@)", "a b", "{n:name}", "a[x]"])
def test_what_is_not_understood_is_refused_with_what_is(query: str) -> None:
    with pytest.raises(CliError, match=r"only names, dots, \[N\] and \[\] are understood"):
        parse(query)
