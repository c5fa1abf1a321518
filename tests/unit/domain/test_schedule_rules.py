"""What becomes of times that have passed: at most one run, the latest, within the catch-up time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.schedules import CATCH_UP_US, MOST_COUNTED, ON_TIME_US, catch_up_of, due, run_name
from tidemill.domain.timezones import micros
from tidemill.domain.triggers import Trigger, next_after, read_trigger

HOUR = 3600 * 1_000_000


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


NIGHTLY = read_trigger({"expression": "0 2 * * *"})


def test_on_time():
    planned = at("2026-03-02 02:00")
    found = due(NIGHTLY, 0, planned, planned + 5, CATCH_UP_US)
    assert (found.run, found.late, found.skipped) == (planned, False, 0)
    assert found.next_at == at("2026-03-03 02:00")


def test_after_downtime_the_latest_is_run_and_the_others_are_skipped():
    planned, now = at("2026-03-02 02:00"), at("2026-03-05 08:00")
    found = due(NIGHTLY, 0, planned, now, CATCH_UP_US)
    assert (found.run, found.late) == (at("2026-03-05 02:00"), True)
    assert (found.skipped, found.skipped_from) == (3, planned)
    assert found.next_at == at("2026-03-06 02:00")


def test_what_is_older_than_the_catch_up_time_is_not_run():
    planned, now = at("2026-03-02 02:00"), at("2026-03-02 08:00")
    assert due(NIGHTLY, 0, planned, now, 6 * HOUR).run == planned
    found = due(NIGHTLY, 0, planned, now, 5 * HOUR)
    assert (found.run, found.skipped, found.next_at) == (None, 1, at("2026-03-03 02:00"))
    # Within the minute it is on time, whatever the catch-up time says.
    assert due(NIGHTLY, 0, planned, planned + ON_TIME_US, 0).run == planned
    assert due(NIGHTLY, 0, planned, planned + ON_TIME_US + 1, 0).run is None


def test_years_of_minutes_are_skipped_at_once():
    trigger = read_trigger({"expression": "* * * * *"})
    planned, now = at("2020-03-02 02:00"), at("2026-03-02 08:00")
    found = due(trigger, 0, planned, now, CATCH_UP_US)
    assert (found.run, found.late, found.skipped) == (now, False, MOST_COUNTED)


def test_the_end_of_a_trigger():
    trigger = read_trigger({"expression": "0 2 * * *", "endTime": "2026-03-02 12:00:00"})
    planned = at("2026-03-02 02:00")
    found = due(trigger, 0, planned, at("2026-03-02 20:00"), CATCH_UP_US)
    assert (found.run, found.late, found.next_at) == (planned, True, None)


@given(
    st.sampled_from(["* * * * *", "*/7 3 * * *", "0 2 * * *", "0 */5 * * 1,3"]),
    st.integers(0, 3 * 24 * 60),
    st.integers(0, 3 * 24 * 60),
)
@settings(max_examples=60, deadline=None)
def test_it_is_what_looking_at_every_time_says(expression: str, minutes_away: int, catch_up_minutes: int):
    trigger: Trigger = read_trigger({"expression": expression})
    planned = next_after(trigger, 0, at("2026-03-02 02:00"))
    assert planned is not None
    now, catch_up = planned + minutes_away * 60_000_000 + 17, catch_up_minutes * 60_000_000
    found = due(trigger, 0, planned, now, catch_up)
    passed, last = [], planned
    while last is not None and last <= now and len(passed) < 60_000:
        passed.append(last)
        last = next_after(trigger, 0, last)
    in_time = [one for one in passed if one >= now - max(catch_up, ON_TIME_US)]
    assert found.run == (in_time[-1] if in_time else None)
    assert found.skipped == min(len(passed) - bool(in_time), MOST_COUNTED)
    assert found.next_at == last


def test_names_are_azures_and_one_for_each_time():
    assert run_name("nightly", at("2026-03-02 02:00")) == "nightly-20260302T020000Z"
    assert run_name("nightly", at("2026-03-02 02:00") + 5) == "nightly-20260302T020000000005Z"


def test_the_catch_up_tag():
    assert catch_up_of({}) == CATCH_UP_US
    assert catch_up_of({"tidemill.catch_up": "PT6H"}) == 6 * HOUR
    assert catch_up_of({"tidemill.catch_up": "PT0S"}) == 0
    with pytest.raises(InvalidRequest, match=r"Tag tidemill\.catch_up: 'six' is not an ISO 8601 duration"):
        catch_up_of({"tidemill.catch_up": "six"})
