"""Times, money and tables as a person reads them."""

from __future__ import annotations

import pytest

from tidemill.cli import text
from tidemill.cli.output import Column, cell_width, key, table

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z


@pytest.mark.parametrize(
    ("iso", "shown"),
    [
        ("2023-11-14T22:13:20Z", "now"),
        ("2023-11-14T22:13:12.000000Z", "8 s ago"),
        ("2023-11-14T22:10:20Z", "3 min ago"),
        ("2023-11-14T17:13:20+00:00", "5 h ago"),
        ("2023-11-12T20:13:20Z", "2 days ago"),
        ("2023-10-01T12:00:00Z", "2023-10-01"),
        (None, "-"),
        ("soon", "-"),
    ],
)
def test_ago(iso: str | None, shown: str) -> None:
    assert text.ago(iso, NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.05, "0.05 s"),
        (12.34, "12.3 s"),
        (125, "2 min 05 s"),
        (3720, "1 h 02 min"),
        (90000, "1 d 01 h"),
        (None, "-"),
    ],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("usd", "shown"),
    [(0, "$0"), (1234.5, "$1,234.50"), (0.293, "$0.293"), (0.00031, "$0.000310"), (2, "$2.00"), (None, "-")],
)
def test_money(usd: float | None, shown: str) -> None:
    assert text.money(usd) == shown


def test_size_number_plain() -> None:
    assert [text.size(n) for n in (0, 1023, 1536, 200 * 1024**2)] == ["0 B", "1023 B", "1.5 KiB", "200.0 MiB"]
    assert text.number(0.9722222222) == "0.972222"
    assert text.plain({"a": True, "b": [1, None]}) == "a=yes, b=1, -"


COLUMNS = (
    Column("name", key("name"), wide=True),
    Column("status", key("status"), state=True),
    Column("took", key("s"), lambda v, now: text.duration(v), right=True),
)


def test_a_table_fits_the_terminal() -> None:
    rows = [
        {"name": "a" * 60, "status": "Running", "s": 1},
        {"name": "漢字" * 20, "status": "Failed", "s": 61},
    ]
    lines = table(rows, COLUMNS, NOW, 50)
    assert all(cell_width(line) <= 50 for line in lines)
    assert "…" in lines[1]
    assert "…" in lines[2]
    assert lines[0].split() == ["NAME", "STATUS", "TOOK"]
    assert lines[1].endswith("1.00 s")
    # A pipe gets everything.
    assert "a" * 60 in table(rows, COLUMNS, NOW, None)[1]


def test_color_only_when_asked_and_no_control_characters() -> None:
    rows = [{"name": "x\x1b[2J\ny", "status": "Failed", "s": None}]
    assert "\x1b" not in "".join(table(rows, COLUMNS, NOW, None))
    assert "\x1b[31mFailed\x1b[0m" in table(rows, COLUMNS, NOW, None, color=True)[1]
