"""Codes that are good once: what a flood of them may do."""

from __future__ import annotations

import pytest

from tidemill.app.codes import CodeBook, DevicePending

NOW = 1_800_000_000_000_000


def test_one_address_that_begins_many_sign_ins_drops_nobody_else_s() -> None:
    book = CodeBook()
    mine = book.device("t", "10.0.0.1", "", NOW)
    last = [book.device("t", "10.0.0.2", "", NOW + number) for number in range(10_001)][-1]
    assert book.waiting(mine.user_code, NOW + 10_001) == mine
    assert book.waiting(last.user_code, NOW + 10_001) == last
    book.allow(mine, "ann", "")
    assert book.poll(mine.code, "t", NOW + 10_001).oid == "ann"
    with pytest.raises(DevicePending):
        book.poll(mine.code, "t", NOW + 10_001)
