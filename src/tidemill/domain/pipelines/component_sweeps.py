"""A sweep job whose trial is a component: `trial: {"componentId": …}`, written out as Azure's body has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.domain.components import LITERALS, Component, Port, fits, literal, mapping, maybe, text_of
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.pipelines.bodies import Defaults, body_of
from tidemill.domain.pipelines.checking import unknown
from tidemill.domain.pipelines.sweep_bodies import check_trial, space_names, trial_of

WHERE = "properties"


def written_out(name: str, component: Component, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The properties with the component's command as the trial, its inputs and its outputs. What the body
    says itself counts before the component. Raises InvalidRequest naming the input at fault."""
    sweep = f"Sweep {name!r}"
    check_trial(sweep, component, properties, WHERE)
    command = body_of(name, component, {}, Defaults({}, ""))
    trial = {**trial_of(component, command, space_names(properties)), **maybe(properties.get("trial"))}
    limits = dict(mapping(properties, "limits", WHERE))
    longest = maybe(command.get("limits")).get("timeout")
    if longest and not limits.get("trialTimeout"):
        limits |= {"jobLimitsType": "Sweep", "trialTimeout": longest}
    return {
        **properties,
        "trial": trial,
        "inputs": _inputs(sweep, component, properties),
        "outputs": _outputs(sweep, component, properties),
        **({"limits": limits} if limits else {}),
    }


def _inputs(sweep: str, component: Component, properties: Mapping[str, Any]) -> dict[str, Any]:
    given = mapping(properties, "inputs", WHERE)
    names, searched = [port.name for port in component.inputs], space_names(properties)
    for name in given:
        if name not in names:
            raise unknown(f"{sweep}: its trial has no input", name, names, f"{WHERE}.inputs.{name}")
    found: dict[str, Any] = {}
    for port in component.inputs:
        where = f"{WHERE}.inputs.{port.name}"
        if port.name in searched:
            if given.get(port.name) is not None:
                raise InvalidRequest(
                    f"{sweep}: {port.name!r} is set by the search space: leave it out of the inputs.",
                    target=where,
                )
        elif given.get(port.name) is not None:
            found[port.name] = _given(sweep, port, maybe(given[port.name]), where)
        elif port.default is not None:
            found[port.name] = {"jobInputType": "literal", "value": port.default}
        elif not port.optional:
            raise InvalidRequest(
                f"{sweep}: input {port.name!r} ({port.type}) of its trial has no value. Give one in "
                f"inputs.{port.name}, or a distribution in search_space.{port.name}.",
                "InputNotBound",
                where,
            )
    return found


def _given(sweep: str, port: Port, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = text_of(value.get("jobInputType"))
    if kind == "literal" and port.type in LITERALS:
        return {**value, "value": literal(port, text_of(value.get("value")), where)}
    if not fits("string" if kind == "literal" else kind, port.type):
        raise InvalidRequest(
            f"{sweep}: input {port.name!r} of its trial is of type {port.type}, not {kind}.",
            "InputTypeMismatch",
            where,
        )
    return dict(value)


def _outputs(sweep: str, component: Component, properties: Mapping[str, Any]) -> dict[str, Any]:
    given = mapping(properties, "outputs", WHERE)
    names = [outlet.name for outlet in component.outputs]
    for name in given:
        if name not in names:
            raise unknown(f"{sweep}: its trial has no output", name, names, f"{WHERE}.outputs.{name}")
    return {
        outlet.name: {"jobOutputType": outlet.type, **maybe(given.get(outlet.name))}
        for outlet in component.outputs
    }
