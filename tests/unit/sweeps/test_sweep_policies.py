"""Early termination, against the examples of Azure's own documentation, and its rules."""

from __future__ import annotations

import pytest

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.sweeps.policies import Policy, Reports, doomed, due, read_policy


def live(*values: float) -> Reports:
    return Reports(values, live=True)


def stopped(policy: Policy, trials: dict[str, Reports], maximize: bool = True) -> set[str]:
    return set(doomed(policy, trials, maximize, {})[0])


def test_bandit_with_a_factor() -> None:
    """Best 0.8, factor 0.2, maximize: below 0.8 / 1.2 = 0.66 is stopped."""
    policy = Policy("bandit", slack_factor=0.2)
    assert stopped(policy, {"best": live(0.8), "near": live(0.67), "far": live(0.66)}) == {"far"}
    assert stopped(policy, {"best": live(1.0), "near": live(1.2), "far": live(1.21)}, maximize=False) == {
        "far"
    }


def test_bandit_compares_at_the_same_interval() -> None:
    policy = Policy("bandit", interval=2, slack_amount=0.1)
    trials = {"old": live(0.1, 0.2, 0.9, 0.95), "young": live(0.1, 0.15)}
    assert stopped(policy, trials) == set()
    assert stopped(policy, {**trials, "bad": live(0.05, 0.05)}) == {"bad"}


def test_median_stopping() -> None:
    policy = Policy("medianstopping")
    trials = {"a": live(0.5, 0.5), "b": live(0.6, 0.8), "c": live(0.1, 0.2)}
    assert stopped(policy, trials) == {"c"}
    assert stopped(policy, trials, maximize=False) == {"b"}


def test_truncation_cuts_the_lowest_part_and_may_leave_out_finished_ones() -> None:
    trials = {str(n): live(float(n)) for n in range(10)}
    policy = Policy("truncationselection", percentage=20)
    assert stopped(policy, trials) == {"0", "1"}
    trials = {key: Reports(r.values, live=int(key) < 5) for key, r in trials.items()}
    assert stopped(policy, trials) == {"0", "1"}
    assert stopped(Policy("truncationselection", percentage=20, exclude_finished=True), trials) == {"0"}
    assert stopped(policy, {"one": live(1.0)}) == set()


def test_when_a_trial_is_judged() -> None:
    policy = Policy("bandit", interval=3, delay=5)
    assert [due(policy, n, 0) for n in (0, 3, 5, 6, 8, 9)] == [None, None, None, 6, 6, 9]
    assert due(policy, 8, 6) is None
    assert doomed(policy, {"a": live(*[0.1] * 8), "b": live(*[0.9] * 9)}, True, {"a": 6})[1] == {"b": 9}


def test_what_is_not_a_number_is_never_the_best() -> None:
    nan = float("nan")
    assert stopped(Policy("bandit", slack_amount=0.1), {"a": live(nan), "b": live(0.5)}) == {"a"}
    assert stopped(Policy("medianstopping"), {"a": live(float("inf")), "b": live(0.5)}, maximize=True) == {
        "a"
    }


def test_reading() -> None:
    assert read_policy(None) is None
    given = {"policyType": "Bandit", "slackFactor": 0.1, "evaluationInterval": 2, "delayEvaluation": 5}
    assert read_policy(given) == Policy("bandit", 2, 5, 0.1)
    for raw, words in (
        ({"policyType": "Bandid"}, "is not known"),
        ({"policyType": "Bandit", "slackFactor": 0.1, "slackAmount": 1}, "not both"),
        ({"policyType": "TruncationSelection"}, "between 1 and 99"),
        ({"policyType": "MedianStopping", "delayEvaluation": -1}, "at least 0"),
        ({"policyType": "MedianStopping", "delayEvaluation": 1.5}, "whole number"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            read_policy(raw)
