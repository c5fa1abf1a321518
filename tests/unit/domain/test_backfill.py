"""The reservation against brute force: whatever it lets pass, the blocked job starts as early as without."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.domain.scheduling.backfill import reserve

NEVER = 10**9
ENDS = st.lists(st.tuples(st.none() | st.integers(1, 30), st.integers(1, 3)), min_size=1, max_size=5)
JOBS = st.lists(st.tuples(st.integers(1, 3), st.none() | st.integers(1, 40)), max_size=6)


def start_of(needs: int, free: int, ends: list[tuple[int, int]]) -> int:
    """The first instant at which `needs` nodes are free."""
    instants = [0, *sorted(end for end, _ in ends)]
    return next(
        (at for at in instants if free + sum(n for end, n in ends if end <= at) >= needs),
        NEVER,
    )


@settings(max_examples=500, deadline=None)
@example([(None, 1), (10, 2)], 2, 1, [(1, None)], [50, 1, 1, 1, 1])
@given(ENDS, st.integers(1, 4), st.integers(0, 8), JOBS, st.lists(st.integers(1, 60), min_size=5, max_size=5))
def test_what_passes_never_delays(
    ends: list[tuple[int | None, int]],
    free: int,
    more: int,
    jobs: list[tuple[int, int | None]],
    surprises: list[int],
) -> None:
    total = free + sum(nodes for _, nodes in ends)
    needs = min(total, free + 1 + more)
    found = reserve(needs, free, ends, 0)
    left, passed = free, list[tuple[int, int]]()
    for count, estimate in jobs:
        if count <= left and found.admits(count, estimate, 0):
            left -= count
            passed.append((NEVER if estimate is None else estimate, count))
    # Nodes whose end was not known end at some moment nobody foresaw.
    real = [
        (surprise if end is None else end, n) for (end, n), surprise in zip(ends, surprises, strict=False)
    ]
    without = start_of(needs, free, real)
    assert start_of(needs, left, [*real, *passed]) == without
    if found.expected_at is not None:
        assert found.expected_at == without


def test_the_edge_is_the_reserved_start_itself() -> None:
    ends = [(100, 2)]
    assert reserve(3, 2, ends, 0).admits(2, 100, 0)
    assert not reserve(3, 2, ends, 0).admits(2, 101, 0)
    assert reserve(3, 2, ends, 0).admits(1, None, 0)  # one node is left over at 100
    one_left = reserve(3, 2, ends, 0)
    assert one_left.admits(1, None, 0)
    assert not one_left.admits(1, None, 0)


def test_an_overrun_estimate_is_no_estimate() -> None:
    found = reserve(3, 2, [(50, 2)], 60)
    assert (found.at, found.extra, found.expected_at) == (60, 0, None)
