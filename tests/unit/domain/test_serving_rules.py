"""Autoscale settings' rules: more for any, fewer for all, cooled down, and never to and fro."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.serving.autoscale import (
    CPU,
    DECREASE,
    EXACT,
    INCREASE,
    PERCENT,
    REQUESTS,
    Action,
    Capacity,
    Profile,
    Rule,
    Trigger,
)
from tidemill.domain.serving.rules import SECOND, Asked, Reading, ask

NOW = 10_000 * SECOND
UP = Rule(Trigger(CPU, "GreaterThan", 70), Action(INCREASE, value=2))
DOWN = Rule(Trigger(CPU, "LessThan", 30), Action(DECREASE))
BUSY = Rule(Trigger(REQUESTS, "GreaterThan", 100, per_instance=True), Action(INCREASE, value=3))


def profile(*rules: Rule, low: int = 1, high: int = 10) -> Profile:
    return Profile("normal", Capacity(low, high, low), rules)


def steady(now: int = NOW, seconds: int = 400, **values: float) -> list[Reading]:
    names = {"cpu": CPU, "requests": REQUESTS}
    own = {names[name]: value for name, value in values.items()}
    return [Reading(now - second * SECOND, own, own) for second in range(seconds, -1, -5)]


def test_one_rule_is_enough_for_more() -> None:
    rules = profile(UP, BUSY, DOWN)
    assert ask(rules, 2, steady(cpu=80, requests=10), 0, NOW) == Asked(
        4, "CpuUtilizationPercentage is 80 (> 70)"
    )
    assert ask(rules, 2, steady(cpu=80, requests=500), 0, NOW).wanted == 5


def test_all_rules_are_needed_for_fewer() -> None:
    quiet = Rule(Trigger(REQUESTS, "LessThan", 5), Action(DECREASE))
    assert ask(profile(UP, DOWN, quiet), 3, steady(cpu=10, requests=10), 0, NOW).wanted == 3
    assert ask(profile(UP, DOWN, quiet), 3, steady(cpu=10, requests=1), 0, NOW).wanted == 2


def test_bounds_count_first() -> None:
    assert ask(profile(low=2), 1, [], 0, NOW) == Asked(2, "profile 'normal' has 2 to 10 instances")
    assert ask(profile(UP, high=3), 2, steady(cpu=99), 0, NOW).wanted == 3
    assert ask(profile(UP, high=3), 3, steady(cpu=99), 0, NOW) == Asked(3)


def test_cooled_down_before_the_next_change() -> None:
    assert ask(profile(UP), 2, steady(cpu=99), NOW - 299 * SECOND, NOW).wanted == 2
    assert ask(profile(UP), 2, steady(cpu=99), NOW - 300 * SECOND, NOW).wanted == 4


def test_nothing_is_done_before_a_whole_window_is_known() -> None:
    assert ask(profile(UP), 2, steady(seconds=100, cpu=99), 0, NOW).wanted == 2
    assert ask(profile(UP), 2, [], 0, NOW).wanted == 2


def test_fewer_is_not_asked_where_more_would_follow() -> None:
    eager = replace(DOWN, trigger=replace(DOWN.trigger, threshold=60.0))
    assert ask(profile(UP, eager), 2, steady(cpu=50), 0, NOW).wanted == 2  # 100 % of one
    assert ask(profile(UP, eager), 4, steady(cpu=50), 0, NOW).wanted == 3


def test_kinds_of_change() -> None:
    assert (
        ask(profile(replace(UP, action=Action(INCREASE, PERCENT, 50))), 4, steady(cpu=99), 0, NOW).wanted == 6
    )
    assert ask(profile(replace(UP, action=Action(INCREASE, EXACT, 7))), 4, steady(cpu=99), 0, NOW).wanted == 7
    assert (
        ask(profile(replace(DOWN, action=Action(DECREASE, EXACT, 0)), low=0), 4, steady(cpu=1), 0, NOW).wanted
        == 0
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 8), st.integers(1, 40)), min_size=1, max_size=12))
def test_it_never_flaps(loads: list[tuple[float, int]]) -> None:
    """CPU that the work needs, in instances, for so many half minutes: between two changes lies a cooldown,
    and what stays the same settles."""
    rules, now, wanted, changed = profile(UP, DOWN), NOW, 1, 0
    readings: list[Reading] = []
    changes: list[int] = []
    for load, turns in [*loads, (loads[-1][0], 400)]:
        for _ in range(turns):
            now += 30 * SECOND
            readings = [*readings[-20:], Reading(now, {CPU: min(100.0, load / wanted * 100)})]
            asked = ask(rules, wanted, readings, changed, now)
            if asked.wanted != wanted:
                assert asked.why
                assert now - changed >= 300 * SECOND
                wanted, changed = asked.wanted, now
                changes.append(now)
    assert now - max(changes, default=0) > 100 * 30 * SECOND
