"""Whether and when a service starts again after its process has ended. Pure: the caller has the clock."""

from __future__ import annotations

from tidemill.agent.probe import Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICIES = ("always", "on-failure", "never")


class Restarts:
    """`policy` "always" | "on-failure" | "never". The first start anew is at once; after ends in a row it
    waits `first_s`, doubled each time up to `cap_s`. A run of `steady_s` or more ends the row."""

    __slots__ = ("cap_s", "count", "first_s", "in_a_row", "policy", "steady_s")

    def __init__(self, policy: str, first_s: float, cap_s: float, steady_s: float) -> None:
        if policy not in POLICIES:
            raise ValueError(f"restart policy {policy!r}: use one of {', '.join(POLICIES)}")
        self.policy = policy
        self.first_s = first_s
        self.cap_s = cap_s
        self.steady_s = steady_s
        self.count = 0  # starts anew so far
        self.in_a_row = 0

    def after(self, failed: bool, ran_s: float) -> float | None:
        """Seconds until it starts again; None: it does not."""
        if self.policy == "never" or (self.policy == "on-failure" and not failed):
            return None
        self.in_a_row = 1 if ran_s >= self.steady_s else self.in_a_row + 1
        self.count += 1
        if self.in_a_row == 1:
            return 0.0
        # The exponent has a bound: a service that fails for years must not make a number without end.
        return min(self.cap_s, self.first_s * 2.0 ** min(self.in_a_row - 2, 32))


def of_service(service: dict[str, Any] | None) -> Restarts | None:
    """Of the verb `start`'s `service`; None: it is no service. All of it is checked, its probes too. Raises
    KeyError, TypeError, ValueError."""
    if service is None:
        return None
    for name, fields in service["probes"].items():
        if name not in ("ready", "live"):
            raise ValueError(f"probe {name!r}: use ready or live")
        Probe(fields, 0.0)
    given = service["restart"]
    return Restarts(
        str(given["policy"]), float(given["first_s"]), float(given["cap_s"]), float(given["steady_s"])
    )
