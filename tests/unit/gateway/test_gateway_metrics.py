"""Times in buckets, and what they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.gateway.metrics import WINDOW_S, Metrics, Times, percentiles, upper_us

_TIMES = st.lists(st.integers(0, 10**8), min_size=1, max_size=60)


@given(_TIMES, st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_at_most_a_quarter_too_long(times: list[int], share: float) -> None:
    kept = Times()
    for us in times:
        kept.add(us)
    (said,) = percentiles([kept], [share])
    rank = next(at for at in range(1, len(times) + 1) if at >= share * len(times))
    right = sorted(times)[rank - 1]
    assert said is not None
    assert right < said * 1000 <= right * 1.25 + 1.001


@given(st.integers(0, 10**9))
def test_each_time_is_below_the_end_of_its_bucket(us: int) -> None:
    kept = Times()
    kept.add(us)
    bucket = kept.counts.index(1)
    assert us < upper_us(bucket)


@given(_TIMES)
def test_doublings_count_what_took_less(times: list[int]) -> None:
    metrics = Metrics()
    for at, us in enumerate(times):
        metrics.answered(us, 200)
        metrics.turn(at * WINDOW_S / 3)
    for bound, count in metrics.below():
        assert count == sum(us < bound for us in times)


def test_without_requests_there_are_none_and_old_ones_are_forgotten() -> None:
    metrics = Metrics()
    assert metrics.report(0.0)["p50_ms"] is None
    metrics.answered(5000, 200)
    metrics.answered(5000, 503)
    said = metrics.report(100.0)
    assert (said["requests"], said["errors"]) == (2, 1)
    later = metrics.report(100.0 + 3 * WINDOW_S)
    assert (later["p50_ms"], later["requests"], later["rate"]) == (None, 2, 0.0)
