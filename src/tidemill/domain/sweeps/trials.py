"""The body of one trial: a command job with its parameters as inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.expressions import render
from tidemill.domain.jobspec import KEEP
from tidemill.domain.sweeps.space import Point, text_of
from tidemill.domain.sweeps.spec import SweepSpec

HYPERPARAMETERS = "hyperparameters"  # the tag that Azure gives its trials
POINT = "tidemill.point"  # the property that says where in the space a trial lies
_SPACE = re.compile(r"\$\{\{\s*search_space\.([A-Za-z0-9_\-.]+)\s*\}\}")
_FROM_TRIAL = ("codeId", "environmentId", "environmentVariables", "distribution", "resources")
_FROM_SWEEP = ("computeId", "experimentName", "identity", "queueSettings", "outputs")


def check_command(spec: SweepSpec, properties: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for an expression that names nothing, or a parameter with an input's name."""
    inputs = cast(Mapping[str, Any], properties.get("inputs") or {})
    twice = next((name for name in spec.space.names if name in inputs), None)
    if twice is not None:
        raise InvalidRequest(
            f"{twice!r} is an input and a parameter of the search space: call one of them otherwise.",
            target=f"properties.searchSpace.{twice}",
        )
    outputs = cast(Mapping[str, Any], properties.get("outputs") or {})
    render(
        str(spec.trial["command"]),
        dict.fromkeys(inputs, ""),
        dict.fromkeys(outputs, ""),
        dict.fromkeys(spec.space.names, ""),
        "properties.trial.command",
    )


def trial_body(
    spec: SweepSpec,
    sweep: Mapping[str, Any],
    number: int,
    point: Point,
    name: str,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """`sweep`: the properties of the sweep's body. Outputs lose their asset names: the best trial's are
    registered when the sweep ends."""
    values = {key: text_of(value) for key, value in spec.space.values(point).items()}
    parameters = {key: {"jobInputType": "literal", "value": value} for key, value in values.items()}
    properties: dict[str, Any] = {
        "jobType": "Command",
        "command": _SPACE.sub(r"${{inputs.\1}}", str(spec.trial["command"])),
        "displayName": f"{sweep.get('displayName') or name} {number + 1}",
        **{word: spec.trial[word] for word in _FROM_TRIAL if spec.trial.get(word)},
        **{word: sweep[word] for word in _FROM_SWEEP if sweep.get(word)},
        "inputs": {**(sweep.get("inputs") or {}), **parameters},
        "tags": {**tags, HYPERPARAMETERS: text_of(values)},
        "properties": {POINT: text_of(list(point)), **_kept_nodes(sweep)},
    }
    if sweep.get("resources") and "resources" not in properties:
        properties["resources"] = sweep["resources"]
    if spec.trial_timeout:
        properties["limits"] = {"jobLimitsType": "Command", "timeout": spec.trial_timeout}
    outputs = cast(Mapping[str, Mapping[str, Any]], properties.get("outputs") or {})
    properties["outputs"] = {key: _own(value) for key, value in outputs.items()}
    return {"properties": properties}


def _kept_nodes(sweep: Mapping[str, Any]) -> dict[str, Any]:
    own = cast(Mapping[str, Any], sweep.get("properties") or {})
    return {KEEP: own[KEEP]} if own.get(KEEP) else {}


def _own(output: Mapping[str, Any]) -> dict[str, Any]:
    """The output of one trial: below the address that was given, a folder for each."""
    kept = {key: value for key, value in output.items() if key not in ("assetName", "assetVersion")}
    uri = str(kept.get("uri") or "")
    if uri and "${{name}}" not in uri:
        kept["uri"] = f"{uri.rstrip('/')}/${{{{name}}}}/"
    return kept
