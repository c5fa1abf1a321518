"""MLflow's search language."""

from __future__ import annotations

import math

import pytest

from tidemill.app.tracking.tracking_filter import matches, ordered, parse_filter, parse_order
from tidemill.domain.errors import InvalidRequest

NUMBERS = frozenset({"start_time"})
TEXTS = frozenset({"status", "run_name"})
RUN = {
    ("metric", "loss"): 0.5,
    ("metric", "val loss"): 2.0,
    ("param", "kind"): "SVC",
    ("tag", "mlflow.user"): "ann",
    ("attribute", "status"): "RUNNING",
    ("attribute", "run_name"): "a.b",
    ("attribute", "start_time"): 1000,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("metrics.loss < 0.6", True),
        ("metric.loss <= 5e-1 and params.kind = 'SVC'", True),
        ("metrics.loss > .5", False),
        ("metrics.`val loss` >= 2 AND metrics.loss != -1", True),
        ('metrics."val loss" = 2', True),
        ("params.kind LIKE 's%'", False),
        ("params.kind ILIKE 's_c'", True),
        ("run_name LIKE 'a.b'", True),
        ("run_name LIKE 'axb'", False),
        ('tags.mlflow.user = "ann"', True),
        ("tags.`mlflow.user` != 'ann'", False),
        ("tags.absent != 'x'", False),
        ("tags.absent IS NULL", True),
        ("tags.mlflow.user is not null", True),
        ("status IN ('RUNNING', 'FAILED')", True),
        ("attributes.status NOT IN ('RUNNING',)", False),
        ("Created > 999", True),
        ("attribute.start_time > 999 and run_name = 'x'", False),
    ],
)
def test_filters(text, holds):
    assert matches(parse_filter(text, NUMBERS, TEXTS), lambda *key: RUN.get(key)) is holds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metrics.loss ~ 1", "column 14"),
        ("metrics.loss < 'a'", "without quotes"),
        ("params.kind = svc", "in quotes"),
        ("params.kind = 1", "in quotes"),
        ("params.kind < 'a'", "LIKE"),
        ("metrics.loss < 1 or metrics.loss > 2", "there is no OR"),
        ("metrics.loss < 1 and", "expected a name"),
        ("model.x = 'a'", "not 'model'"),
        ("stats = 'a'", "Did you mean 'status'"),
        ("status IN 'a'", "('a', 'b')"),
        ("metrics.loss IN (1)", "('a', 'b')"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_place(text, words):
    with pytest.raises(InvalidRequest) as refused:
        parse_filter(text, NUMBERS, TEXTS)
    assert words in refused.value.message


def test_order_keeps_what_has_no_value_last():
    runs = [("a", 2.0), ("b", None), ("c", 1.0), ("d", math.nan), ("e", 2.0)]
    look = lambda item: lambda entity, key: item[1]  # noqa: E731
    for text, names in (("metrics.loss", "caebd"), ("metrics.loss DESC", "aecbd")):
        assert "".join(n for n, _ in ordered(runs, parse_order([text], TEXTS), look)) == names
    with pytest.raises(InvalidRequest, match="order_by"):
        parse_order(["metrics.loss UPWARDS"], TEXTS)
