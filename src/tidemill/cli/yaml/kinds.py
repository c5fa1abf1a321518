"""What a value may be, as small records, and one function that checks a document against them.

`check` returns the value converted (enums in their written form, loose texts as text) and appends every
problem it finds; it never stops at the first.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from typing import Any

from tidemill.cli.errors import did_you_mean
from tidemill.cli.yaml.document import Document, Problem, Trail


@dataclass(frozen=True, slots=True)
class Text:
    """Text. `loose`: numbers, dates and booleans are taken as they stand in the file (`version: 1.10`)."""

    loose: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Integer:
    minimum: int = 0


@dataclass(frozen=True, slots=True)
class Flag:
    pass


@dataclass(frozen=True, slots=True)
class Literal:
    """Text, number or boolean."""


@dataclass(frozen=True, slots=True)
class Free:
    """Any mapping; its inside is somebody else's format."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `values`, without regard to case, '-' and '_'. Returns it as listed."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Items:
    of: Kind


@dataclass(frozen=True, slots=True)
class Mapping:
    """User-chosen names to values. `named` is for messages; `identifiers`: letters, digits, _."""

    of: Kind
    named: str = "entry"
    identifiers: bool = False


@dataclass(frozen=True, slots=True)
class Either:
    """Chosen by the shape of the value."""

    scalar: Kind | None = None
    record: Kind | None = None
    items: Kind | None = None
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys. `name` stands in messages: "a command job"."""

    name: str
    fields: MappingType[str, Field]


@dataclass(frozen=True, slots=True)
class Tagged:
    """A record chosen by the text at `key`; `refused` maps values that exist in Azure but not here."""

    name: str
    key: str
    variants: MappingType[str, Record]
    default: str | None = None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    kind: Kind
    required: bool = False
    read_only: bool = field(default=False)  # the service's own answer (`id`, `status`): taken and left out


Kind = Text | Integer | Flag | Literal | Free | Choice | Items | Mapping | Either | Record | Tagged


def check(kind: Kind, document: Document, value: Any, trail: Trail, problems: list[Problem]) -> Any:
    """The converted value; None where it was wrong."""
    match kind:
        case Text():
            return _text(kind, document, value, trail, problems)
        case Integer():
            if isinstance(value, int) and not isinstance(value, bool) and value >= kind.minimum:
                return value
            limit = f" of {kind.minimum} or more" if isinstance(value, int) else ""
            return _wrong(document, value, trail, problems, f"a whole number{limit}")
        case Flag():
            return (
                value
                if isinstance(value, bool)
                else _wrong(document, value, trail, problems, "true or false")
            )
        case Literal():
            if isinstance(value, (str, int, float)):
                return value
            if value is not None and not isinstance(value, (dict, list)):
                return document.place(trail).written or str(value)  # a date, as it stands
            return _wrong(document, value, trail, problems, "text, a number or a boolean")
        case Free():
            return value if isinstance(value, dict) else _wrong(document, value, trail, problems, "a mapping")
        case Choice():
            return _choice(kind, document, value, trail, problems)
        case Items():
            if not isinstance(value, list):
                return _wrong(document, value, trail, problems, "a list")
            return [check(kind.of, document, item, (*trail, i), problems) for i, item in enumerate(value)]
        case Mapping():
            return _mapping(kind, document, value, trail, problems)
        case Either():
            return _either(kind, document, value, trail, problems)
        case Record():
            return _record(kind, document, value, trail, problems)
        case Tagged():
            return _tagged(kind, document, value, trail, problems)


def _text(kind: Text, document: Document, value: Any, trail: Trail, problems: list[Problem]) -> str | None:
    if isinstance(value, str):
        if not value.strip() and not kind.empty:
            problems.append(Problem(document.place(trail), f"{_name(trail)} is empty."))
            return None
        return value
    place = document.place(trail)
    # On the command line there are no quotes to tell text from numbers.
    if (kind.loose or not place.line) and value is not None and not isinstance(value, (dict, list)):
        return place.written or str(value)
    return _wrong(document, value, trail, problems, "text", quote=True)


def _choice(
    kind: Choice, document: Document, value: Any, trail: Trail, problems: list[Problem]
) -> str | None:
    if isinstance(value, str):
        for known in kind.values:
            if _squash(known) == _squash(value):
                return known
    text = document.place(trail).written or str(value)
    hint = did_you_mean(text, kind.values)
    problems.append(
        Problem(
            document.place(trail), f"{_name(trail)} {text!r} is not one of {', '.join(kind.values)}.{hint}"
        )
    )
    return None


def _mapping(kind: Mapping, document: Document, value: Any, trail: Trail, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(document, value, trail, problems, f"a mapping of {kind.named} names to values")
    result: dict[str, Any] = {}
    for name, item in value.items():
        if kind.identifiers and not (name.isidentifier() and name.isascii()):
            problems.append(
                Problem(
                    document.key_place((*trail, name)),
                    f"{kind.named} name '{name}' must be letters, digits and '_', not starting with a digit.",
                )
            )
        result[name] = check(kind.of, document, item, (*trail, name), problems)
    return result


def _either(kind: Either, document: Document, value: Any, trail: Trail, problems: list[Problem]) -> Any:
    if value is None and kind.nothing:
        return None
    if isinstance(value, dict):
        chosen, shape = kind.record, "a mapping"
    elif isinstance(value, list):
        chosen, shape = kind.items, "a list"
    else:
        chosen, shape = kind.scalar, "text"
    if chosen is not None:
        return check(chosen, document, value, trail, problems)
    shapes = [("text", kind.scalar), ("a mapping", kind.record), ("a list", kind.items)]
    wanted = " or ".join(name for name, known in shapes if known is not None and name != shape)
    return _wrong(document, value, trail, problems, wanted)


def _record(kind: Record, document: Document, value: Any, trail: Trail, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(document, value, trail, problems, f"a mapping ({kind.name})")
    result: dict[str, Any] = {}
    for name, item in value.items():
        known = kind.fields.get(name)
        if known is None:
            if name == "$schema":
                continue
            hint = did_you_mean(name, list(kind.fields)) or f" Known keys: {', '.join(kind.fields)}."
            problems.append(
                Problem(document.key_place((*trail, name)), f"unknown key '{name}' in {kind.name}.{hint}")
            )
        elif known.read_only or (item is None and not known.required and not _takes_nothing(known.kind)):
            continue
        else:
            result[name] = check(known.kind, document, item, (*trail, name), problems)
    for name, known in kind.fields.items():
        if known.required and name not in value:
            problems.append(Problem(document.place(trail), f"'{name}' is required in {kind.name}."))
    return result


def _tagged(kind: Tagged, document: Document, value: Any, trail: Trail, problems: list[Problem]) -> Any:
    if not isinstance(value, dict):
        return _wrong(document, value, trail, problems, f"a mapping ({kind.name})")
    tag = value.get(kind.key, kind.default)
    if tag is None:
        known = ", ".join(kind.variants)
        problems.append(
            Problem(document.place(trail), f"'{kind.key}' is required in {kind.name}: one of {known}.")
        )
        return None
    written = str(tag)
    for name, variant in kind.variants.items():
        if _squash(name) == _squash(written):
            checked = check(variant, document, value, trail, problems)
            return {**checked, kind.key: name} if checked is not None else None
    at = document.place((*trail, kind.key))
    if any(_squash(name) == _squash(written) for name in kind.refused):
        offered = ", ".join(kind.variants)
        message = f"{kind.key}: {written} is not offered yet in {kind.name}. Offered: {offered}."
        problems.append(Problem(at, message))
        return None
    hint = did_you_mean(written, list(kind.variants))
    problems.append(
        Problem(at, f"{kind.key} {written!r} of {kind.name} is not one of {', '.join(kind.variants)}.{hint}")
    )
    return None


def _wrong(
    document: Document, value: Any, trail: Trail, problems: list[Problem], wanted: str, quote: bool = False
) -> None:
    hint = ""
    if quote and value is not None and not isinstance(value, (dict, list)):
        hint = f' Quote it: "{document.place(trail).written or value}".'
    problems.append(
        Problem(
            document.place(trail),
            f"{_name(trail)} must be {wanted}, not {describe(value, document, trail)}.{hint}",
        )
    )


def describe(value: Any, document: Document, trail: Trail) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    written = document.place(trail).written or str(value)
    if isinstance(value, str):
        return f"the text {written!r}"
    shape = (
        "the boolean"
        if isinstance(value, bool)
        else "the number"
        if isinstance(value, (int, float))
        else "the value"
    )
    return f"{shape} {written}"


def _takes_nothing(kind: Kind) -> bool:
    return isinstance(kind, Either) and kind.nothing


def _name(trail: Trail) -> str:
    return ".".join(map(str, trail)) if trail else "the file"


def _squash(text: str) -> str:
    return text.lower().replace("_", "").replace("-", "")
