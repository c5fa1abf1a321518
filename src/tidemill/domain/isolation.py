"""How far a node keeps a job apart from everything else: levels, each a list of limits that must hold.

A node reports every limit as enforced or not, with the reason. Its level is what that report adds up to; a
level that is required and not reached is refused with the limits that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.domain.errors import InvalidRequest

TAG = "tidemill.isolation"  # of a job or a compute: Azure's schemas have no field for it
LEVELS = ("plain", "rootless", "full")  # weakest first
CHOICES = ("auto", "full", "rootless", "plain")
_ROOTLESS = ("files", "namespaces", "syscalls")
REQUIRED: dict[str, tuple[str, ...]] = {
    "plain": (),
    "rootless": _ROOTLESS,
    "full": (*_ROOTLESS, "uid", "cpu", "memory", "pids", "disk", "network"),
}
_IF_REPORTED = ("gpu",)  # by hosts that have some


@dataclass(frozen=True, slots=True)
class Limit:
    """One line of a node's report."""

    enforced: bool
    by: str = ""
    why_not: str = ""


def required(level: str, limits: Mapping[str, Limit]) -> tuple[str, ...]:
    """The limits that a level needs on a host with this report."""
    extra = tuple(name for name in _IF_REPORTED if name in limits) if level != "plain" else ()
    return REQUIRED[level] + extra


def lacking(level: str, limits: Mapping[str, Limit]) -> tuple[str, ...]:
    """Those of them that are not enforced."""
    return tuple(name for name in required(level, limits) if name not in limits or not limits[name].enforced)


def reached(limits: Mapping[str, Limit]) -> str:
    """The highest level whose limits are all enforced."""
    return next(level for level in reversed(LEVELS) if not lacking(level, limits))


def shortfall(level: str, limits: Mapping[str, Limit]) -> str:
    """Why a report does not reach a level, as a sentence; "" where it does."""
    missing = lacking(level, limits)
    if not missing:
        return ""
    reasons: dict[str, list[str]] = {}  # several limits often lack for one reason
    for name in missing:
        why = limits[name].why_not if name in limits else "not reported by this node"
        reasons.setdefault(why, []).append(name)
    told = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"isolation {level} is required, this host gives {reached(limits)}. Not enforced: {told}."


def strictest(*levels: str) -> str:
    """Of these; "" is no requirement."""
    return max((level for level in levels if level), key=LEVELS.index, default="")


def level_of(tags: Mapping[str, object], where: str) -> str:
    """The level that a job's or a compute's tags ask for, or "". Raises InvalidRequest for another word."""
    value = tags.get(TAG)
    if value in (None, ""):
        return ""
    if value not in LEVELS:
        raise InvalidRequest(
            f"Tag {TAG} is {value!r}: use one of {', '.join(LEVELS)}.", "InvalidTag", f"{where}.{TAG}"
        )
    return str(value)
