"""What may stand still at once."""

from __future__ import annotations

from tidemill.domain.serving.parking import MOST, SCARCE, SHARE, Parked, bound, excess

MIB = 1 << 20
PLENTY = 4 * SCARCE


def held(*mib: int) -> list[Parked]:
    """Named by their order, the first parked first."""
    return [Parked(f"n{number}", number, size * MIB) for number, size in enumerate(mib)]


def gone(found: list[Parked], most: int, free: int | None = PLENTY) -> list[str]:
    return [node for node, _ in excess(found, most, free)]


def test_within_its_bound_everything_stays() -> None:
    assert gone(held(100, 100), 200 * MIB) == []
    assert gone([], 0) == []


def test_the_oldest_goes_first() -> None:
    assert gone(held(100, 100, 100), 200 * MIB) == ["n0"]
    assert gone(held(10, 300, 100), 200 * MIB) == ["n0", "n1"]
    assert gone(held(*[1] * (MOST + 2)), PLENTY) == ["n0", "n1"]


def test_each_is_told_why() -> None:
    (told,) = excess(held(100, 100), 150 * MIB, PLENTY)
    assert told == ("n0", "150 MiB may be parked at once, and it was parked first")
    (told,) = excess(held(*[1] * (MOST + 1)), PLENTY, PLENTY)
    assert told[1] == "32 instances may be parked at once, and it was parked first"


def test_a_host_short_of_memory_gives_up_one_at_a_time() -> None:
    assert gone(held(100, 100), PLENTY, SCARCE - 1) == ["n0"]
    assert gone(held(100, 100), PLENTY, None) == []


def test_what_cannot_be_bounded_is_not_parked() -> None:
    assert gone([Parked("n", 1, None)], PLENTY) == ["n"]


def test_the_bound_is_what_was_said_or_a_share_of_the_host() -> None:
    assert bound(-1, 16 << 30) == (16 << 30) // SHARE
    assert bound(0, 16 << 30) == 0
    assert bound(300, 16 << 30) == 300 * MIB
