"""Azure's autoscale settings of online deployments, read into frozen values, and which profile holds when.

`read_setting` takes ARM `properties` (https://learn.microsoft.com/rest/api/monitor/autoscale-settings) and
refuses what cannot be kept to, naming the property. What is measured and done is the controller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import choice, duration, integer, mapping, text
from tidemill.domain.serving.model import MAX_INSTANCES
from tidemill.domain.timezones import find_zone, instant, micros, wall_clock

REQUESTS = "RequestsPerMinute"
CPU = "CpuUtilizationPercentage"
MEMORY = "CpuMemoryUtilizationPercentage"
LATENCIES = (
    "RequestLatency",
    "RequestLatency_P50",
    "RequestLatency_P90",
    "RequestLatency_P95",
    "RequestLatency_P99",
)
METRICS = (REQUESTS, CPU, MEMORY, *LATENCIES)  # by Azure's names; latencies in ms
_STATISTICS = {"average": "Average", "min": "Min", "max": "Max", "sum": "Sum", "count": "Count"}
_AGGREGATIONS = {
    "average": "Average",
    "minimum": "Minimum",
    "maximum": "Maximum",
    "total": "Total",
    "count": "Count",
    "last": "Last",
}
_OPERATORS = {
    name.lower(): name
    for name in (
        "Equals",
        "NotEquals",
        "GreaterThan",
        "GreaterThanOrEqual",
        "LessThan",
        "LessThanOrEqual",
    )
}
INCREASE, DECREASE = "Increase", "Decrease"
CHANGE, PERCENT, EXACT, NEXT = "ChangeCount", "PercentChangeCount", "ExactCount", "ServiceAllowedNextValue"
_KINDS = {name.lower(): name for name in (CHANGE, PERCENT, EXACT, NEXT)}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOST_PROFILES, MOST_RULES = 20, 10
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Instances. `default`: where the metrics are not known."""

    minimum: int
    maximum: int
    default: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """`metric` of the deployment, or of its endpoint as a whole (`of_endpoint`). Its values of `grain_s`, put
    together over instances by `statistic`, are put together over `window_s` by `aggregation` and compared.
    `per_instance`: the value is first divided by the number of instances."""

    metric: str
    operator: str
    threshold: float
    of_endpoint: bool = False
    statistic: str = "Average"
    aggregation: str = "Average"
    grain_s: float = 60.0
    window_s: float = 300.0
    per_instance: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """`cooldown_s`: how long after a change the rule changes nothing more."""

    direction: str
    kind: str = CHANGE
    value: int = 1
    cooldown_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Rule:
    trigger: Trigger
    action: Action


@dataclass(frozen=True, slots=True)
class Period:
    """From one moment to another, microseconds since the epoch."""

    start_at: int
    end_at: int


@dataclass(frozen=True, slots=True)
class Weekly:
    """It begins at that time of those days (0: Monday), and holds until another weekly profile begins."""

    zone: str
    days: tuple[int, ...]
    hour: int
    minute: int


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    capacity: Capacity
    rules: tuple[Rule, ...] = ()
    period: Period | None = None
    weekly: Weekly | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """`target`: ARM's id of the deployment."""

    target: str
    profiles: tuple[Profile, ...]
    enabled: bool = True


def profile_at(setting: Setting, now: int) -> Profile:
    """The one that holds: a period first, then the weekly one that began last, then the one that always
    holds; of several the first."""
    for profile in setting.profiles:
        if profile.period is not None and profile.period.start_at <= now < profile.period.end_at:
            return profile
    weekly = [profile for profile in setting.profiles if profile.weekly is not None]
    if weekly:
        return max(weekly, key=lambda profile: _began(cast(Weekly, profile.weekly), now))
    return next((profile for profile in setting.profiles if profile.period is None), setting.profiles[0])


def next_change(setting: Setting, now: int) -> int | None:
    """When another profile may hold, at the latest a week from now; None where one holds always."""
    found: list[int] = []
    for profile in setting.profiles:
        if profile.period is not None:
            found += [at for at in (profile.period.start_at, profile.period.end_at) if at > now]
        if profile.weekly is not None:
            found.append(min(at for at in _starts(profile.weekly, now) if at > now))
    return min(found, default=None)


def _began(weekly: Weekly, now: int) -> int:
    return max(at for at in _starts(weekly, now) if at <= now)


def _starts(weekly: Weekly, now: int) -> list[int]:
    """Its beginnings from a week (and a day, for clocks that jump) before now to as long after it."""
    zone = find_zone(weekly.zone)
    today = wall_clock(now, zone).replace(hour=weekly.hour, minute=weekly.minute, second=0, microsecond=0)
    near = (today + timedelta(days=shift) for shift in range(-8, 9))
    return [instant(wall, zone) for wall in near if wall.weekday() in weekly.days]


def read_setting(properties: Mapping[str, Any]) -> Setting:
    """Raises InvalidRequest or NotOffered (target: the property)."""
    _refuse_unknown(properties)
    target = text(properties.get("targetResourceUri"))
    if not target:
        raise InvalidRequest(
            "An autoscale setting needs targetResourceUri: the id of an online deployment.",
            target="properties.targetResourceUri",
        )
    raw = _list(properties.get("profiles"), "properties.profiles")
    if not 1 <= len(raw) <= MOST_PROFILES:
        raise InvalidRequest(
            f"An autoscale setting has 1 to {MOST_PROFILES} profiles, not {len(raw)}.",
            target="properties.profiles",
        )
    profiles = tuple(_profile(one, f"properties.profiles[{at}]", target) for at, one in enumerate(raw))
    return Setting(target, profiles, properties.get("enabled") is not False)


def _refuse_unknown(properties: Mapping[str, Any]) -> None:
    if _list(properties.get("notifications"), "properties.notifications"):
        raise NotOffered(
            "Notifications of autoscale settings are not offered: leave 'notifications' out. What is done "
            "stands in the deployment's time line.",
            "properties.notifications",
        )
    where = "properties.predictiveAutoscalePolicy"
    mode = text(mapping(properties.get("predictiveAutoscalePolicy"), where).get("scaleMode")) or "Disabled"
    if mode.lower() != "disabled":
        raise NotOffered(f"Predictive autoscaling (scaleMode {mode!r}) is not offered: use Disabled.", where)


def _profile(raw: Any, where: str, target: str) -> Profile:
    given = mapping(raw, where)
    rules = _list(given.get("rules"), f"{where}.rules")
    if len(rules) > MOST_RULES:
        raise InvalidRequest(
            f"A profile has at most {MOST_RULES} rules, not {len(rules)}.", target=f"{where}.rules"
        )
    if given.get("fixedDate") is not None and given.get("recurrence") is not None:
        raise InvalidRequest("A profile has a fixedDate or a recurrence, not both.", target=where)
    return Profile(
        text(given.get("name")),
        _capacity(mapping(given.get("capacity"), f"{where}.capacity"), f"{where}.capacity"),
        tuple(_rule(one, f"{where}.rules[{at}]", target) for at, one in enumerate(rules)),
        _period(given.get("fixedDate"), f"{where}.fixedDate"),
        _weekly(given.get("recurrence"), f"{where}.recurrence"),
    )


def _capacity(raw: Mapping[str, Any], where: str) -> Capacity:
    """ARM has the numbers as text."""
    low = integer(raw.get("minimum"), 1, f"{where}.minimum", 0, MAX_INSTANCES)
    high = integer(raw.get("maximum"), max(low, 1), f"{where}.maximum", 1, MAX_INSTANCES)
    if low > high:
        raise InvalidRequest(
            f"minimum {low} is more than maximum {high}: lower the first or raise the second.",
            target=f"{where}.minimum",
        )
    return Capacity(low, high, integer(raw.get("default"), low, f"{where}.default", low, high))


def _rule(raw: Any, where: str, target: str) -> Rule:
    given = mapping(raw, where)
    return Rule(
        _trigger(
            mapping(given.get("metricTrigger"), f"{where}.metricTrigger"), f"{where}.metricTrigger", target
        ),
        _action(mapping(given.get("scaleAction"), f"{where}.scaleAction"), f"{where}.scaleAction"),
    )


def _trigger(raw: Mapping[str, Any], where: str, target: str) -> Trigger:
    known = {name.lower().replace("_", ""): name for name in METRICS}
    metric = choice(raw.get("metricName"), known, "", f"{where}.metricName")
    if not metric:
        raise InvalidRequest(
            f"A rule needs metricName: one of {', '.join(METRICS)}.", target=f"{where}.metricName"
        )
    if raw.get("dimensions"):
        raise NotOffered(
            "Dimensions of metrics are not offered: leave 'dimensions' out. A metric is the deployment's "
            "own, or its endpoint's.",
            f"{where}.dimensions",
        )
    resource = text(raw.get("metricResourceUri")).rstrip("/") or target
    endpoint = target.rsplit("/deployments/", 1)[0]
    if resource.casefold() not in (target.casefold(), endpoint.casefold()):
        raise InvalidRequest(
            f"metricResourceUri {resource!r} is neither the deployment that is scaled nor its endpoint.",
            target=f"{where}.metricResourceUri",
        )
    grain = duration(raw.get("timeGrain"), 60, f"{where}.timeGrain", 1, DAY_S)
    return Trigger(
        metric,
        choice(raw.get("operator"), _OPERATORS, "GreaterThan", f"{where}.operator"),
        _number(raw.get("threshold"), f"{where}.threshold"),
        resource.casefold() == endpoint.casefold(),
        choice(raw.get("statistic"), _STATISTICS, "Average", f"{where}.statistic"),
        choice(raw.get("timeAggregation"), _AGGREGATIONS, "Average", f"{where}.timeAggregation"),
        grain,
        duration(raw.get("timeWindow"), 300, f"{where}.timeWindow", grain, DAY_S),
        raw.get("dividePerInstance") is True,
    )


def _action(raw: Mapping[str, Any], where: str) -> Action:
    directions = {INCREASE.lower(): INCREASE, DECREASE.lower(): DECREASE}
    direction = choice(raw.get("direction"), directions, "", f"{where}.direction")
    if not direction:
        raise InvalidRequest("A rule needs direction: Increase or Decrease.", target=f"{where}.direction")
    return Action(
        direction,
        choice(raw.get("type"), _KINDS, CHANGE, f"{where}.type"),
        integer(raw.get("value"), 1, f"{where}.value", 0, MAX_INSTANCES),
        duration(raw.get("cooldown"), 300, f"{where}.cooldown", 0, 7 * DAY_S),
    )


def _number(raw: Any, where: str) -> float:
    try:
        value = float("nan") if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise InvalidRequest(f"{where} must be a number, not {raw!r}.", target=where)
    return value


def _period(raw: Any, where: str) -> Period | None:
    if raw is None:
        return None
    given = mapping(raw, where)
    zone = text(given.get("timeZone")) or "UTC"
    start, end = (_moment(given.get(field), zone, f"{where}.{field}") for field in ("start", "end"))
    if start >= end:
        raise InvalidRequest(
            f"start {given['start']!r} is not before end {given['end']!r}.", target=f"{where}.end"
        )
    return Period(start, end)


def _moment(raw: Any, zone: str, where: str) -> int:
    """An ISO 8601 time; one without an offset is of `zone`."""
    try:
        read = datetime.fromisoformat(text(raw))
        return micros(read) if read.tzinfo is not None else instant(read, find_zone(zone))
    except ValueError as error:
        raise InvalidRequest(
            f"{where} {raw!r} is no time such as 2026-03-01T06:00:00Z: {error}.", target=where
        ) from error


def _weekly(raw: Any, where: str) -> Weekly | None:
    if raw is None:
        return None
    given = mapping(raw, where)
    if text(given.get("frequency")).lower() not in ("week", ""):
        raise NotOffered(
            f"Recurrence of frequency {given['frequency']!r} is not offered: use Week.", f"{where}.frequency"
        )
    schedule, where = mapping(given.get("schedule"), f"{where}.schedule"), f"{where}.schedule"
    zone = text(schedule.get("timeZone")) or "UTC"
    try:
        find_zone(zone)
    except ValueError as error:
        raise InvalidRequest(f"timeZone {error}", target=f"{where}.timeZone") from error
    named = {name: name for name in _DAYS}
    days = [choice(day, named, "", f"{where}.days") for day in _list(schedule.get("days"), f"{where}.days")]
    if not days:
        raise InvalidRequest("A recurrence needs days, for example [Monday].", target=f"{where}.days")
    return Weekly(
        zone,
        tuple(sorted({_DAYS.index(day) for day in days})),
        _one(schedule.get("hours"), f"{where}.hours", 23),
        _one(schedule.get("minutes"), f"{where}.minutes", 59),
    )


def _one(raw: Any, where: str, high: int) -> int:
    """Azure takes one hour and one minute, in a list."""
    found: Sequence[Any] = _list(raw, where) if isinstance(raw, list) else [raw]
    if len(found) > 1:
        raise InvalidRequest(f"{where} must have one number, not {len(found)}.", target=where)
    return integer(found[0] if found else 0, 0, where, 0, high)


def _list(raw: Any, where: str) -> list[Any]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise InvalidRequest(f"{where} must be a list, not {type(raw).__name__}.", target=where)
    return cast(list[Any], raw)
