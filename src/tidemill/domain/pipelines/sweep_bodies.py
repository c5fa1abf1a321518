"""A sweep as a step of a pipeline: its trial is a command component, whose inputs the search space sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tidemill.domain.components import COMMAND, Component, mapping, maybe, text_of
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.pipelines.bodies import Defaults, body_of, camel
from tidemill.domain.pipelines.checking import unknown
from tidemill.domain.sweeps.space import rest_form

_INPUT = re.compile(r"\$\{\{\s*inputs\.([A-Za-z_][\w.\-]*)\s*\}\}")
_TRIAL = ("codeId", "environmentId", "environmentVariables", "distribution", "resources")
_ALGORITHMS = {"random": "Random", "grid": "Grid", "bayesian": "Bayesian"}
_POLICIES = {
    "bandit": "Bandit",
    "median_stopping": "MedianStopping",
    "truncation_selection": "TruncationSelection",
}


def trial_id(node: Mapping[str, Any]) -> str:
    """The componentId of a sweep step's trial, "" for one that is written out."""
    return text_of(maybe(node.get("trial")).get("componentId"))


def space_names(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs that the search space sets."""
    return tuple(maybe(node.get("search_space") or node.get("searchSpace")))


def check_trial(whose: str, component: Component, node: Mapping[str, Any], where: str) -> None:
    """`whose`: "Step 'tune'", for sentences. Raises InvalidRequest for a trial that is no command, or a
    parameter that it does not have."""
    if component.kind != COMMAND:
        raise InvalidRequest(
            f"{whose}: its trial is a {component.kind} component, and must be a command.",
            target=f"{where}.trial",
        )
    names = [port.name for port in component.inputs]
    for name in space_names(node):
        if name not in names:
            raise unknown(
                f"{whose}: the search space has {name!r}, but its trial has no input",
                name,
                names,
                f"{where}.{'searchSpace' if 'searchSpace' in node else 'search_space'}.{name}",
            )


def sweep_body(
    step: str, component: Component, node: Mapping[str, Any], defaults: Defaults
) -> dict[str, Any]:
    """ARM properties of the sweep without inputs and outputs."""
    where = f"properties.jobs.{step}"
    settings = {key: value for key, value in node.items() if key != "limits"}
    command = body_of(step, component, settings, defaults)
    trial = trial_of(component, command, space_names(node))
    common = {key: value for key, value in command.items() if key not in (*_TRIAL, "command", "limits")}
    limits = camel(mapping(node, "limits", where))
    for word in ("timeout", "trialTimeout"):
        if text_of(limits.get(word)).isdigit():
            limits[word] = f"PT{limits[word]}S"
    body = {
        **common,
        "jobType": "Sweep",
        "trial": trial,
        "searchSpace": {
            name: rest_form(entry)
            for name, entry in maybe(node.get("search_space") or node.get("searchSpace")).items()
        },
        "objective": camel(mapping(node, "objective", where)),
        "samplingAlgorithm": _algorithm(node.get("sampling_algorithm") or node.get("samplingAlgorithm")),
        "limits": {**limits, "jobLimitsType": "Sweep"},
        "earlyTermination": _policy(node.get("early_termination") or node.get("earlyTermination")),
    }
    return {key: value for key, value in body.items() if value}


def trial_of(component: Component, command: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What each trial runs. `command`: the component as a job of its own; `names`: inputs that the search
    space sets."""

    def searched(match: re.Match[str]) -> str:
        return f"${{{{search_space.{match[1]}}}}}" if match[1] in names else match[0]

    trial = {key: command[key] for key in _TRIAL if key in command}
    return {**trial, "command": _INPUT.sub(searched, str(component.spec["command"]))}


def _algorithm(raw: Any) -> dict[str, Any]:
    given = cast(dict[str, Any], camel(maybe(raw)))
    kind = text_of(given.pop("type", None) or given.get("samplingAlgorithmType") or raw or "random")
    return {**given, "samplingAlgorithmType": _ALGORITHMS.get(kind.lower(), kind)}


def _policy(raw: Any) -> dict[str, Any]:
    given = cast(dict[str, Any], camel(maybe(raw)))
    kind = text_of(given.pop("type", None))
    return {**given, "policyType": _POLICIES.get(kind.lower(), kind)} if kind else given
