"""quota, autoscale, units and shares."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling_world import ELASTIC, GIB, GPU, LARGE, SMALL, STRICT, cluster, job

from tidemill.domain.admission import admit
from tidemill.domain.autoscale import Fleet, shrink, to_fill, wanted
from tidemill.domain.model import Vector
from tidemill.domain.scheduling.shares import FairShare, crossing, dominant_rate
from tidemill.domain.scheduling.types import Host, Usage
from tidemill.domain.units import (
    human_bytes,
    human_duration,
    human_usd,
    join_words,
    parse_duration,
    plural,
)

# ---------------------------------------------------------------- quota


def test_what_fits_is_admitted() -> None:
    assert admit(job("a", nodes=2), cluster(high=2), ELASTIC) is None
    assert admit(job("a", nodes=9), cluster(node=LARGE, high=9), ELASTIC) is None  # elastic shares
    assert admit(job("a", nodes=2), cluster(node=GPU, high=2), ELASTIC) is None
    assert admit(job("a", nodes=2), cluster(node=LARGE, high=2), STRICT) is None


def test_a_gang_larger_than_the_maximum_names_both() -> None:
    refusal = admit(job("a", nodes=4), cluster(high=2), ELASTIC)
    assert refusal is not None
    assert refusal.code == "GangTooLarge"
    assert refusal.message == (
        "Job 'job-a' needs 4 nodes at once but compute 'c1-cluster' has at most 2: "
        "lower instance_count or raise the cluster's max_instances."
    )


def test_gpus_asked_and_had() -> None:
    refusal = admit(job("a", nodes=2), cluster(node=replace(GPU, gpus=2), high=2), ELASTIC)
    assert refusal is not None
    assert refusal.code == "GpusMissing"
    assert "needs 4 GPUs (2 nodes with 2 each)" in refusal.message
    assert "this host has 2" in refusal.message


def test_strict_refuses_what_the_host_can_never_hold() -> None:
    refusal = admit(job("a", nodes=3), cluster(node=LARGE, high=3), STRICT)
    assert refusal is not None
    assert refusal.code == "HostTooSmall"
    assert "needs 3 nodes of size S2 (12 vCPU and 24 GiB) but this host has 10 vCPU and 24 GiB" in (
        refusal.message
    )
    held = admit(job("a", nodes=2), cluster(node=LARGE, high=2), STRICT, Vector(4000, GIB))
    assert held is not None
    assert held.code == "HostHeld"


# ---------------------------------------------------------------- autoscale

COUNTS = st.integers(0, 6)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 100))
def test_scaling_keeps_its_bounds_and_never_flaps(
    low: int, more: int, busy: int, idle: int, coming: int, closing: int, lost: int, planned: int, now: int
) -> None:
    fleet = Fleet(low, low + more, busy, idle, coming, closing, lost)
    planned = min(planned, fleet.slots)
    assert fleet.live + to_fill(fleet) <= max(fleet.live, fleet.maximum)
    result = shrink(fleet, planned, sorted(range(idle)), 3, now)
    left = replace(fleet, idle=idle - result.over - result.due)
    assert result.over + result.due <= idle
    assert left.usable >= min(wanted(fleet, planned), fleet.usable)  # what was closed is not opened again
    if result.over + result.due:
        assert to_fill(left) == 0
    if result.next_at is not None:
        assert result.next_at > now


# ---------------------------------------------------------------- shares


def test_dominant_rate_is_the_largest_part() -> None:
    host = Host(Vector(10_000, 100 * GIB), ("a", "b"))
    assert dominant_rate(host, Vector(1000, 50 * GIB), 1) == 500_000_000
    assert dominant_rate(host, Vector(1000, GIB, 1), 2) == 1_000_000_000
    assert dominant_rate(Host(Vector()), SMALL, 1) == 1


@given(
    st.lists(st.tuples(st.integers(1, 10**8), st.integers(1, 10**9)), max_size=6),
    st.integers(0, 10**9),
)
def test_usage_is_the_decayed_integral_of_what_was_held(runs: list[tuple[int, int]], wait: int) -> None:
    half_life = 10**8
    shares = FairShare(half_life)
    now, spans = 0, []
    for length, rate in runs:
        shares.change("t", rate, now)
        shares.change("t", -rate, now + length)
        spans.append((now, now + length, rate))
        now += length
    now += wait
    closed_form = sum(
        rate * (math.exp2(-(now - end) / half_life) - math.exp2(-(now - start) / half_life))
        for start, end, rate in spans
    )
    assert shares.share("t", now) == pytest.approx(closed_form, rel=1e-6, abs=1e-3)
    if runs:
        assert shares.usages["t"].rate == 0  # releasing takes back exactly what assigning added


def test_crossing_is_when_the_order_changes() -> None:
    busy, rested = Usage(0.0, 0, 10), Usage(30.0, 0, 0)
    at = crossing(busy, 1.0, rested, 1.0, 0, 1000)
    assert at is not None
    shares = FairShare(1000)
    shares.usages = {"busy": busy, "rested": rested}
    assert shares.share("busy", at - 2) < shares.share("rested", at - 2)
    assert shares.share("busy", at) > shares.share("rested", at)
    assert crossing(rested, 1.0, replace(rested, value=10.0), 1.0, 0, 1000) is None


# ---------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT2M", 120), ("PT1H30M", 5400), ("P1DT1S", 86401), ("PT0.5S", 0.5), ("P1W", 604800), ("pt5s", 5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "5", "2m", "PT5", "P1Y", "P1M", "-PT1S", "PT1S2M", "P1DT"])
def test_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        parse_duration(text)


def test_words() -> None:
    assert [human_duration(us) for us in (0, 900, 12_000, 1_540_000, 120_000_000, 90_000_000_000)] == [
        "0 s",
        "900 us",
        "12 ms",
        "1.5 s",
        "2 min",
        "1 d 1 h",
    ]
    assert [human_bytes(n) for n in (0, 1000, 1023 * 1024, 14 * GIB)] == [
        "0 B",
        "1000 B",
        "1023 KiB",
        "14 GiB",
    ]
    assert [human_usd(n) for n in (0, 12, 9_999, 1_234_567, -5_000)] == [
        "$0.00",
        "$0.000012",
        "$0.009999",
        "$1.23",
        "-$0.005",
    ]
    assert [plural(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert join_words(["a", "b", "c"]) == "a, b and c"
    assert join_words(list("abcdefgh"), most=2) == "a, b and 6 more"
