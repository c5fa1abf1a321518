"""Autoscaling: up at once, down when it is calm, to zero when nobody asks; never to and fro."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.serving.scaling import SECOND, Memory, Policy, Sample, scale

POLICY = Policy(1, 10, target_percent=70, max_concurrent=10)  # 7 at once per instance
TO_ZERO = Policy(0, 10, target_percent=70, max_concurrent=10, idle_us=30 * SECOND)


class Run:
    """A deployment on a clock that the test moves, asked each second."""

    def __init__(self, policy: Policy, wanted: int = 1) -> None:
        self.policy, self.wanted, self.now = policy, wanted, 1_000 * SECOND
        self.memory, self.last_at = Memory(), 0
        self.changes: list[tuple[int, int, str]] = []

    def at_load(self, load: float, seconds: int, cpu: float | None = None) -> None:
        for _ in range(seconds):
            self.now += SECOND
            if load:
                self.last_at = self.now
            held = round(load) if not self.wanted else 0
            done = scale(
                self.policy, self.wanted, Sample(self.now, load, cpu, held, self.last_at), self.memory
            )
            self.memory = done.memory
            if done.wanted != self.wanted:
                assert done.why
                self.changes.append((self.now, done.wanted, done.why))
                self.wanted = done.wanted


def counts(run: Run) -> list[int]:
    return [count for _, count, _ in run.changes]


def test_up_at_once_and_down_after_a_calm_minute() -> None:
    run = Run(POLICY)
    run.at_load(35, 5)
    assert counts(run) == [5]
    assert "35 requests at once, the target is 7 per instance" in run.changes[0][2]
    run.at_load(7, 59)
    assert counts(run) == [5]
    run.at_load(7, 5)
    assert counts(run) == [5, 1]


def test_a_dip_in_a_busy_hour_changes_nothing() -> None:
    run = Run(POLICY)
    for _ in range(60):
        run.at_load(35, 30)
        run.at_load(1, 30)
    assert counts(run) == [5]


def test_bounds_hold() -> None:
    run = Run(POLICY)
    run.at_load(100_000, 3)
    assert counts(run) == [10]
    lower = Run(Policy(2, 4), wanted=9)
    lower.at_load(0, 1)
    assert counts(lower) == [4]


def test_cpu_counts_where_it_is_busier() -> None:
    run = Run(POLICY, wanted=2)
    run.at_load(1, 1, cpu=1.9)
    assert counts(run) == [3]
    assert "CPU" in run.changes[0][2]


def test_near_the_target_is_at_the_target() -> None:
    run = Run(POLICY, wanted=5)
    run.at_load(37, 300)  # 5.3 instances
    assert counts(run) == []


def test_asleep_after_its_idle_time_and_awake_with_the_first_request() -> None:
    run = Run(TO_ZERO)
    run.at_load(2, 5)
    run.at_load(0, 29)
    assert counts(run) == []
    run.at_load(0, 2)
    assert counts(run) == [0]
    assert run.changes[0][2] == "nothing was asked of it for 30 s"
    run.at_load(1, 1)
    assert counts(run) == [0, 1]
    run.at_load(0, 29)
    assert counts(run) == [0, 1]


def test_a_tenfold_burst_wakes_as_many_as_it_needs() -> None:
    run = Run(TO_ZERO, wanted=0)
    run.at_load(70, 1)
    assert counts(run) == [10]


def test_it_says_when_it_would_change_by_itself() -> None:
    done = scale(TO_ZERO, 1, Sample(1_000 * SECOND, 0, last_at=990 * SECOND), Memory(900 * SECOND))
    assert done.again_at == 1_020 * SECOND


LOADS = st.lists(st.tuples(st.floats(0, 200, allow_nan=False), st.integers(1, 90)), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(LOADS, st.booleans())
def test_it_never_flaps(loads: list[tuple[float, int]], sleeps: bool) -> None:
    """Fewer instances only a calm while after the last time that as many were asked for; so between one more
    and one fewer lies at least that while. And what stays the same for long enough settles."""
    run = Run(TO_ZERO if sleeps else POLICY)
    for load, seconds in loads:
        run.at_load(load, seconds)
    before, up_at = 1, 0
    for at, count, _ in run.changes:
        if count > before:
            up_at = at
        elif up_at:
            calm = run.policy.idle_us if count == 0 else run.policy.calm_us
            assert at - up_at >= calm - SECOND
        before = count
    run.at_load(loads[-1][0], 200)
    settled = len(run.changes)
    run.at_load(loads[-1][0], 600)
    assert len(run.changes) == settled


@settings(max_examples=100, deadline=None)
@given(LOADS)
def test_it_always_has_what_the_moment_asks_for(loads: list[tuple[float, int]]) -> None:
    run = Run(POLICY)
    for load, seconds in loads:
        run.at_load(load, seconds)
        assert run.wanted >= min(10, load / POLICY.per_instance * 0.89)
