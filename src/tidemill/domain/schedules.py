"""What becomes of a schedule that is due, also long after: at most one run.

A server that was down, or asleep, finds times that have passed. The latest of them is run if it is not
older than the schedule's catch-up time (a day unless it says otherwise); those before it are skipped, and
said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.triggers import Trigger, next_after
from tidemill.domain.units import SECOND, parse_duration

CATCH_UP_TAG = "tidemill.catch_up"
CATCH_UP_US = 24 * 3600 * SECOND
ON_TIME_US = 60 * SECOND  # later than this is a run that catches up
MOST_COUNTED = 100  # skipped times are counted up to here
MOST_FAILURES = 10  # in a row; then the schedule is disabled
_FIRST_LOOK_US = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Due:
    """`run`: the time to run for, None: none. `skipped`: how many times are not run, MOST_COUNTED for so many
    or more, the first of them `skipped_from`. `next_at`: when it is due again."""

    run: int | None
    late: bool
    skipped: int
    skipped_from: int | None
    next_at: int | None


def due(trigger: Trigger, anchor: int, planned: int, now: int, catch_up: int) -> Due:
    """`planned`: the time that was next, not after `now`."""
    oldest = now - max(catch_up, ON_TIME_US)
    latest = _latest(trigger, anchor, planned, now, oldest)
    skipped, at = 0, planned
    while at is not None and at <= now and at != latest and skipped < MOST_COUNTED:
        skipped += 1
        at = next_after(trigger, anchor, at)
    return Due(
        run=latest,
        late=latest is not None and now - latest > ON_TIME_US,
        skipped=skipped,
        skipped_from=planned if skipped else None,
        next_at=next_after(trigger, anchor, now),
    )


def _latest(trigger: Trigger, anchor: int, planned: int, now: int, oldest: int) -> int | None:
    """The last time from `planned` to `now` that is not before `oldest`. It is looked for from the end, in
    steps that double: the cost does not grow with how long nobody looked."""
    span = _FIRST_LOOK_US
    while True:
        begin = max(now - span, oldest, planned)
        found = planned if begin == planned else next_after(trigger, anchor, begin - 1)
        latest = None
        while found is not None and found <= now:
            latest, found = found, next_after(trigger, anchor, found)
        if latest is not None or begin != now - span:
            return latest
        span *= 2


def run_name(schedule: str, at: int) -> str:
    """The name of the job of one time: Azure's `<schedule>-<UTC time>`, so that one time is one job.
    One that is triggered by hand has its fraction of a second, too."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
    fraction = f"{at % SECOND:06d}" if at % SECOND else ""
    return f"{schedule}-{moment:%Y%m%dT%H%M%S}{fraction}Z"


def catch_up_of(tags: Mapping[str, Any]) -> int:
    """Microseconds. Raises InvalidRequest for a tag that is no duration."""
    text = str(tags.get(CATCH_UP_TAG) or "")
    if not text:
        return CATCH_UP_US
    try:
        return int(parse_duration(text) * SECOND)
    except ValueError as error:
        raise InvalidRequest(
            f"Tag {CATCH_UP_TAG}: {error}. PT0S never catches up.", target="properties.tags"
        ) from None
