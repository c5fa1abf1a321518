"""Which deployment, and which of its instances, a request goes to. Randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Shuffle = Callable[[list[int]], None]


class Load(Protocol):
    """An instance, as the choice sees it."""

    in_flight: int
    down_until: float  # it could not be reached: seconds of the clock that `now` is of


L = TypeVar("L", bound=Load)


class Deck:
    """Shares of traffic, dealt like cards: a hundred cards hold each deployment exactly as often as its
    percent says, in an order that is shuffled anew for each hundred. So a split is exact over every hundred
    requests from its start, and callers that come in turns never always meet the same deployment.

    Shares that sum to less than 100 (a mirror's) leave cards of nobody: -1."""

    __slots__ = ("_cards", "_left", "_shuffle", "shares")

    def __init__(self, shares: Sequence[tuple[str, int]], shuffle: Shuffle) -> None:
        """`shares`: (name, percent). Raises ValueError where they sum to more than 100."""
        self.shares = tuple(shares)
        self._shuffle = shuffle
        self._cards = [at for at, (_, percent) in enumerate(shares) for _ in range(percent)]
        if len(self._cards) > 100:
            raise ValueError(f"shares of {len(self._cards)} percent")
        self._cards += [-1] * (100 - len(self._cards))
        self._left: list[int] = []

    def deal(self) -> int:
        """The place in `shares` of the one that gets the next request, or -1."""
        if not self._left:
            self._left = self._cards.copy()
            self._shuffle(self._left)
        return self._left.pop()


def least_loaded(instances: Sequence[L], most: int, now: float, turn: int) -> L | None:
    """The one with the fewest requests among those that have less than `most` and can be reached, as far as
    is known; None where there is none. Among equals they take turns: `turn` counts up."""
    best: L | None = None
    count = len(instances)
    for step in range(count):
        one = instances[(turn + step) % count]
        if (
            one.in_flight < most
            and one.down_until <= now
            and (best is None or one.in_flight < best.in_flight)
        ):
            best = one
            if not one.in_flight:
                break
    return best
