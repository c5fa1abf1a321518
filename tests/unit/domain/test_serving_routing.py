"""Which deployment and which instance gets a request."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.serving.limits import BODY, RATE, EndpointLimits, read_limits
from tidemill.domain.serving.routes import MOST_BODY
from tidemill.domain.serving.routing import Deck, least_loaded


@dataclass
class One:
    in_flight: int = 0
    down_until: float = 0.0


def test_ninety_to_ten_is_exactly_that() -> None:
    deck = Deck((("blue", 90), ("green", 10)), random.Random(7).shuffle)
    dealt = Counter(deck.deal() for _ in range(100_000))
    assert dealt == {0: 90_000, 1: 10_000}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(), st.integers(1, 7))
def test_each_hundred_is_exact_whatever_the_shares(percents: list[int], seed: int, hundreds: int) -> None:
    shares = [(f"d{at}", percent) for at, percent in enumerate(percents)]
    if sum(percents) > 100:
        with pytest.raises(ValueError, match="percent"):
            Deck(shares, random.Random(seed).shuffle)
        return
    deck = Deck(shares, random.Random(seed).shuffle)
    for _ in range(hundreds):
        dealt = Counter(deck.deal() for _ in range(100))
        assert all(dealt[at] == percent for at, percent in enumerate(percents))
        assert dealt[-1] == 100 - sum(percents)


def test_callers_in_turns_meet_both() -> None:
    """Every second request is somebody's: with an even 50/50 pattern they would always meet the same one."""
    deck = Deck((("blue", 50), ("green", 50)), random.Random(1).shuffle)
    mine = Counter(deck.deal() for at in range(1000) if at % 2)
    assert mine[0] > 150
    assert mine[1] > 150


@given(
    st.lists(st.builds(One, st.integers(0, 4), st.sampled_from([0.0, 9.0])), max_size=6), st.integers(0, 20)
)
def test_the_least_loaded_that_can_be_reached(instances: list[One], turn: int) -> None:
    chosen = least_loaded(instances, 3, 5.0, turn)
    free = [one for one in instances if one.in_flight < 3 and one.down_until <= 5.0]
    if not free:
        assert chosen is None
    else:
        assert chosen in free
        assert chosen.in_flight == min(one.in_flight for one in free)


def test_equals_take_turns() -> None:
    instances = [One(), One(), One()]
    picked = Counter(id(least_loaded(instances, 1, 0.0, turn)) for turn in range(6))
    assert set(picked.values()) == {2}


def test_limits_of_an_endpoint() -> None:
    assert read_limits({}) == EndpointLimits()
    assert read_limits({RATE: "2.5", BODY: 1000}) == EndpointLimits(2.5, 1000)
    for bad in ({RATE: 0}, {RATE: "x"}, {BODY: MOST_BODY + 1}, {BODY: None, RATE: []}):
        with pytest.raises(InvalidRequest, match="tidemill"):
            read_limits(bad)
