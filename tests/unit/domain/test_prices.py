from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.model import Interval, Scope
from tidemill.domain.prices import (
    HOUR,
    PricePeriod,
    amount,
    check_intervals,
    cost,
    run_rate,
)

BASE = Interval(
    "n1", "node", "n1", "c1", Scope("s", "g", "w"), "D2", "dedicated", "westeurope", 0, 0, "boot", 0
)
DOLLAR = [PricePeriod(0, Decimal("1.0"), "list 2025")]


def interval(start: int, end: int | None, uid: str = "n1", node: str = "n1", kind: str = "node") -> Interval:
    return replace(BASE, id=uid, node_id=node, kind=kind, started_at=start, ended_at=end, last_seen_at=start)


def test_an_hour_costs_the_hourly_price() -> None:
    found = cost([interval(0, HOUR)], lambda _: DOLLAR, HOUR * 9)
    assert (found.micro_usd, found.usd, found.seconds, found.open) == (1_000_000, Decimal(1), 3600.0, False)
    assert found.lines[0].basis == "list 2025"


def test_an_open_interval_costs_until_now_and_says_so() -> None:
    found = cost([interval(0, None)], lambda _: DOLLAR, HOUR // 2)
    assert (found.micro_usd, found.open) == (500_000, True)
    assert cost([interval(100, None)], lambda _: DOLLAR, 50).micro_usd == 0  # never negative


def test_a_price_that_changes_splits_the_interval_without_gap() -> None:
    periods = [PricePeriod(HOUR, Decimal(2)), PricePeriod(0, Decimal(1)), PricePeriod(3 * HOUR, Decimal(4))]
    found = cost([interval(HOUR // 2, 2 * HOUR)], lambda _: periods, 9 * HOUR)
    assert [(line.started_at, line.ended_at, line.micro_usd) for line in found.lines] == [
        (HOUR // 2, HOUR, 500_000),
        (HOUR, 2 * HOUR, 2_000_000),
    ]


def test_time_before_the_first_price_is_at_the_first_price() -> None:
    periods = [PricePeriod(HOUR, Decimal(2)), PricePeriod(2 * HOUR, Decimal(3))]
    assert cost([interval(0, HOUR)], lambda _: periods, 9 * HOUR).usd == 2


def test_a_size_without_a_price_costs_nothing_and_is_counted() -> None:
    found = cost([interval(0, HOUR)], lambda _: [], HOUR)
    assert (found.micro_usd, found.unpriced_seconds) == (0, 3600.0)


def test_run_rate_counts_what_is_open_at_the_price_of_now() -> None:
    periods = [PricePeriod(0, Decimal("0.1")), PricePeriod(HOUR, Decimal("0.2"))]
    held = [interval(0, None), interval(0, None, "n2", "n2"), interval(0, 5, "n3", "n3")]
    assert run_rate(held, lambda _: periods, HOUR - 1) == Decimal("0.2")
    assert run_rate(held, lambda _: periods, HOUR) == Decimal("0.4")


def test_money_is_exact() -> None:
    assert amount(HOUR, Decimal("0.1")) == 100_000
    assert amount(1, Decimal("3.6")) == 0
    assert amount(1_000, Decimal("3.6")) == 1


@given(
    st.integers(0, 10 * HOUR),
    st.integers(0, 10 * HOUR),
    st.lists(st.tuples(st.integers(0, 20 * HOUR), st.integers(0, 10**6)), min_size=1, max_size=4),
)
def test_lines_cover_the_interval_once_and_add_up(
    start: int, length: int, sheet: list[tuple[int, int]]
) -> None:
    by_day = {since: PricePeriod(since, Decimal(price) / 10_000) for since, price in sheet}
    found = cost([interval(start, start + length)], lambda _: list(by_day.values()), 99 * HOUR)
    assert found.lines[0].started_at == start
    assert found.lines[-1].ended_at == start + length
    for one, other in zip(found.lines, found.lines[1:], strict=False):
        assert one.ended_at == other.started_at
    assert found.micro_usd == sum(line.micro_usd for line in found.lines)
    assert found.seconds == length / 1_000_000


def test_a_good_ledger_has_no_faults() -> None:
    assert check_intervals([interval(0, 10, "a"), interval(10, None, "b"), interval(3, 4, "c", "n2")]) == []
    jobs = [interval(0, 3, "a1", kind="allocation"), interval(5, None, "a2", kind="allocation")]
    assert check_intervals([interval(0, None), *jobs]) == []  # between jobs a node is idle


def test_faults_are_named() -> None:
    cases = {
        "gap": [interval(0, 10, "a"), interval(12, 20, "b")],
        "overlap": [interval(0, 10, "a"), interval(8, 20, "b")],
        "open": [interval(0, None, "a"), interval(8, 20, "b")],
        "backwards": [interval(10, 8, "a")],
        "heartbeat": [replace(interval(10, None, "a"), last_seen_at=4)],
    }
    for kind, intervals in cases.items():
        (fault,) = check_intervals(intervals)
        assert fault.kind == kind
        assert "a" in fault.sentence
    assert check_intervals(cases["gap"], gaps=False) == []
    inside = [interval(0, 100, "a"), interval(10, 20, "b"), interval(30, 40, "c")]
    assert [fault.micros for fault in check_intervals(inside)] == [90, 70]
