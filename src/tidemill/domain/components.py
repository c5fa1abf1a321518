"""Components: steps that are kept for use in pipelines, as Azure's `componentSpec` describes them.

The spec is the component's YAML in snake case (https://learn.microsoft.com/azure/machine-learning/reference-yaml-component-command);
values of inputs are texts. Unknown keys are kept.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.expressions import render
from tidemill.domain.jobspec import DATA_TYPES
from tidemill.domain.units import join_words

COMMAND, PIPELINE, PARALLEL, SWEEP, SPARK = "command", "pipeline", "parallel", "sweep", "spark"
KINDS = (COMMAND, PIPELINE, PARALLEL, SWEEP, SPARK)  # that are kept; whether steps of them run is asked then
NOT_KEPT = {
    "automl": "AutoML",
    "data_transfer": "data transfer",
    "import": "import",
    "flow_parallel": "prompt flow",
    "distribution": "distribution",
}
LITERALS = ("string", "integer", "number", "boolean")
_OLD_WORDS = {"path": "uri_folder", "enum": "string", "float": "number", "int": "integer", "bool": "boolean"}
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Port:
    """An input: `type` is one of LITERALS or DATA_TYPES, "any" where the spec leaves it open. `low` and
    `high` are texts of numbers, "" for none."""

    name: str
    type: str
    optional: bool = False
    default: str | None = None
    mode: str = ""
    allowed: tuple[str, ...] = ()
    low: str = ""
    high: str = ""


@dataclass(frozen=True, slots=True)
class Outlet:
    """An output; of a literal type, its value is what the step writes into that file."""

    name: str
    type: str
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    kind: str
    name: str
    version: str
    display_name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Outlet, ...]
    deterministic: bool
    spec: Mapping[str, Any]

    def port(self, name: str) -> Port | None:
        return next((port for port in self.inputs if port.name == name), None)

    def outlet(self, name: str) -> Outlet | None:
        return next((outlet for outlet in self.outputs if outlet.name == name), None)


def read_component(raw: Any, name: str, version: str = "") -> Component:
    """`componentSpec` -> Component. Raises InvalidRequest or NotOffered naming the key at fault."""
    where = "properties.componentSpec"
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"Component {name!r} has no componentSpec.", target=where)
    spec = cast(Mapping[str, Any], raw)
    kind = str(spec.get("type") or COMMAND).rsplit("@", 1)[0].lower()
    if kind in NOT_KEPT:
        raise NotOffered(
            f"Component {name!r} is of type {NOT_KEPT[kind]}, which Tidemill does not offer.", f"{where}.type"
        )
    if kind not in KINDS:
        raise InvalidRequest(
            f"Type {spec.get('type')!r} of component {name!r} is not known. Use one of {', '.join(KINDS)}.",
            target=f"{where}.type",
        )
    component = Component(
        kind,
        name,
        version or str(spec.get("version") or ""),
        str(spec.get("display_name") or spec.get("name") or name),
        tuple(_port(key, value, f"{where}.inputs") for key, value in _flat(mapping(spec, "inputs", where))),
        tuple(_outlet(key, value, where) for key, value in mapping(spec, "outputs", where).items()),
        truth(spec.get("is_deterministic"), True),
        spec,
    )
    if kind == COMMAND:
        check_command(component)
    return component


def check_command(component: Component) -> None:
    """Raises InvalidRequest for a command that is absent or names what the component does not have."""
    where = "properties.componentSpec.command"
    command = component.spec.get("command")
    if not isinstance(command, str) or not command.strip():
        raise InvalidRequest(f"Component {component.name!r} has no command.", target=where)
    inputs = {port.name: None if port.optional and port.default is None else "x" for port in component.inputs}
    render(command, inputs, {outlet.name: "x" for outlet in component.outputs}, target=where)


def literal(port: Port, text: str, where: str) -> str:
    """The text as the command gets it. Raises InvalidRequest where it is not of the port's type."""
    problem = _literal_problem(port, text)
    if problem:
        raise InvalidRequest(f"{where}: {problem}.", "InputTypeMismatch", where)
    if port.type == "boolean":
        return "True" if text.strip().lower() in _TRUE else "False"
    return text


def _literal_problem(port: Port, text: str) -> str:
    called = f"input {port.name!r} is of type {port.type}"
    if port.type == "boolean" and text.strip().lower() not in (*_TRUE, *_FALSE):
        return f"{called}, not {text!r}: give true or false"
    if port.type in ("integer", "number"):
        number = _number(text, port.type)
        if number is None:
            return f"{called}, not {text!r}"
        low, high = (_number(bound, "number") for bound in (port.low, port.high))
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = f"{port.low or '-∞'} and {port.high or '∞'}"
            return f"input {port.name!r} is {text}: it must lie between {bounds}"
    if port.allowed and text not in port.allowed:
        return f"input {port.name!r} is {text!r}: use one of {join_words(port.allowed, 'or', 12)}"
    return ""


def _number(text: str, kind: str) -> float | None:
    try:
        return int(text) if kind == "integer" else float(text)
    except ValueError:
        try:  # "3.0" is a whole number, as Azure takes it
            value = float(text)
        except ValueError:
            return None
        return value if value.is_integer() else None


def fits(given: str, wanted: str) -> bool:
    """Whether data of one type can be read as another: a file is no folder; tables and models are folders of
    a form of their own, which a plain folder may hold."""
    if "any" in (given, wanted) or given == wanted:
        return True
    if given in LITERALS or wanted in LITERALS:
        return given in LITERALS and wanted in LITERALS
    if "custom_model" in (given, wanted):
        return True
    if "uri_file" in (given, wanted):
        return False
    return "uri_folder" in (given, wanted)


def _flat(inputs: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Groups of inputs (`type: group`) as the SDK flattens them: `group.name`."""
    for key, value in inputs.items():
        if isinstance(value, Mapping) and cast(Mapping[str, Any], value).get("type") == "group":
            members: Any = cast(Mapping[str, Any], value).get("values") or {}
            yield from _flat(cast(Mapping[str, Any], members), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _port(name: str, raw: Any, where: str) -> Port:
    value = _as_mapping(raw, f"{where}.{name}")
    default = value.get("default")
    allowed: Any = value.get("enum") or ()
    return Port(
        name,
        _type(value.get("type"), f"{where}.{name}.type"),
        truth(value.get("optional"), False),
        None if default is None else text_of(default),
        str(value.get("mode") or ""),
        tuple(text_of(word) for word in allowed),
        text_of(value.get("min")),
        text_of(value.get("max")),
    )


def _outlet(name: str, raw: Any, where: str) -> Outlet:
    value = _as_mapping(raw, f"{where}.outputs.{name}")
    return Outlet(
        name, _type(value.get("type"), f"{where}.outputs.{name}.type"), str(value.get("mode") or "")
    )


def _type(raw: Any, where: str) -> str:
    if isinstance(raw, list):
        return "any"  # one of several: what is given is looked at when it is used
    word = str(raw or "uri_folder").lower()
    word = _OLD_WORDS.get(word, word)
    if word not in (*LITERALS, *DATA_TYPES, "any"):
        known = (*LITERALS, *DATA_TYPES)
        near = difflib.get_close_matches(word, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Use one of {', '.join(known)}."
        raise InvalidRequest(f"{where}: type {raw!r} is not known. {hint}", target=where)
    return word


def mapping(spec: Mapping[str, Any], field: str, where: str) -> Mapping[str, Any]:
    """`spec[field]` as an object, {} where it is absent. Raises InvalidRequest."""
    return _as_mapping(spec.get(field), f"{where}.{field}")


def _as_mapping(raw: Any, where: str) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"{where} must be an object, not {type(raw).__name__}.", target=where)
    return cast(Mapping[str, Any], raw)


def maybe(raw: Any) -> Mapping[str, Any]:
    """An object, or {} for anything else."""
    return cast(Mapping[str, Any], raw) if isinstance(raw, Mapping) else {}


def truth(raw: Any, default: bool) -> bool:
    return default if raw is None or raw == "" else str(raw).lower() in _TRUE


def text_of(raw: Any) -> str:
    """A YAML value as Azure's texts: True, not true."""
    return "" if raw is None else str(raw)
