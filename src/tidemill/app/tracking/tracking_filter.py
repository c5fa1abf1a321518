"""MLflow's search language: `metrics.loss < 0.5 and params.kind = 'svc' and tags.a LIKE 'b%'`, and order_by.

What a clause is about is looked up by the caller: `look(entity, key)` with entity "metric", "param", "tag" or
"attribute" gives a number, a text or None (not there; no comparison holds for it).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tidemill.app.errors import instead
from tidemill.domain.errors import InvalidRequest

T = TypeVar("T")
Value = str | float | int
Look = Callable[[str, str], Value | None]

_ENTITIES = {
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
}
_ALIASES = {"created": "start_time", "run name": "run_name", "run id": "run_id", "user id": "user_id"}
_KEY = r"""`[^`]+`|"[^"]+"|[\w./-]+"""
_IDENTIFIER = re.compile(rf"\s*(?:(?P<entity>[A-Za-z]+)\s*\.\s*)?(?P<key>{_KEY})")
_OPERATOR = re.compile(
    r"\s*(!=|<=|>=|=|<|>|NOT\s+IN\b|IN\b|I?LIKE\b|IS\s+NOT\s+NULL\b|IS\s+NULL\b)", re.IGNORECASE
)
_VALUE = re.compile(
    r"""\s*(?P<text>'[^']*'|"[^"]*")|\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"""
)
_AND = re.compile(r"\s*AND\b", re.IGNORECASE)
_ORDER = re.compile(
    rf"^\s*(?:(?P<entity>[A-Za-z]+)\s*\.\s*)?(?P<key>{_KEY}|created|run name)(?:\s+(?P<way>ASC|DESC))?\s*$",
    re.I,
)
_NUMERIC = {
    "=": float.__eq__,
    "!=": float.__ne__,
    "<": float.__lt__,
    "<=": float.__le__,
    ">": float.__gt__,
    ">=": float.__ge__,
}


@dataclass(frozen=True, slots=True)
class Clause:
    entity: str
    key: str
    operator: str  # upper case, one space between words
    value: Value | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Order:
    entity: str
    key: str
    ascending: bool


def parse_filter(text: str, numbers: frozenset[str], texts: frozenset[str]) -> tuple[Clause, ...]:
    """`numbers` and `texts`: the attributes that exist. Raises InvalidRequest naming the place."""
    clauses: list[Clause] = []
    at = 0
    while text[at:].strip():
        if clauses:
            joined = _AND.match(text, at)
            if joined is None:
                raise _wrong(text, at, "expected AND (there is no OR)")
            at = joined.end()
        clause, at = _clause(text, at, numbers, texts)
        clauses.append(clause)
    return tuple(clauses)


def _clause(text: str, at: int, numbers: frozenset[str], texts: frozenset[str]) -> tuple[Clause, int]:
    name = _IDENTIFIER.match(text, at)
    if name is None:
        raise _wrong(text, at, "expected a name such as metrics.loss")
    entity, key = _named(name["entity"], name["key"], numbers | texts)
    operator = _OPERATOR.match(text, name.end())
    if operator is None:
        raise _wrong(
            text, name.end(), "expected one of = != < <= > >= LIKE ILIKE IN, NOT IN, IS NULL, IS NOT NULL"
        )
    word = " ".join(operator[1].upper().split())
    at = operator.end()
    if word.startswith("IS "):
        return Clause(entity, key, word, None), at
    if word.endswith("IN"):
        return _members(text, at, Clause(entity, key, word, None))
    value = _VALUE.match(text, at)
    if value is None:
        raise _wrong(text, at, "expected a number or a text in quotes")
    if entity == "metric" or (entity == "attribute" and key in numbers):
        if value["number"] is None or word not in _NUMERIC:
            raise _wrong(
                text, at, f"{key!r} is a number: compare it with = != < <= > >= and a number without quotes"
            )
        return Clause(entity, key, word, float(value["number"])), value.end()
    if value["text"] is None:
        raise _wrong(text, at, f"{key!r} is a text: put the value in quotes")
    if word in ("<", "<=", ">", ">="):
        raise _wrong(text, at, f"{key!r} is a text: compare it with = != LIKE ILIKE IN")
    return Clause(entity, key, word, value["text"][1:-1]), value.end()


def _members(text: str, at: int, clause: Clause) -> tuple[Clause, int]:
    listed = re.compile(
        r"\s*\(\s*((?:'[^']*'|\"[^\"]*\")(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"))*)\s*,?\s*\)"
    ).match(text, at)
    if listed is None:
        raise _wrong(text, at, "expected a list of texts such as ('a', 'b')")
    values = tuple(item[1:-1] for item in re.findall(r"'[^']*'|\"[^\"]*\"", listed[1]))
    return Clause(clause.entity, clause.key, clause.operator, values), listed.end()


def _named(entity: str | None, key: str, attributes: Iterable[str]) -> tuple[str, str]:
    key = key[1:-1] if key[0] in '`"' else key
    if entity is None:
        found = "attribute"
    elif entity.lower() in _ENTITIES:
        found = _ENTITIES[entity.lower()]
    else:
        raise InvalidRequest(
            f"Searches know metrics, params, tags and attributes, not {entity!r}. "
            "A name with dots is written in backticks: tags.`a.b`."
        )
    if found == "attribute":
        key = _ALIASES.get(key.lower(), key)
        if key not in attributes:
            raise InvalidRequest(f"There is no attribute {key!r} to search by. {instead(key, attributes)}")
    return found, key


def matches(clauses: Sequence[Clause], look: Look) -> bool:
    return all(_holds(clause, look(clause.entity, clause.key)) for clause in clauses)


def _holds(clause: Clause, held: Value | None) -> bool:
    if clause.operator.startswith("IS"):
        return (held is None) == (clause.operator == "IS NULL")
    if held is None:
        return False
    wanted = clause.value
    if isinstance(wanted, tuple):
        return (str(held) in wanted) == (clause.operator == "IN")
    if isinstance(wanted, float):
        return _NUMERIC[clause.operator](float(held), wanted)
    match clause.operator:
        case "=":
            return str(held) == wanted
        case "!=":
            return str(held) != wanted
        case operator:
            return _like(str(wanted), operator == "ILIKE").fullmatch(str(held)) is not None


def _like(pattern: str, fold: bool) -> re.Pattern[str]:
    parts = {"%": ".*", "_": "."}
    expression = "".join(parts.get(character, re.escape(character)) for character in pattern)
    return re.compile(expression, re.DOTALL | (re.IGNORECASE if fold else 0))


def parse_order(texts: Sequence[str], attributes: frozenset[str]) -> tuple[Order, ...]:
    orders: list[Order] = []
    for text in texts:
        found = _ORDER.match(text)
        if found is None:
            raise InvalidRequest(
                f"order_by {text!r} is not 'metrics.loss ASC' or 'start_time DESC'.", target="order_by"
            )
        entity, key = _named(found["entity"], found["key"], attributes)
        orders.append(Order(entity, key, (found["way"] or "ASC").upper() == "ASC"))
    return tuple(orders)


def ordered(items: Sequence[T], orders: Sequence[Order], look: Callable[[T], Look]) -> list[T]:
    """Stable; what has no value (or NaN) comes last either way."""
    result = list(items)
    for order in reversed(orders):
        valued = [(look(item)(order.entity, order.key), item) for item in result]
        present = [(value, item) for value, item in valued if not _absent(value)]
        present.sort(key=lambda pair: pair[0], reverse=not order.ascending)  # type: ignore[arg-type, return-value]
        result = [item for _, item in present] + [item for value, item in valued if _absent(value)]
    return result


def _absent(value: Value | None) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _wrong(text: str, at: int, why: str) -> InvalidRequest:
    column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
    return InvalidRequest(f"The filter {text!r} is wrong at column {column}: {why}.", target="filter")
