"""When a service starts again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.agent.restarts import POLICIES, Restarts


def policy(name: str) -> Restarts:
    return Restarts(name, 0.5, 30.0, 10.0)


@pytest.mark.parametrize(
    ("name", "failed", "again"),
    [
        ("always", True, True),
        ("always", False, True),
        ("on-failure", True, True),
        ("on-failure", False, False),
        ("never", True, False),
        ("never", False, False),
    ],
)
def test_policies(name: str, failed: bool, again: bool) -> None:
    assert (policy(name).after(failed, 1.0) is not None) is again


def test_at_once_then_slower_up_to_the_cap() -> None:
    restarts = policy("always")
    assert [restarts.after(True, 0.1) for _ in range(9)] == [0.0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.count == 9


def test_a_steady_run_begins_anew() -> None:
    restarts = policy("always")
    for _ in range(5):
        restarts.after(True, 0.1)
    assert restarts.after(True, 10.0) == 0.0
    assert restarts.after(True, 0.1) == 0.5


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        policy("sometimes")


@given(
    st.sampled_from(POLICIES),
    st.lists(st.tuples(st.booleans(), st.floats(0, 1e6, allow_nan=False)), max_size=80),
)
def test_pauses_are_bounded_and_only_a_policy_ends_it(name: str, ends: list[tuple[bool, float]]) -> None:
    restarts = policy(name)
    for failed, ran in ends:
        pause = restarts.after(failed, ran)
        if pause is None:
            assert name == "never" or (name == "on-failure" and not failed)
        else:
            assert 0 <= pause <= 30


def test_thousands_of_ends_in_a_row() -> None:
    restarts = policy("always")
    for _ in range(5000):
        assert (restarts.after(True, 0.0) or 0) <= 30
