"""Early termination: which trials are not worth going on with.

Each report of the primary metric is one interval of a trial. A trial is judged when it has made
`evaluation_interval` more of them, from `delay_evaluation` on, and compared with what others had at the same
interval (https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters#early-termination).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest

WHERE = "properties.earlyTermination"
BANDIT, MEDIAN, TRUNCATION = "bandit", "medianstopping", "truncationselection"
MOST_CUT = 99  # percent


@dataclass(frozen=True, slots=True)
class Policy:
    kind: str
    interval: int = 1
    delay: int = 0
    slack_factor: float = 0.0
    slack_amount: float = 0.0
    percentage: int = 0
    exclude_finished: bool = False


@dataclass(frozen=True, slots=True)
class Reports:
    """What a trial reported of the primary metric, in order, and whether it still runs."""

    values: tuple[float, ...]
    live: bool


def read_policy(raw: Mapping[str, Any] | None) -> Policy | None:
    """Raises InvalidRequest."""
    if not raw:
        return None
    kind = str(raw.get("policyType") or raw.get("type") or "").lower().replace("_", "")
    if kind not in (BANDIT, MEDIAN, TRUNCATION):
        raise InvalidRequest(
            f"Early termination policy {raw.get('policyType')!r} is not known. "
            "Use Bandit, MedianStopping or TruncationSelection.",
            target=f"{WHERE}.policyType",
        )
    policy = Policy(
        kind,
        max(1, int(_number(raw, "evaluationInterval", whole=True))),
        int(_number(raw, "delayEvaluation", whole=True)),
        _number(raw, "slackFactor"),
        _number(raw, "slackAmount"),
        int(_number(raw, "truncationPercentage", whole=True)),
        bool(raw.get("excludeFinishedJobs")),
    )
    if policy.slack_factor and policy.slack_amount:
        raise InvalidRequest("Give slackFactor or slackAmount, not both.", target=f"{WHERE}.slackFactor")
    if kind == TRUNCATION and not 1 <= policy.percentage <= MOST_CUT:
        raise InvalidRequest(
            f"truncationPercentage is {policy.percentage}: it must lie between 1 and {MOST_CUT}.",
            target=f"{WHERE}.truncationPercentage",
        )
    return policy


def _number(raw: Mapping[str, Any], word: str, whole: bool = False) -> float:
    value: Any = raw.get(word)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidRequest(
            f"{word} must be a number of at least 0, not {value!r}.", target=f"{WHERE}.{word}"
        )
    if whole and not float(cast(float, value)).is_integer():
        raise InvalidRequest(f"{word} must be a whole number, not {value!r}.", target=f"{WHERE}.{word}")
    return float(cast(float, value))


def due(policy: Policy, reports: int, judged: int) -> int | None:
    """The interval at which a trial of so many reports is to be judged now; None: it was, at `judged`."""
    at = reports // policy.interval * policy.interval
    return at if at > judged and at >= max(policy.delay, 1) else None


def doomed(
    policy: Policy, trials: Mapping[str, Reports], maximize: bool, judged: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, int]]:
    """-> (trial: the sentence why it is stopped, trial: interval judged now)."""
    sign = 1.0 if maximize else -1.0
    stopped: dict[str, str] = {}
    now: dict[str, int] = {}
    for name, reports in trials.items():
        at = due(policy, len(reports.values), judged.get(name, 0)) if reports.live else None
        if at is None:
            continue
        now[name] = at
        why = _why(policy, name, at, {k: _signed(r, sign) for k, r in trials.items()}, sign)
        if why:
            stopped[name] = why
    return stopped, now


def _signed(reports: Reports, sign: float) -> Reports:
    return Reports(tuple(sign * value for value in reports.values if math.isfinite(value)), reports.live)


def _why(policy: Policy, name: str, at: int, trials: Mapping[str, Reports], sign: float) -> str:
    """Higher is better here; `sign` turns it back for the sentence."""
    if not trials[name].values[:at]:
        return f"nothing it reported up to interval {at} is a number"
    mine = max(trials[name].values[:at])
    match policy.kind:
        case "bandit":
            best = max(max(r.values[:at]) for r in trials.values() if r.values)
            slack = policy.slack_amount or abs(best) * (
                policy.slack_factor / (1 + policy.slack_factor) if sign > 0 else policy.slack_factor
            )
            if mine < best - slack:
                bound = sign * (best - slack)
                return (
                    f"at interval {at} its best was {sign * mine:g}, beyond the slack ({bound:g}) of the "
                    f"best trial's {sign * best:g}"
                )
        case "medianstopping":
            averages = [statistics.fmean(r.values[:at]) for r in trials.values() if r.values]
            median = statistics.median(averages)
            if mine < median:
                return (
                    f"at interval {at} its best was {sign * mine:g}, worse than {sign * median:g}, the "
                    f"median of the averages of {len(averages)} trials"
                )
        case _:
            peers = [
                max(r.values[:at])
                for key, r in trials.items()
                if r.values[:at] and (r.live or not policy.exclude_finished) and (key == name or _came(r, at))
            ]
            cut = len(peers) * policy.percentage // 100
            if cut and mine < sorted(peers)[cut]:
                return (
                    f"at interval {at} its best of {sign * mine:g} was among the lowest "
                    f"{policy.percentage} % of {len(peers)} trials"
                )
    return ""


def _came(reports: Reports, at: int) -> bool:
    return len(reports.values) >= at or not reports.live


def best_of(values: Sequence[float], maximize: bool) -> float | None:
    """The best number of a trial's reports; None where none is one."""
    numbers = [value for value in values if math.isfinite(value)]
    return (max(numbers) if maximize else min(numbers)) if numbers else None
