"""What the rules of an autoscale setting ask for, by Azure's semantics: a pure function of what was measured.

More when any rule asks for more, as much as the one that asks for most; fewer only when all rules that may
ask for fewer do, as little as the one that asks for least, and not where that would make a rule ask for more
again.
https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-understanding-settings
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tidemill.domain.serving.autoscale import (
    CHANGE,
    CPU,
    DECREASE,
    EXACT,
    INCREASE,
    LATENCIES,
    MEMORY,
    PERCENT,
    Profile,
    Rule,
    Trigger,
)
from tidemill.domain.units import plural

SECOND = 1_000_000
_SHRINKS = (CPU, MEMORY)  # what every instance has more of when there are fewer

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "Equals": lambda a, b: a == b,
    "NotEquals": lambda a, b: a != b,
    "GreaterThan": lambda a, b: a > b,
    "GreaterThanOrEqual": lambda a, b: a >= b,
    "LessThan": lambda a, b: a < b,
    "LessThanOrEqual": lambda a, b: a <= b,
}
_TOGETHER: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Average": lambda values: sum(values) / len(values),
    "Minimum": min,
    "Maximum": max,
    "Total": sum,
    "Count": lambda values: float(len(values)),
    "Last": lambda values: values[-1],
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured at one moment, by the names of metrics: of the deployment (rates and latencies as a
    whole, CPU and memory in percent of an instance), and of its endpoint."""

    at: int
    own: Mapping[str, float] = field(default_factory=dict[str, float])
    endpoint: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Asked:
    wanted: int
    why: str = ""


def ask(profile: Profile, wanted: int, readings: Sequence[Reading], changed_at: int, now: int) -> Asked:
    """`readings`: oldest first; `changed_at`: when the number of instances changed last, 0: never. -> how
    many there are to be; `why` "" where that is what there is."""
    capacity = profile.capacity
    bounded = min(max(wanted, capacity.minimum), capacity.maximum)
    if bounded != wanted:
        said = f"profile {profile.name!r} has {capacity.minimum} to {plural(capacity.maximum, 'instance')}"
        return Asked(bounded, said)
    cooled = [r for r in profile.rules if changed_at + r.action.cooldown_s * SECOND <= now]
    more = [r for r in cooled if r.action.direction == INCREASE and _met(r.trigger, readings, wanted, now)]
    if more:
        most = max(more, key=lambda rule: _after(rule, wanted))
        return _changed(most, wanted, profile, readings, now)
    fewer = [r for r in profile.rules if r.action.direction == DECREASE]
    if not fewer or any(r not in cooled or not _met(r.trigger, readings, wanted, now) for r in fewer):
        return Asked(wanted)
    least = max(fewer, key=lambda rule: _after(rule, wanted))
    asked = _changed(least, wanted, profile, readings, now)
    if asked.wanted and _would_grow(profile, readings, wanted, asked.wanted, now):
        return Asked(wanted)
    return asked


def _changed(rule: Rule, wanted: int, profile: Profile, readings: Sequence[Reading], now: int) -> Asked:
    capacity = profile.capacity
    count = min(max(_after(rule, wanted), capacity.minimum), capacity.maximum)
    if count == wanted:
        return Asked(wanted)
    value = measured(rule.trigger, readings, wanted, now)
    trigger = rule.trigger
    operator = {"GreaterThan": ">", "LessThan": "<", "GreaterThanOrEqual": ">=", "LessThanOrEqual": "<="}
    sign = operator.get(trigger.operator, trigger.operator)
    return Asked(count, f"{trigger.metric} is {value:.4g} ({sign} {trigger.threshold:g})")


def _after(rule: Rule, wanted: int) -> int:
    """ChangeCount by so many, PercentChangeCount by so many per cent, at least one; ServiceAllowedNextValue
    is one more or one fewer."""
    action = rule.action
    if action.kind == EXACT:
        return action.value
    step = action.value if action.kind == CHANGE else 1
    if action.kind == PERCENT:
        step = max(1, round(wanted * action.value / 100))
    return wanted + step if action.direction == INCREASE else max(0, wanted - step)


def _met(trigger: Trigger, readings: Sequence[Reading], wanted: int, now: int) -> bool:
    value = measured(trigger, readings, wanted, now)
    return value is not None and _COMPARE[trigger.operator](value, trigger.threshold)


def measured(trigger: Trigger, readings: Sequence[Reading], wanted: int, now: int) -> float | None:
    """None where nothing is known for the whole window yet."""
    start = now - round(trigger.window_s * SECOND)
    grain = round(trigger.grain_s * SECOND)
    known = [(r.at, r.endpoint if trigger.of_endpoint else r.own) for r in readings]
    within = [(at, v[trigger.metric]) for at, v in known if at > start and trigger.metric in v]
    if not within or not any(at <= start + grain for at, _ in known):
        return None
    grains: dict[int, list[float]] = {}
    for at, value in within:
        grains.setdefault((at - start - 1) // grain, []).append(value)
    values = [sum(found) / len(found) for _, found in sorted(grains.items())]
    value = _TOGETHER[trigger.aggregation](values)
    if trigger.statistic == "Sum" and trigger.metric in _SHRINKS:  # of all instances
        value *= max(wanted, 1)
    return value / max(wanted, 1) if trigger.per_instance else value


def _would_grow(profile: Profile, readings: Sequence[Reading], wanted: int, fewer: int, now: int) -> bool:
    """Whether, with so few, a rule would ask for more again."""
    for rule in profile.rules:
        trigger = rule.trigger
        value = measured(trigger, readings, wanted, now)
        if rule.action.direction != INCREASE or value is None or trigger.metric in LATENCIES:
            continue
        shared = trigger.per_instance or (trigger.metric in _SHRINKS and trigger.statistic != "Sum")
        if _COMPARE[trigger.operator](value * wanted / fewer if shared else value, trigger.threshold):
            return True
    return False
