"""Fields of an ARM body, read or refused with their place and what was found there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import parse_duration


def mapping(raw: Any, where: str) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"{where} must be an object, not {type(raw).__name__}.", target=where)
    return cast(Mapping[str, Any], raw)


def integer(raw: Any, default: int, where: str, low: int, high: int) -> int:
    if raw is None:
        return default
    if isinstance(raw, bool) or not isinstance(raw, int | str | float):
        raise InvalidRequest(f"{where} must be a whole number, not {raw!r}.", target=where)
    try:
        value = int(str(raw))
    except ValueError:
        raise InvalidRequest(f"{where} must be a whole number, not {raw!r}.", target=where) from None
    if not low <= value <= high:
        raise InvalidRequest(f"{where} is {value}: it must lie between {low} and {high}.", target=where)
    return value


def text(raw: Any) -> str:
    if raw is None:
        return ""
    if isinstance(raw, bool):
        return "True" if raw else "False"
    return str(raw)


def variables(raw: Any, where: str = "properties.environmentVariables") -> tuple[tuple[str, str], ...]:
    values = mapping(raw, where)
    for key, value in values.items():
        if not key or "=" in key or "\0" in key or "\0" in text(value):
            raise InvalidRequest(
                f"Environment variable {key!r} is not valid: no '=', no NUL, not empty.",
                target=where,
            )
    return tuple((key, text(value)) for key, value in values.items())


def duration(raw: Any, default: float, where: str, low: float, high: float) -> float:
    """An ISO 8601 duration in seconds, `default` where there is none."""
    if raw is None or raw == "":
        return default
    try:
        seconds = parse_duration(str(raw))
    except ValueError as error:
        raise InvalidRequest(
            f"{where} {raw!r} is not an ISO 8601 duration such as PT5S: {error}.", target=where
        ) from error
    if not low <= seconds <= high:
        raise InvalidRequest(
            f"{where} {raw!r} is {seconds:g} s: it must lie between {low:g} and {high:g} s.", target=where
        )
    return seconds


def choice(raw: Any, known: Mapping[str, str], default: str, where: str) -> str:
    """One of the values of `known`, by its key: the word in lower case, without underscores."""
    if raw is None or raw == "":
        return default
    found = known.get(str(raw).lower().replace("_", ""))
    if found is None:
        raise InvalidRequest(
            f"{where} {raw!r} is not known. Use {', '.join(dict.fromkeys(known.values()))}.", target=where
        )
    return found
