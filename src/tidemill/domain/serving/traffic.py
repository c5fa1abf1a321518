"""How an endpoint's requests are shared out: percentages that sum to 100, and copies that nobody waits for.

Azure's rules: shares are whole percentages, of all requests or of none; at most one deployment gets copies,
of at most half of them, and it has no share of its own.
https://learn.microsoft.com/azure/machine-learning/how-to-safely-rollout-online-endpoints
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.fields import integer, mapping
from tidemill.domain.units import join_words

MOST_MIRRORED = 50

Shares = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """By deployment, under the names of their rows; no zeroes."""

    shares: Shares = ()
    mirror: Shares = ()


def read_percentages(raw: Any, where: str) -> Shares:
    """Whole percentages from 0 to 100, without those that are 0. Raises InvalidRequest."""
    given = mapping(raw, where)
    read = ((name, integer(value, 0, f"{where}.{name}", 0, 100)) for name, value in given.items())
    return tuple((name, percent) for name, percent in read if percent)


def check_traffic(shares: Shares, mirror: Shares, deployments: Collection[str]) -> Traffic:
    """With the names as the deployments have them: ARM's names are the same in any case. Raises
    InvalidRequest for what Azure refuses."""
    traffic = Traffic(
        _named(shares, deployments, "properties.traffic"),
        _named(mirror, deployments, "properties.mirrorTraffic"),
    )
    total = sum(percent for _, percent in traffic.shares)
    if total not in (0, 100):
        said = join_words(f"{name} {percent}" for name, percent in traffic.shares)
        raise InvalidRequest(
            f"Traffic sums to {total} ({said}): it must sum to 100, or be 0 for every deployment.",
            "InvalidTraffic",
            "properties.traffic",
        )
    _check_mirror(traffic)
    return traffic


def without(traffic: Mapping[str, int], name: str) -> dict[str, int]:
    return {held: percent for held, percent in traffic.items() if held.casefold() != name.casefold()}


def _check_mirror(traffic: Traffic) -> None:
    where = "properties.mirrorTraffic"
    if len(traffic.mirror) > 1:
        names = join_words(name for name, _ in traffic.mirror)
        raise InvalidRequest(
            f"Traffic is mirrored to {names}: only one deployment can have copies at a time.",
            "InvalidTraffic",
            where,
        )
    for name, percent in traffic.mirror:
        if percent > MOST_MIRRORED:
            raise InvalidRequest(
                f"{percent} % of traffic is mirrored to {name!r}: at most {MOST_MIRRORED} % can be.",
                "InvalidTraffic",
                where,
            )
        if name in dict(traffic.shares):
            raise InvalidRequest(
                f"Deployment {name!r} has {dict(traffic.shares)[name]} % of traffic and {percent} % mirrored "
                "to it: a deployment has one or the other.",
                "InvalidTraffic",
                where,
            )


def _named(shares: Shares, deployments: Collection[str], where: str) -> Shares:
    known = {name.casefold(): name for name in deployments}
    found: dict[str, int] = {}
    for name, percent in shares:
        actual = known.get(name.casefold())
        if actual is None:
            there = f"There are: {join_words(sorted(known.values()), most=10)}." if known else "It has none."
            raise InvalidRequest(
                f"Traffic names the deployment {name!r}, which the endpoint does not have. {there}",
                "DeploymentNotFound",
                where,
            )
        found[actual] = found.get(actual, 0) + percent
    return tuple(found.items())
