"""Tree-structured Parzen estimation by optuna, in a process of its own: `python -m tidemill.controllers.tpe`.

Reads one question a line (`domain.sweeps.sampling.Ask` as JSON), answers each with a point. It keeps nothing:
a question has all trials in it, so whoever asks again after a restart gets the same answer. The import takes
most of a second and 60 MB, which the server itself is spared.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial


def suggest(counts: list[int], seen: list[dict[str, Any]], maximize: bool, seed: int) -> list[float]:
    """`counts` of the dimensions (0: a quantile in [0, 1)), `seen` trials {point, score, live} -> a point.
    Trials that run are taken for bad ones, so that two at once do not try the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=(seed + len(seen)) % 2**32, constant_liar=True, multivariate=len(counts) > 1
        )
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    space = {str(i): _distribution(count) for i, count in enumerate(counts)}
    study.add_trials([_frozen(one, space) for one in seen])
    trial = study.ask(space)
    return [float(trial.params[name]) for name in space]


def _distribution(count: int) -> BaseDistribution:
    return CategoricalDistribution(range(count)) if count else FloatDistribution(0.0, 1.0)


def _frozen(one: dict[str, Any], space: dict[str, BaseDistribution]) -> FrozenTrial:
    point = {
        name: int(at) if isinstance(kind, CategoricalDistribution) else at
        for (name, kind), at in zip(space.items(), one["point"], strict=True)
    }
    done = one["score"] is not None and not one["live"]
    state = TrialState.RUNNING if one["live"] else TrialState.COMPLETE if done else TrialState.FAIL
    return create_trial(state=state, value=one["score"] if done else None, params=point, distributions=space)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"point": suggest(**json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
