"""Times of cron and recurrence triggers: zones, daylight saving, patterns, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.timezones import find_zone, instant, micros, wall_clock
from tidemill.domain.triggers import MOST_INTERVAL, WEEKDAYS, Trigger, next_after, read_trigger

BERLIN = "W. Europe Standard Time"


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def cron(expression: str, zone: str = "UTC", **more: Any) -> Trigger:
    return read_trigger({"triggerType": "Cron", "expression": expression, "timeZone": zone, **more})


def every(frequency: str, interval: int = 1, zone: str = "UTC", **more: Any) -> Trigger:
    given = {"triggerType": "Recurrence", "frequency": frequency, "interval": interval, "timeZone": zone}
    return read_trigger({**given, **more})


def times(trigger: Trigger, after: str, count: int, anchor: str = "") -> list[str]:
    """The next times, as clocks of its zone show them."""
    found: list[str] = []
    last: int | None = at(after)
    while len(found) < count and last is not None:
        last = next_after(trigger, at(anchor or after), last)
        if last is not None:
            found.append(wall_clock(last, find_zone(trigger.zone)).isoformat(" ", "minutes"))
    return found


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("W. Europe Standard Time", "Europe/Berlin"),
        ("w. europe standard time", "Europe/Berlin"),
        ("Pacific Standard Time", "America/Los_Angeles"),
        ("Kamchatka Standard Time", "Asia/Kamchatka"),
        ("UTC+12", "Etc/GMT-12"),
        ("Europe/Paris", "Europe/Paris"),
        ("europe/paris", "Europe/Paris"),
        ("utc", "UTC"),
    ],
)
def test_zones_by_windows_and_iana_names(name: str, known: str):
    assert find_zone(name).key == known


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Berln", "Did you mean 'Europe/Berlin'?"),
        ("W. Europe Standart Time", "Did you mean 'W. Europe Standard Time'?"),
        ("../../etc/passwd", "Use UTC"),
        ("\0", "Use UTC"),
        ("", "Use UTC"),
    ],
)
def test_no_zone(name: str, hint: str):
    with pytest.raises(ValueError, match=hint.replace("?", r"\?")):
        find_zone(name)


def test_cron_in_a_zone():
    assert times(cron("0 6 * * 1-5", BERLIN), "2026-03-06 12:00", 3) == [
        "2026-03-09 06:00",
        "2026-03-10 06:00",
        "2026-03-11 06:00",
    ]


def test_a_time_in_the_gap_is_the_first_minute_after_it():
    """On 2026-03-29 clocks in Berlin go from 02:00 to 03:00."""
    for trigger in (
        cron("30 2 * * *", BERLIN),
        every("day", zone=BERLIN, schedule={"hours": [2], "minutes": [30]}),
    ):
        assert times(trigger, "2026-03-28 12:00", 2) == ["2026-03-29 03:00", "2026-03-30 02:30"]
    # Two that become the same minute are one.
    assert times(cron("0 2,3 * * *", BERLIN), "2026-03-28 12:00", 2) == [
        "2026-03-29 03:00",
        "2026-03-30 02:00",
    ]


def test_a_time_that_comes_twice_is_its_first():
    """On 2026-10-25 clocks in Berlin go from 03:00 back to 02:00."""
    for trigger in (
        cron("30 2 * * *", BERLIN),
        every("day", zone=BERLIN, schedule={"hours": [2], "minutes": [30]}),
    ):
        first = next_after(trigger, 0, at("2026-10-24 12:00"))
        assert first == at("2026-10-25 00:30")
        assert next_after(trigger, 0, first) == at("2026-10-26 01:30")
        # Also when somebody looks between the two.
        assert next_after(trigger, 0, at("2026-10-25 01:10")) == at("2026-10-26 01:30")


def test_what_repeats_within_a_day_goes_by_elapsed_time():
    for trigger in (cron("*/30 * * * *", BERLIN), every("minute", 30, BERLIN)):
        found = [at("2026-10-24 23:30")]
        for _ in range(6):
            found.append(next_after(trigger, at("2026-10-24 23:00"), found[-1]) or 0)
        assert {b - a for a, b in pairwise(found)} == {30 * 60 * 1_000_000}


def test_recurrences():
    weekly = every("week", 2, schedule={"hours": [10], "minutes": [15], "weekDays": ["Monday", "friday"]})
    assert times(weekly, "2026-03-02 00:00", 4) == [
        "2026-03-02 10:15",
        "2026-03-06 10:15",
        "2026-03-16 10:15",
        "2026-03-20 10:15",
    ]
    monthly = every("month", schedule={"hours": [1], "minutes": [0], "monthDays": [31]})
    assert times(monthly, "2026-01-15 00:00", 3) == [
        "2026-01-31 01:00",
        "2026-03-31 01:00",
        "2026-05-31 01:00",
    ]
    # Without a schedule: the time of day, and the day, of the start.
    assert times(every("day", 3, startTime="2026-01-01T07:20:00"), "2026-01-05 00:00", 2) == [
        "2026-01-07 07:20",
        "2026-01-10 07:20",
    ]
    assert times(every("month", startTime="2026-01-20 07:20:00"), "2026-01-05 00:00", 2) == [
        "2026-01-20 07:20",
        "2026-02-20 07:20",
    ]
    # Without a start: from when it was made, not at once.
    assert times(every("hour", 6), "2026-01-05 00:10", 2) == ["2026-01-05 06:10", "2026-01-05 12:10"]


def test_start_and_end():
    trigger = cron("0 * * * *", startTime="2026-01-01T10:00:00", endTime="2026-01-01T12:00:00")
    assert times(trigger, "2025-12-01 00:00", 9) == [
        "2026-01-01 10:00",
        "2026-01-01 11:00",
        "2026-01-01 12:00",
    ]
    local = cron("0 * * * *", BERLIN, startTime="2026-01-01 10:00:00")
    assert next_after(local, 0, 0) == at("2026-01-01 09:00")
    assert read_trigger({"expression": "0 * * * *", "startTime": "2026-01-01T10:00:00Z"}).start_at == at(
        "2026-01-01 10:00"
    )


def test_leap_days_are_found_and_days_that_never_come_are_not():
    leap = every(
        "month", 11, startTime="2026-03-01", schedule={"hours": [0], "minutes": [0], "monthDays": [29]}
    )
    assert times(leap, "2026-03-01 00:00", 1)
    never = every(
        "month", 12, startTime="2026-02-01", schedule={"hours": [0], "minutes": [0], "monthDays": [30]}
    )
    assert times(never, "2026-02-01 00:00", 1) == []


def test_words():
    assert cron("0 6 * * 1-5", BERLIN).words == "0 6 * * 1-5, Europe/Berlin"
    assert every("day").words == "every day, UTC"
    weekly = every("week", 2, schedule={"hours": [6], "minutes": [0], "weekDays": ["Monday"]})
    assert weekly.words == "every 2 weeks on Monday at 06:00, UTC"


@pytest.mark.parametrize(
    ("raw", "target", "says"),
    [
        (None, "", "needs a trigger"),
        ({"triggerType": "Sunrise"}, ".triggerType", "'Sunrise' is not known"),
        ({"expression": "0 25 * * *"}, ".expression", "'25' is no hour"),
        ({"expression": "0 0 0 * * *"}, ".expression", "has 6 fields: write five"),
        ({"triggerType": "Cron"}, ".expression", "has 0 fields"),
        ({"expression": "0 0 31 2 *"}, ".expression", "never comes"),
        ({"expression": 5}, ".expression", "must be text, not 5"),
        ({"expression": "0 " * 150}, ".expression", "write five"),
        ({"expression": "* * * * *", "timeZone": "Moon"}, ".timeZone", "no time zone"),
        ({"expression": "* * * * *", "startTime": "soon"}, ".startTime", "'soon' is no time"),
        (
            {"expression": "* * * * *", "startTime": "2026-02-01", "endTime": "2026-01-01"},
            ".endTime",
            "before its startTime",
        ),
        ({"frequency": "fortnight"}, ".frequency", "Use minute, hour, day, week, month"),
        ({"frequency": "day", "interval": 0}, ".interval", "from 1 to 500"),
        ({"frequency": "day", "interval": True}, ".interval", "from 1 to 500"),
        (
            {"frequency": "day", "schedule": {"hours": [24]}},
            ".schedule.hours",
            "24 among the trigger's hours",
        ),
        ({"frequency": "week", "schedule": {"weekDays": ["Mon"]}}, ".schedule.weekDays", "'Mon'"),
        ({"frequency": "hour", "schedule": {"minutes": [5]}}, ".schedule", "use a cron expression"),
        ({"frequency": "week", "schedule": {"monthDays": [5]}}, ".schedule.monthDays", "frequency month"),
    ],
)
def test_what_is_refused_names_the_field(raw: Any, target: str, says: str):
    with pytest.raises(InvalidRequest) as caught:
        read_trigger(raw)
    assert caught.value.target == f"properties.trigger{target}"
    assert says in caught.value.message


_ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
_MOMENTS = st.integers(at("2024-01-01 00:00") // 1_000_000, at("2031-01-01 00:00") // 1_000_000)


@st.composite
def triggers(draw: st.DrawFn) -> Trigger:
    zone = draw(_ZONES)
    if draw(st.booleans()):
        minute, hour = (draw(st.one_of(st.just("*"), st.integers(0, 23).map(str))) for _ in range(2))
        return cron(f"{minute} {hour} * * *", zone)
    frequency = draw(st.sampled_from([name.lower() for name in MOST_INTERVAL]))
    schedule: dict[str, Any] = {}
    if frequency not in ("minute", "hour"):
        schedule["hours"] = draw(st.lists(st.integers(0, 23), max_size=3))
        schedule["minutes"] = draw(st.lists(st.integers(0, 59), max_size=3))
        if frequency == "week":
            schedule["weekDays"] = draw(st.lists(st.sampled_from(WEEKDAYS), max_size=3))
        if frequency == "month":
            schedule["monthDays"] = draw(st.lists(st.integers(1, 28), max_size=3))
    return every(frequency, draw(st.integers(1, 5)), zone, schedule=schedule)


@given(triggers(), _MOMENTS, _MOMENTS)
@settings(deadline=None)
def test_the_next_time_does_not_depend_on_when_one_looks(trigger: Trigger, anchor: int, after: int):
    anchor, after = anchor * 1_000_000, max(anchor, after) * 1_000_000
    first = next_after(trigger, anchor, after)
    assert first is not None
    assert first > after
    assert next_after(trigger, anchor, (after + first) // 2) == first
    assert next_after(trigger, anchor, first - 1) == first
    second = next_after(trigger, anchor, first)
    assert second is not None
    assert second > first


@given(_ZONES, st.datetimes(datetime(2024, 1, 1), datetime(2031, 1, 1)))
def test_an_instant_shows_its_wall_clock_or_the_end_of_the_gap(zone: str, wall: datetime):
    shown = wall_clock(instant(wall, find_zone(zone)), find_zone(zone))
    assert shown == wall or timedelta(0) < shown - wall <= timedelta(hours=1)
