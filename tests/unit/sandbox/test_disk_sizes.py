"""How large a node's work disk may be."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tidemill.sandbox import disk

GIB = 1 << 30
sizes = st.integers(0, 1 << 50)


def test_a_size_gets_the_disk_it_has_in_the_catalogue() -> None:
    assert disk.grant(14 * GIB, 500 * GIB, 400 * GIB, 0) == 14 * GIB


def test_without_a_size_it_is_half_of_what_is_left() -> None:
    assert disk.grant(0, 100 * GIB, 45 * GIB, 0) == 20 * GIB  # 5 are the server's


def test_too_little_is_none() -> None:
    assert disk.grant(14 * GIB, 500 * GIB, 20 * GIB, 0) == 0
    assert disk.grant(0, GIB, GIB, 0) == 0


@given(st.lists(sizes, min_size=1, max_size=12), sizes, st.integers(0, 100))
def test_nodes_are_never_promised_what_is_not_there(wanted: list[int], total: int, percent: int) -> None:
    free, promised = total * percent // 100, 0
    for want in wanted:
        size = disk.grant(want, total, free, promised)
        assert 0 <= size <= (want or free)
        assert size == 0 or size >= disk.SMALLEST
        promised += size
    assert promised <= max(0, free - disk.LEAST_RESERVE)


def test_what_images_may_still_take(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(1 << 20)
        file.write(os.urandom(256 << 10))
        file.flush()
        os.fsync(file.fileno())
    assert (700 << 10) < disk.promised([str(image), str(tmp_path / "absent")]) <= (768 << 10)
