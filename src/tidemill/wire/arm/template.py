"""ARM deployment templates: the expression language, and which resources a template asks for.

Covers the functions that the SDK's and az's workspace templates use. Anything else is refused by name.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.model import Scope

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<name>[A-Za-z_]\w*)|(?P<sign>[(),.\[\]]))"
)
_FIELDS = ("type", "name", "location", "tags", "kind", "sku", "identity", "properties")
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Deployed:
    """A resource of the template whose condition holds, its fields evaluated."""

    type: str
    name: str
    body: dict[str, Any]


@dataclass(slots=True)
class _Template:
    scope: Scope
    tenant: str
    location: str
    parameters: dict[str, Any]
    defaults: dict[str, Any]
    variables: dict[str, Any]
    depth: int = 0
    known: dict[str, Any] = field(default_factory=dict[str, Any])


def resources_of(
    template: dict[str, Any],
    parameters: Mapping[str, Any],
    scope: Scope,
    *,
    tenant: str,
    location: str,
    whole: Callable[[str], bool],
) -> list[Deployed]:
    """The resources to deploy into `scope` (a resource group), nested ones after their parent. Only types
    for which `whole(type)` holds have their properties evaluated. Raises InvalidRequest (a template that
    cannot be evaluated, a missing parameter) or NotOffered (a function this server does not have)."""
    declared = template.get("parameters") or {}
    if not isinstance(declared, dict) or not all(isinstance(one, dict) for one in declared.values()):
        raise InvalidRequest("The template's parameters must be objects.", "InvalidTemplate", "parameters")
    given = {
        name: entry["value"]
        for name, entry in parameters.items()
        if isinstance(entry, dict) and "value" in entry
    }
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise InvalidRequest(
            f"The template declares no parameter {unknown[0]!r}.",
            "InvalidTemplate",
            f"parameters.{unknown[0]}",
        )
    state = _Template(
        scope,
        tenant,
        location,
        given,
        {name: entry["defaultValue"] for name, entry in declared.items() if "defaultValue" in entry},
        cast(dict[str, Any], template.get("variables") or {}),
    )
    try:
        return _resources(state, cast(list[dict[str, Any]], template.get("resources") or []), whole, None)
    except (KeyError, AttributeError, TypeError) as error:
        raise InvalidRequest(f"The template is not well formed: {error}.", "InvalidTemplate") from error


def _resources(
    state: _Template, entries: list[dict[str, Any]], whole: Callable[[str], bool], parent: Deployed | None
) -> list[Deployed]:
    found: list[Deployed] = []
    for entry in entries:
        if not _truth(_value(state, entry.get("condition", True))):
            continue
        type_name, name = str(_value(state, entry["type"])), str(_value(state, entry["name"]))
        if parent is not None:
            type_name, name = f"{parent.type}/{type_name}", f"{parent.name}/{name}"
        fields = _FIELDS if whole(type_name) else ("location",)
        body = {key: _value(state, entry[key]) for key in fields if key in entry}
        deployed = Deployed(type_name, name, body)
        found.append(deployed)
        found += _resources(state, entry.get("resources") or [], whole, deployed)
    return found


def _value(state: _Template, raw: Any) -> Any:
    """A template value with every expression in it evaluated."""
    if isinstance(raw, dict):
        return {key: _value(state, item) for key, item in cast(dict[str, Any], raw).items()}
    if isinstance(raw, list):
        return [_value(state, item) for item in cast(list[Any], raw)]
    if not isinstance(raw, str) or not raw.startswith("[") or not raw.endswith("]"):
        return raw
    if raw.startswith("[["):
        return raw[1:]
    state.depth += 1
    if state.depth > _MAX_DEPTH:
        raise InvalidRequest(f"The template refers to itself in {raw!r}.", "InvalidTemplate")
    try:
        return _evaluate(state, _Parser(raw).parse())
    finally:
        state.depth -= 1


class _Parser:
    """`concat("a", f()).c` -> nested tuples: ("text", value), ("call", name, args), ("get", of, key)."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        inner, at = text[1:-1].rstrip(), 0
        while at < len(inner):
            match = _TOKEN.match(inner, at)
            if match is None:
                raise self._error()
            self._tokens.append((cast(str, match.lastgroup), match.group(match.lastgroup or 0)))
            at = match.end()
        self._at = 0

    def parse(self) -> Any:
        tree = self._expression(0)
        if self._at != len(self._tokens):
            raise self._error()
        return tree

    def _error(self) -> InvalidRequest:
        return InvalidRequest(f"The template expression {self._text!r} cannot be read.", "InvalidTemplate")

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise self._error()
        self._at += 1
        return self._tokens[self._at - 1]

    def _accept(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._error()

    def _expression(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._error()
        kind, text = self._next()
        if kind == "text":
            tree: Any = ("text", text[1:-1].replace("''", "'"))
        elif kind == "number":
            tree = ("text", int(text))
        elif kind == "name":
            self._expect("(")
            tree = ("call", text, self._arguments(depth))
        else:
            raise self._error()
        while True:
            if self._accept("."):
                tree = ("get", tree, ("text", self._next()[1]))
            elif self._accept("["):
                tree = ("get", tree, self._expression(depth + 1))
                self._expect("]")
            else:
                return tree

    def _arguments(self, depth: int) -> list[Any]:
        found: list[Any] = []
        if self._accept(")"):
            return found
        while True:
            found.append(self._expression(depth + 1))
            if self._accept(")"):
                return found
            self._expect(",")


def _evaluate(state: _Template, tree: Any) -> Any:
    if tree[0] == "text":
        return tree[1]
    if tree[0] == "get":
        value, key = _evaluate(state, tree[1]), _evaluate(state, tree[2])
        try:
            return value[key]
        except (KeyError, IndexError, TypeError):
            raise InvalidRequest(
                f"The template reads {key!r}, which is not there.", "InvalidTemplate"
            ) from None
    name, arguments = tree[1].lower(), tree[2]
    if name == "if":  # lazy: the branch not taken may not be evaluable
        return _evaluate(state, arguments[1] if _truth(_evaluate(state, arguments[0])) else arguments[2])
    if name == "and":
        return all(_truth(_evaluate(state, item)) for item in arguments)
    if name == "or":
        return any(_truth(_evaluate(state, item)) for item in arguments)
    values = [_evaluate(state, item) for item in arguments]
    if name in ("parameters", "variables"):
        return _named(state, name, str(values[0]))
    function = _FUNCTIONS.get(name)
    if function is None:
        raise NotOffered(f"The template function '{tree[1]}' is not offered here.", "template")
    try:
        return function(state, values)
    except (IndexError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"The template calls {tree[1]}() wrongly: {error}.", "InvalidTemplate"
        ) from error


def _named(state: _Template, kind: str, name: str) -> Any:
    known = f"{kind}/{name}"
    if known in state.known:
        return state.known[known]
    if kind == "parameters" and name in state.parameters:
        value = state.parameters[name]  # values given by the caller are data, never expressions
    else:
        table = state.defaults if kind == "parameters" else state.variables
        if name not in table:
            raise InvalidRequest(
                f"The template's {kind[:-1]} {name!r} has no value.", "InvalidTemplate", name
            )
        value = _value(state, table[name])
    state.known[known] = value
    return value


def _truth(value: Any) -> bool:
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def _equals(_: _Template, v: list[Any]) -> bool:
    return v[0].lower() == v[1].lower() if isinstance(v[0], str) and isinstance(v[1], str) else v[0] == v[1]


def _resource_id(state: _Template, values: list[Any]) -> str:
    """resourceId([subscription], [group], type, name, …): the type is the first value with a slash."""
    texts = [str(value) for value in values]
    at = next((n for n, text in enumerate(texts) if "/" in text), None)
    if at is None:
        raise ValueError("it names no resource type")
    before, kind, names = texts[:at], texts[at].split("/"), texts[at + 1 :]
    group = before[-1] if before else state.scope.group
    subscription = before[0] if len(before) > 1 else state.scope.subscription
    pairs = "/".join(f"{segment}/{name}" for segment, name in zip(kind[1:], names, strict=True))
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind[0]}/{pairs}"


def _subscription_resource_id(state: _Template, values: list[Any]) -> str:
    kind, names = str(values[0]).split("/"), [str(value) for value in values[1:]]
    pairs = "/".join(f"{segment}/{name}" for segment, name in zip(kind[1:], names, strict=True))
    return f"/subscriptions/{state.scope.subscription}/providers/{kind[0]}/{pairs}"


def _concat(_: _Template, values: list[Any]) -> Any:
    if values and isinstance(values[0], list):
        return [item for value in values for item in value]
    return "".join(_text(value) for value in values)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _format(_: _Template, values: list[Any]) -> str:
    """`{0}`, `{1}` … only: Python's own format would reach into objects."""
    return re.sub(r"\{(\d+)\}", lambda match: _text(values[1 + int(match[1])]), str(values[0]))


def _unique(_: _Template, values: list[Any]) -> str:
    """13 characters that depend on the values alone (not the ones Azure would give)."""
    digest = hashlib.sha256("|".join(map(_text, values)).encode()).digest()
    return base64.b32encode(digest)[:13].decode().lower()


_FUNCTIONS: dict[str, Callable[[_Template, list[Any]], Any]] = {
    "array": lambda _, v: v[0] if isinstance(v[0], list) else [v[0]],
    "bool": lambda _, v: _truth(v[0]),
    "coalesce": lambda _, v: next((item for item in v if item is not None), None),
    "concat": _concat,
    "contains": lambda _, v: v[1] in v[0],
    "createarray": lambda _, v: v,
    "createobject": lambda _, v: dict(zip(v[::2], v[1::2], strict=True)),
    "deployment": lambda s, v: {"name": "deployment", "properties": {}},
    "empty": lambda _, v: v[0] in (None, "", [], {}),
    "equals": _equals,
    "false": lambda _, v: False,
    "format": _format,
    "guid": lambda _, v: str(uuid.uuid5(uuid.NAMESPACE_URL, "-".join(map(_text, v)))),
    "int": lambda _, v: int(v[0]),
    "json": lambda _, v: msgspec.json.decode(v[0]),
    "length": lambda _, v: len(v[0]),
    "newguid": lambda _, v: str(uuid.uuid4()),
    "not": lambda _, v: not _truth(v[0]),
    "null": lambda _, v: None,
    "resourcegroup": lambda s, v: {"id": s.scope.arm_id, "name": s.scope.group, "location": s.location},
    "resourceid": _resource_id,
    "replace": lambda _, v: str(v[0]).replace(str(v[1]), str(v[2])),
    "string": lambda _, v: _text(v[0]),
    "subscription": lambda s, v: {
        "id": f"/subscriptions/{s.scope.subscription}",
        "subscriptionId": s.scope.subscription,
        "tenantId": s.tenant,
    },
    "subscriptionresourceid": _subscription_resource_id,
    "substring": lambda _, v: str(v[0])[int(v[1]) :][: int(v[2]) if len(v) > 2 else None],
    "take": lambda _, v: v[0][: int(v[1])],
    "tolower": lambda _, v: str(v[0]).lower(),
    "toupper": lambda _, v: str(v[0]).upper(),
    "trim": lambda _, v: str(v[0]).strip(),
    "true": lambda _, v: True,
    "union": lambda _, v: {key: value for item in v for key, value in item.items()},
    "uniquestring": _unique,
}
