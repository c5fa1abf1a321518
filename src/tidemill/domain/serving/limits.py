"""Limits of an online endpoint that Azure has no words for: its properties under Tidemill's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.serving.routes import MOST_BODY

RATE = "tidemill.requestsPerSecond"
BODY = "tidemill.maxBodyBytes"


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """`rate`: requests a second, 0 for as many as come; `body_bytes`: the most that a request's body has."""

    rate: float = 0.0
    body_bytes: int = MOST_BODY


def read_limits(properties: Mapping[str, Any]) -> EndpointLimits:
    """Raises InvalidRequest naming the property."""
    rate = _number(properties, RATE, 0.0, 1e6)
    body = _number(properties, BODY, float(MOST_BODY), float(MOST_BODY))
    return EndpointLimits(rate, int(body))


def _number(properties: Mapping[str, Any], name: str, usual: float, most: float) -> float:
    given = properties.get(name)
    if given is None:
        return usual
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value <= most:
        raise InvalidRequest(
            f"properties.{name} {given!r} is no number above 0 and up to {most:g}. Leave it out for "
            f"{usual:g}{' (no limit)' if not usual else ''}.",
            target=f"properties.properties.{name}",
        )
    return value
