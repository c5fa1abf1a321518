"""How many instances a deployment is to have: pure arithmetic over what the gateway and the nodes measure.

More at once when there is more to do; fewer only when no moment of the last `calm_us` asked for as many, so
that a burst or a gap changes nothing twice. With a minimum of 0 it sleeps once nothing was asked of it for
`idle_us`, and a request that is held wakes it at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidemill.domain.units import human_duration, plural

SECOND = 1_000_000
TOLERANCE = 0.1  # nearer to the target than this is at the target


@dataclass(frozen=True, slots=True)
class Policy:
    """`target_percent`: of an instance's CPU, and of the requests that it may have at once
    (`max_concurrent`); `target_requests` at once per instance, in place of the latter."""

    minimum: int
    maximum: int
    target_percent: int = 70
    max_concurrent: int = 1
    target_requests: float | None = None
    idle_us: int = 300 * SECOND
    calm_us: int = 60 * SECOND

    @property
    def per_instance(self) -> float:
        """Requests at once."""
        if self.target_requests is not None:
            return self.target_requests
        return max(1.0, self.max_concurrent * self.target_percent / 100)


@dataclass(frozen=True, slots=True)
class Sample:
    """At one moment. `load`: requests under way, waiting and held. `cpu`: instances' CPU that is in use, in
    instances (1.4: of two, 70 % each); None: not known. `last_at`: of the last request, 0: none yet."""

    at: int
    load: float
    cpu: float | None = None
    held: int = 0
    last_at: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What was asked for lately: (when, instances), the newest last; `since`: when it began to be kept."""

    since: int = 0
    asked: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Scaled:
    """`wanted` instances from now on; `why` "" where nothing changes. `again_at`: when that may change with
    nothing else changing."""

    wanted: int
    memory: Memory
    why: str = ""
    again_at: int | None = None


def scale(policy: Policy, wanted: int, sample: Sample, memory: Memory) -> Scaled:
    """`wanted`: as it is. Deterministic in its arguments."""
    memory = memory if memory.since else Memory(sample.at)
    asks, why = _asks(policy, wanted, sample)
    lowest = max(policy.minimum, 1)
    asks = min(max(asks, lowest), policy.maximum)
    oldest = sample.at - policy.calm_us
    kept = tuple((at, count) for at, count in memory.asked if at > oldest)
    # Of those before a larger one only the larger matters: what is kept stays short.
    while kept and kept[-1][1] <= asks:
        kept = kept[:-1]
    memory = Memory(memory.since, (*kept, (sample.at, asks)))
    bounded = min(max(wanted, policy.minimum), policy.maximum)
    if bounded != wanted:
        return Scaled(bounded, memory, f"its bounds are {policy.minimum} to {policy.maximum} now")
    if wanted == 0:
        if sample.held or sample.load >= 1:
            return Scaled(asks, memory, f"{plural(max(sample.held, 1), 'request')} came while it slept")
        return Scaled(0, memory)
    if asks > wanted:
        return Scaled(asks, memory, why)
    if policy.minimum == 0 and sample.load < 1 and not sample.held:
        sleeps_at = max(sample.last_at, memory.since) + policy.idle_us
        if sleeps_at <= sample.at:
            return Scaled(0, Memory(), f"nothing was asked of it for {human_duration(policy.idle_us)}")
    else:
        sleeps_at = None
    calm_at = max(memory.since, 0) + policy.calm_us
    peak = max(count for _, count in memory.asked)
    if peak < wanted and calm_at <= sample.at:
        text = f"{plural(peak, 'instance')} would have done for {human_duration(policy.calm_us)}"
        return Scaled(peak, memory, text)
    later = [at for at in (sleeps_at, calm_at if peak < wanted else None) if at is not None]
    if wanted > lowest:
        later.append(memory.asked[0][0] + policy.calm_us)
    return Scaled(wanted, memory, again_at=min(later, default=None))


def _asks(policy: Policy, wanted: int, sample: Sample) -> tuple[int, str]:
    """Instances that this moment asks for, and what for."""
    by_load = _count(sample.load / policy.per_instance, wanted)
    by_cpu = 0 if sample.cpu is None else _count(sample.cpu * 100 / policy.target_percent, wanted)
    if by_cpu > by_load:
        assert sample.cpu is not None
        return by_cpu, f"{sample.cpu:.1f} instances' CPU is in use, the target is {policy.target_percent} %"
    text = f"{sample.load:.0f} requests at once, the target is {policy.per_instance:g} per instance"
    return by_load, text


def _count(exact: float, wanted: int) -> int:
    """Whole instances; as many as there are where that is near enough."""
    if wanted and abs(exact - wanted) <= TOLERANCE * wanted:
        return wanted
    return math.ceil(exact)
