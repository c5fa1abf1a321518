"""A sweep job as Azure's REST body describes it (`SweepJob`), read into a frozen value."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.sweeps import sampling
from tidemill.domain.sweeps.policies import Policy, read_policy
from tidemill.domain.sweeps.space import Space, read_space
from tidemill.domain.units import parse_duration

MOST_TRIALS, DEFAULT_TRIALS, DEFAULT_BAYESIAN_AT_ONCE = 10_000, 1000, 4


@dataclass(frozen=True, slots=True)
class SweepSpec:
    """`trial`: the body of a trial without its parameters. Timeouts of the whole (seconds) and of each trial
    (ISO 8601, as given)."""

    space: Space
    algorithm: str
    seed: int
    metric: str
    maximize: bool
    total: int
    at_once: int
    timeout_s: int | None
    trial_timeout: str
    policy: Policy | None
    trial: Mapping[str, Any]


def read_sweep(name: str, properties: Mapping[str, Any]) -> SweepSpec:
    """ARM properties -> SweepSpec. Raises InvalidRequest (target: the property)."""
    how = _mapping(properties, "samplingAlgorithm")
    algorithm = str(how.get("samplingAlgorithmType") or "Random").lower()
    if algorithm not in (sampling.GRID, sampling.RANDOM, sampling.BAYESIAN):
        raise InvalidRequest(
            f"Sampling algorithm {how.get('samplingAlgorithmType')!r} is not known. "
            "Use Grid, Random or Bayesian.",
            target="properties.samplingAlgorithm.samplingAlgorithmType",
        )
    if algorithm == sampling.RANDOM and str(how.get("rule") or "random").lower() == sampling.SOBOL:
        algorithm = sampling.SOBOL
    space = read_space(_mapping(properties, "searchSpace"), _base(how.get("logbase")))
    sampling.check(algorithm, space)
    metric, maximize = _objective(_mapping(properties, "objective"), name)
    limits = _mapping(properties, "limits")
    total = _count(limits, "maxTotalTrials", DEFAULT_TRIALS, MOST_TRIALS)
    if algorithm == sampling.GRID:
        total = min(total, sampling.grid_size(space))
    default = DEFAULT_BAYESIAN_AT_ONCE if algorithm == sampling.BAYESIAN else total
    trial = _mapping(properties, "trial")
    if not isinstance(trial.get("command"), str) or not str(trial["command"]).strip():
        raise InvalidRequest(
            f"Sweep {name!r} has no trial with a command: give what each trial runs, for example "
            "'python train.py --lr ${{search_space.lr}}'.",
            target="properties.trial.command",
        )
    return SweepSpec(
        space=space,
        algorithm=algorithm,
        seed=_seed(how.get("seed"), name),
        metric=metric,
        maximize=maximize,
        total=total,
        at_once=min(total, _count(limits, "maxConcurrentTrials", default, MOST_TRIALS)),
        timeout_s=_timeout(limits.get("timeout"), "timeout"),
        trial_timeout=str(limits["trialTimeout"])
        if _timeout(limits.get("trialTimeout"), "trialTimeout")
        else "",
        policy=read_policy(_mapping(properties, "earlyTermination")),
        trial=trial,
    )


def _objective(raw: Mapping[str, Any], name: str) -> tuple[str, bool]:
    metric, goal = str(raw.get("primaryMetric") or ""), str(raw.get("goal") or "").lower()
    if not metric:
        raise InvalidRequest(
            f"Sweep {name!r} has no primary metric: name one that its trials log.",
            target="properties.objective.primaryMetric",
        )
    if goal not in ("maximize", "minimize"):
        raise InvalidRequest(
            f"The goal of an objective is maximize or minimize, not {raw.get('goal')!r}.",
            target="properties.objective.goal",
        )
    return metric, goal == "maximize"


def _base(raw: Any) -> float:
    if raw is None or str(raw).lower() == "e":
        return math.e
    try:
        base = float(raw)
    except (TypeError, ValueError):
        base = 0.0
    if not math.isfinite(base) or base <= 0:
        raise InvalidRequest(
            f"logbase is {raw!r}: it must be a positive number, or 'e'.",
            target="properties.samplingAlgorithm.logbase",
        )
    return base


def _seed(raw: Any, name: str) -> int:
    """Of the name where none is given: asking again must give the same trials."""
    if raw is None:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise InvalidRequest(
            f"seed must be a whole number, not {raw!r}.", target="properties.samplingAlgorithm.seed"
        )
    return raw


def _count(limits: Mapping[str, Any], word: str, default: int, most: int) -> int:
    raw = limits.get(word)
    if raw is None:
        return default
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= most:
        raise InvalidRequest(
            f"{word} is {raw!r}: it must be a whole number from 1 to {most}.",
            target=f"properties.limits.{word}",
        )
    return raw


def _timeout(raw: Any, word: str) -> int | None:
    if raw is None or raw == "":
        return None
    try:
        seconds = parse_duration(str(raw))
    except ValueError as error:
        raise InvalidRequest(
            f"limits.{word} {raw!r} is not an ISO 8601 duration such as PT30M: {error}.",
            target=f"properties.limits.{word}",
        ) from error
    if seconds <= 0:
        raise InvalidRequest(f"limits.{word} must be more than zero.", target=f"properties.limits.{word}")
    return int(seconds)


def _mapping(raw: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    value = raw.get(word)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(
            f"properties.{word} must be an object, not {type(value).__name__}.", target=f"properties.{word}"
        )
    return cast(Mapping[str, Any], value)
