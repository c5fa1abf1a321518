"""When a schedule is due: Azure's cron and recurrence triggers, read into frozen values, and their times.

Daylight saving, of both kinds of trigger: a time of day that clocks skip is the first minute after the
gap, one that they show twice is its first. What repeats within a day (a cron expression whose minute or hour
begins with `*`, frequencies minute and hour) goes by elapsed time instead: no gap, nothing twice.

Bounds of `interval` are those of recurrences in Azure Logic Apps, whose format this is
(https://learn.microsoft.com/azure/connectors/connectors-native-recurrence).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

from cronsim import CronSim, CronSimError

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.timezones import find_zone, instant, micros, wall_clock
from tidemill.domain.units import SECOND

WHERE = "properties.trigger"
CRON, RECURRENCE = "Cron", "Recurrence"
MINUTE, HOUR, DAY, WEEK, MONTH = "Minute", "Hour", "Day", "Week", "Month"
MOST_INTERVAL = {MINUTE: 72_000, HOUR: 12_000, DAY: 500, WEEK: 71, MONTH: 16}
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LONGEST_EXPRESSION = 200
# A day that comes at all comes within this: 29 February in every 11th month takes eleven years.
HORIZON_DAYS = 12 * 366
_STEP = {MINUTE: 60 * SECOND, HOUR: 3600 * SECOND}
_CRON_FIELDS = ("minute", "hour", "day of month", "month", "day of week")


@dataclass(frozen=True, slots=True)
class Pattern:
    """At which times of which days. An empty field is as at the start. Weekdays: 0 is Monday."""

    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    weekdays: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trigger:
    """`start_at`, `end_at`: the first and last moment at which it may be due. Either `expression` (cron), or
    `frequency` with the others."""

    zone: str = "UTC"
    start_at: int | None = None
    end_at: int | None = None
    expression: str = ""
    frequency: str = ""
    interval: int = 1
    pattern: Pattern = Pattern()

    @property
    def words(self) -> str:
        """`0 6 * * 1-5, Europe/Berlin`; `every 2 weeks on Monday at 06:00, Europe/Berlin`."""
        if self.expression:
            return f"{self.expression}, {self.zone}"
        unit = self.frequency.lower()
        every = f"every {unit}" if self.interval == 1 else f"every {self.interval} {unit}s"
        days = [WEEKDAYS[day] for day in self.pattern.weekdays] + [
            f"day {n}" for n in self.pattern.month_days
        ]
        on = f" on {', '.join(days)}" if days else ""
        times = [f"{hour:02d}:{minute:02d}" for hour in self.pattern.hours for minute in self.pattern.minutes]
        shown = times if len(times) <= 4 else [*times[:3], f"{len(times) - 3} more"]
        at = f" at {', '.join(shown)}" if times else ""
        return f"{every}{on}{at}, {self.zone}"


def next_after(trigger: Trigger, anchor: int, after: int) -> int | None:
    """The first time after `after` at which it is due, or None: never again. `anchor` stands for the start of
    a trigger that has none: when the schedule got this trigger."""
    after = max(after, (trigger.start_at - 1) if trigger.start_at is not None else after)
    if trigger.expression:
        found = _cron(trigger, after)
    elif trigger.frequency in _STEP:
        found = _elapsed(trigger, anchor, after)
    else:
        found = _calendar(trigger, anchor, after)
    if found is None or (trigger.end_at is not None and found > trigger.end_at):
        return None
    return found


def _cron(trigger: Trigger, after: int) -> int | None:
    zone = find_zone(trigger.zone)
    begin = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=after)).astimezone(zone)
    for moment in CronSim(trigger.expression, begin):
        at = micros(moment)
        if at > after:  # two that a gap moves to the same minute are one; an hour that comes twice came once
            return at
    return None


def _elapsed(trigger: Trigger, anchor: int, after: int) -> int:
    base = anchor if trigger.start_at is None else trigger.start_at
    if after < base:
        return base
    step = trigger.interval * _STEP[trigger.frequency]
    return base + ((after - base) // step + 1) * step


def _calendar(trigger: Trigger, anchor: int, after: int) -> int | None:
    zone = find_zone(trigger.zone)
    base = anchor if trigger.start_at is None else trigger.start_at
    start = wall_clock(base, zone)
    times = _times(trigger.pattern, start)
    # A day earlier: what a gap moves may fall on the next day.
    first = max(wall_clock(max(after, base), zone).date() - timedelta(days=1), start.date())
    for number in range(HORIZON_DAYS):
        day = first + timedelta(days=number)
        if not _falls_on(trigger, start.date(), day):
            continue
        found = [at for t in times if (at := instant(datetime.combine(day, t), zone)) > after and at >= base]
        if found:
            return min(found)
    return None


def _times(pattern: Pattern, start: datetime) -> list[time]:
    if not (pattern.hours or pattern.minutes):
        return [start.time()]
    hours, minutes = pattern.hours or (start.hour,), pattern.minutes or (start.minute,)
    return [time(hour, minute) for hour in hours for minute in minutes]


def _falls_on(trigger: Trigger, start: date, day: date) -> bool:
    pattern = trigger.pattern
    if trigger.frequency == DAY:
        periods = (day - start).days
    elif trigger.frequency == WEEK:
        periods = (_monday(day) - _monday(start)).days // 7
    else:
        periods = (day.year - start.year) * 12 + day.month - start.month
    if periods % trigger.interval:
        return False
    weekdays, month_days = pattern.weekdays, pattern.month_days
    if trigger.frequency == WEEK and not weekdays:
        weekdays = (start.weekday(),)
    if trigger.frequency == MONTH and not (weekdays or month_days):
        month_days = (start.day,)
    return (not weekdays or day.weekday() in weekdays) and (not month_days or day.day in month_days)


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def read_trigger(raw: Any) -> Trigger:
    """ARM's `trigger`. Raises InvalidRequest naming the field, the value and the fix."""
    if not isinstance(raw, Mapping):
        raise InvalidRequest("A schedule needs a trigger: a cron expression or a recurrence.", target=WHERE)
    given = cast(Mapping[str, Any], raw)
    zone_name = _text(given, "timeZone") or "UTC"
    try:
        zone = find_zone(zone_name)
    except ValueError as error:
        raise InvalidRequest(f"The trigger's timeZone {error}", target=f"{WHERE}.timeZone") from None
    start, end = (_moment(given, field, zone_name) for field in ("startTime", "endTime"))
    if start is not None and end is not None and end < start:
        raise InvalidRequest(
            f"The trigger's endTime {given['endTime']!r} is before its startTime {given['startTime']!r}.",
            target=f"{WHERE}.endTime",
        )
    kind = _text(given, "triggerType") or ("Cron" if given.get("expression") else "Recurrence")
    if kind.lower() == "cron":
        return Trigger(zone.key, start, end, expression=_expression(given))
    if kind.lower() == "recurrence":
        return _recurrence(given, Trigger(zone.key, start, end))
    raise InvalidRequest(
        f"triggerType {kind!r} is not known. Use Cron or Recurrence.", target=f"{WHERE}.triggerType"
    )


def _expression(given: Mapping[str, Any]) -> str:
    where = f"{WHERE}.expression"
    text = " ".join(_text(given, "expression").split())
    fields = text.split(" ") if text else []
    if len(fields) != 5 or len(text) > LONGEST_EXPRESSION:
        raise InvalidRequest(
            f"The cron expression {text[:80]!r} has {len(fields)} fields: write five, 'MINUTE HOUR DAY MONTH "
            "WEEKDAY', for example '0 6 * * 1-5' (6:00 from Monday to Friday).",
            target=where,
        )
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    for number, (field, called) in enumerate(zip(fields, _CRON_FIELDS, strict=True)):
        alone = ["*"] * 5
        alone[number] = field
        try:
            CronSim(" ".join(alone), moment)
        except CronSimError:
            raise InvalidRequest(
                f"{field!r} is no {called} of a cron expression ({text!r}): use a number, a list (1,15), a "
                "range (1-5), a step (*/10) or '*'.",
                target=where,
            ) from None
    try:
        found = next(CronSim(text, moment), None)
    except CronSimError:
        found = None
    if found is None:
        raise InvalidRequest(f"The cron expression {text!r} names a day that never comes.", target=where)
    return text


def _recurrence(given: Mapping[str, Any], base: Trigger) -> Trigger:
    frequency = {name.lower(): name for name in MOST_INTERVAL}.get(_text(given, "frequency").lower())
    if frequency is None:
        raise InvalidRequest(
            f"The trigger's frequency {given.get('frequency')!r} is not known. Use "
            f"{', '.join(name.lower() for name in MOST_INTERVAL)}.",
            target=f"{WHERE}.frequency",
        )
    interval, most = given.get("interval", 1), MOST_INTERVAL[frequency]
    if isinstance(interval, bool) or not isinstance(interval, int) or not 1 <= interval <= most:
        raise InvalidRequest(
            f"The trigger's interval is {interval!r}: with frequency {frequency.lower()} it is a whole "
            f"number from 1 to {most}.",
            target=f"{WHERE}.interval",
        )
    return Trigger(
        base.zone,
        base.start_at,
        base.end_at,
        frequency=frequency,
        interval=interval,
        pattern=_pattern(given.get("schedule"), frequency),
    )


def _pattern(raw: Any, frequency: str) -> Pattern:
    where = f"{WHERE}.schedule"
    if raw is None:
        return Pattern()
    if not isinstance(raw, Mapping):
        raise InvalidRequest("The trigger's schedule must be an object with hours and minutes.", target=where)
    given = cast(Mapping[str, Any], raw)
    pattern = Pattern(
        _numbers(given, "hours", 0, 23),
        _numbers(given, "minutes", 0, 59),
        _weekdays(given),
        _numbers(given, "monthDays", 1, 31),
    )
    if frequency in _STEP and pattern != Pattern():
        raise InvalidRequest(
            f"The trigger's schedule of hours, minutes and days needs frequency day, week or month; this "
            f"one's is {frequency.lower()}. Take the schedule out, or use a cron expression.",
            target=where,
        )
    if frequency != MONTH and pattern.month_days:
        raise InvalidRequest(
            f"monthDays needs frequency month; this trigger's is {frequency.lower()}.",
            target=f"{where}.monthDays",
        )
    return pattern


def _numbers(given: Mapping[str, Any], name: str, low: int, high: int) -> tuple[int, ...]:
    found: set[int] = set()
    for value in _items(given, name):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidRequest(
                f"{value!r} among the trigger's {name}: whole numbers from {low} to {high}.",
                target=f"{WHERE}.schedule.{name}",
            )
        found.add(value)
    return tuple(sorted(found))


def _weekdays(given: Mapping[str, Any]) -> tuple[int, ...]:
    numbers = {name.lower(): number for number, name in enumerate(WEEKDAYS)}
    found: set[int] = set()
    for value in _items(given, "weekDays"):
        number = numbers.get(str(value).lower())
        if number is None:
            raise InvalidRequest(
                f"{value!r} among the trigger's weekDays: use {', '.join(WEEKDAYS)}.",
                target=f"{WHERE}.schedule.weekDays",
            )
        found.add(number)
    return tuple(sorted(found))


def _items(given: Mapping[str, Any], name: str) -> Iterator[Any]:
    value = given.get(name)
    if value is None:
        return iter(())
    return iter(cast(Sequence[Any], value) if isinstance(value, list) else [value])


def _moment(given: Mapping[str, Any], name: str, zone: str) -> int | None:
    """`2026-03-01T06:00:00`, `2026-03-01 06:00:00` or a date, in the trigger's zone; with an offset, as it
    says."""
    text = _text(given, name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return micros(moment) if moment.tzinfo is not None else instant(moment, find_zone(zone))
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"The trigger's {name} {text[:80]!r} is no time: write it as 2026-03-01T06:00:00.",
            target=f"{WHERE}.{name}",
        ) from None


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"The trigger's {name} must be text, not {value!r}.", target=f"{WHERE}.{name}")
    return value.strip()
