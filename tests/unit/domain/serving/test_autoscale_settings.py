"""Autoscale settings read from ARM bodies, and which of their profiles holds when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.serving.autoscale import (
    Action,
    Capacity,
    Profile,
    Setting,
    Trigger,
    Weekly,
    next_change,
    profile_at,
    read_setting,
)
from tidemill.domain.timezones import micros

WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
ENDPOINT = f"{WORKSPACE}/onlineEndpoints/e"
TARGET = f"{ENDPOINT}/deployments/blue"
RULE = {
    "metricTrigger": {
        "metricName": "CpuUtilizationPercentage",
        "metricResourceUri": TARGET,
        "timeGrain": "PT1M",
        "statistic": "Average",
        "timeWindow": "PT5M",
        "timeAggregation": "Average",
        "operator": "GreaterThan",
        "threshold": 70,
    },
    "scaleAction": {"direction": "Increase", "type": "ChangeCount", "value": "2", "cooldown": "PT1H"},
}
PROFILE = {
    "name": "always",
    "capacity": {"minimum": "0", "maximum": "5", "default": "2"},
    "rules": [RULE],
}


def read(**changes):
    return read_setting({"targetResourceUri": TARGET, "profiles": [PROFILE], **changes})


def profile(**changes):
    return read(profiles=[{**PROFILE, **changes}]).profiles[0]


def rule(trigger=None, action=None):
    made = {
        "metricTrigger": {**RULE["metricTrigger"], **(trigger or {})},
        "scaleAction": {**RULE["scaleAction"], **(action or {})},
    }
    return profile(rules=[made]).rules[0]


def test_what_azures_client_sends_is_read():
    setting = read()
    assert setting.enabled
    assert setting.profiles[0].capacity == Capacity(0, 5, 2)
    assert setting.profiles[0].rules[0].trigger == Trigger("CpuUtilizationPercentage", "GreaterThan", 70)
    assert setting.profiles[0].rules[0].action == Action("Increase", "ChangeCount", 2, 3600)
    of_endpoint = rule({"metricResourceUri": ENDPOINT, "metricName": "requestlatency_p95"}).trigger
    assert (of_endpoint.metric, of_endpoint.of_endpoint) == ("RequestLatency_P95", True)
    assert not read(enabled=False).enabled


@pytest.mark.parametrize(
    ("make", "target", "said"),
    [
        (lambda: read(targetResourceUri=None), "targetResourceUri", "needs targetResourceUri"),
        (lambda: read(profiles=[]), "profiles", "1 to 20 profiles"),
        (
            lambda: profile(capacity={"minimum": "3", "maximum": "2"}),
            "profiles[0].capacity.minimum",
            "more than maximum",
        ),
        (
            lambda: profile(capacity={"minimum": "1", "maximum": "2", "default": "3"}),
            "profiles[0].capacity.default",
            "between 1 and 2",
        ),
        (
            lambda: rule({"metricName": "Moon"}),
            "profiles[0].rules[0].metricTrigger.metricName",
            "RequestsPerMinute",
        ),
        (lambda: rule({"threshold": "NaN"}), "profiles[0].rules[0].metricTrigger.threshold", "a number"),
        (
            lambda: rule({"metricResourceUri": "/subscriptions/x"}),
            "profiles[0].rules[0].metricTrigger.metricResourceUri",
            "neither the deployment",
        ),
        (
            lambda: rule(None, {"direction": None}),
            "profiles[0].rules[0].scaleAction.direction",
            "Increase or",
        ),
        (
            lambda: profile(recurrence={"schedule": {"timeZone": "Mars", "days": ["Monday"]}}),
            "profiles[0].recurrence.schedule.timeZone",
            "no time zone",
        ),
        (
            lambda: profile(fixedDate={"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}),
            "profiles[0].fixedDate.end",
            "not before",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(make, target, said):
    with pytest.raises(InvalidRequest, match=said) as error:
        make()
    assert error.value.target == f"properties.{target}"


def test_what_azure_has_and_we_have_not_is_said():
    with pytest.raises(NotOffered, match="Notifications"):
        read(notifications=[{"operation": "Scale"}])
    with pytest.raises(NotOffered, match="Predictive"):
        read(predictiveAutoscalePolicy={"scaleMode": "Enabled"})
    with pytest.raises(NotOffered, match="Dimensions"):
        rule({"dimensions": [{"DimensionName": "x"}]})
    with pytest.raises(NotOffered, match="Recurrence of frequency 'Month'"):
        profile(recurrence={"frequency": "Month", "schedule": {}})


def at(text):
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def test_a_period_goes_before_weekly_ones_and_those_before_the_one_that_always_holds():
    days = {"frequency": "Week", "schedule": {"timeZone": "UTC", "minutes": [0]}}

    def weekly(hour, *names):
        return {**days, "schedule": {**days["schedule"], "days": list(names), "hours": [hour]}}

    setting = read(
        profiles=[
            {**PROFILE, "name": "always"},
            {**PROFILE, "name": "work", "recurrence": weekly(8, "Monday", "Tuesday")},
            {**PROFILE, "name": "rest", "recurrence": weekly(18, "Monday", "Tuesday")},
            {
                **PROFILE,
                "name": "launch",
                "fixedDate": {
                    "timeZone": "UTC",
                    "start": "2026-03-03T09:00:00",
                    "end": "2026-03-03T10:00:00",
                },
            },
        ]
    )
    named = {  # 2026-03-02 is a Monday
        "2026-03-02T07:59:59": "rest",
        "2026-03-02T08:00:00": "work",
        "2026-03-02T18:00:00": "rest",
        "2026-03-03T09:30:00": "launch",
        "2026-03-03T10:00:00": "work",
        "2026-03-08T12:00:00": "rest",
    }
    assert {text: profile_at(setting, at(text)).name for text in named} == named
    assert next_change(setting, at("2026-03-02T07:00:00")) == at("2026-03-02T08:00:00")
    assert next_change(setting, at("2026-03-03T08:30:00")) == at("2026-03-03T09:00:00")
    assert next_change(read(), 0) is None


moments = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31))


@given(
    moments,
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 6), min_size=1),
            st.integers(0, 23),
            st.sampled_from(["UTC", "Europe/Berlin"]),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_the_weekly_profile_holds_until_the_next_change(moment, weeklies):
    capacity = Capacity(1, 2, 1)
    profiles = tuple(
        Profile(str(index), capacity, weekly=Weekly(zone, tuple(days), hour, 0))
        for index, (days, hour, zone) in enumerate(weeklies)
    )
    setting, now = Setting(TARGET, profiles), micros(moment.replace(tzinfo=UTC))
    change = next_change(setting, now)
    assert change is not None
    assert now < change <= now + micros(datetime(1970, 1, 9, tzinfo=UTC))
    before = profile_at(setting, change - 1)
    assert before == profile_at(setting, now)
