"""What ledger intervals cost: Σ interval × dated price, exact to the microsecond.

Money is counted in whole micro-USD, rounded once per line; inside a line everything is an exact fraction,
so no order of adding changes a sum. An interval that is still open costs until `now`, and the sum says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from tidemill.domain.model import Interval

HOUR = 3_600_000_000  # microseconds
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class PricePeriod:
    """USD per node and hour from `since` on; None: this size has no price. `basis`: where it is from."""

    since: int
    usd_hour: Decimal | None
    basis: str = ""


PriceOf = Callable[[Interval], Sequence[PricePeriod]]


@dataclass(frozen=True, slots=True)
class Line:
    """One stretch of one interval at one price."""

    interval_id: str
    node_id: str
    size: str
    started_at: int
    ended_at: int
    usd_hour: Decimal | None
    micro_usd: int
    open: bool
    basis: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """`micro_usd`: sum of the lines; `seconds`: node seconds; `open`: something still runs, it grows;
    `unpriced_seconds`: node seconds of sizes without a price, counted as 0."""

    micro_usd: int
    seconds: float
    open: bool
    lines: tuple[Line, ...]
    unpriced_seconds: float = 0.0

    @property
    def usd(self) -> Decimal:
        return Decimal(self.micro_usd) / MICRO


def cost(intervals: Iterable[Interval], price_of: PriceOf, now: int) -> Cost:
    """What the intervals cost until `now`. `price_of` gives an interval's price periods in any order; the
    time before the first one is at the first one's price."""
    lines = [line for interval in intervals for line in _lines(interval, price_of(interval), now)]
    micros = sum(line.ended_at - line.started_at for line in lines)
    unpriced = sum(line.ended_at - line.started_at for line in lines if line.usd_hour is None)
    return Cost(
        sum(line.micro_usd for line in lines),
        micros / MICRO,
        any(line.open for line in lines),
        tuple(lines),
        unpriced / MICRO,
    )


def _lines(interval: Interval, periods: Sequence[PricePeriod], now: int) -> Iterable[Line]:
    start = interval.started_at
    end = max(start, now if interval.ended_at is None else interval.ended_at)
    known = sorted(periods, key=lambda period: period.since) or [PricePeriod(start, None)]
    for index, period in enumerate(known):
        since = start if index == 0 else max(start, period.since)
        until = end if index + 1 == len(known) else min(end, known[index + 1].since)
        last = index + 1 == len(known) or known[index + 1].since >= end
        if until > since or (last and start == end and since == until):
            yield Line(
                interval.id,
                interval.node_id,
                interval.size,
                since,
                until,
                period.usd_hour,
                amount(until - since, period.usd_hour),
                interval.ended_at is None and last,
                period.basis,
            )
        if last:
            return


def amount(micros: int, usd_hour: Decimal | None) -> int:
    """Micro-USD for this many microseconds, rounded half to even."""
    return 0 if usd_hour is None else round(Fraction(usd_hour) * micros * MICRO / HOUR)


def run_rate(intervals: Iterable[Interval], price_of: PriceOf, now: int) -> Decimal:
    """USD per hour of what is open now."""
    total = Decimal(0)
    for interval in intervals:
        if interval.ended_at is not None or interval.started_at > now:
            continue
        periods = sorted(price_of(interval), key=lambda period: period.since)
        begun = [period for period in periods if period.since <= now] or periods[:1]
        if begun:
            total += begun[-1].usd_hour or Decimal(0)
    return total


@dataclass(frozen=True, slots=True)
class LedgerFault:
    """`kind`: "gap", "overlap", "backwards", "open" (an open interval with another after it), "heartbeat"."""

    kind: str
    node_id: str
    first: str
    second: str
    micros: int
    sentence: str


def check_intervals(intervals: Iterable[Interval], *, gaps: bool = True) -> list[LedgerFault]:
    """What is wrong with the ledger: intervals of one node and one kind must not overlap, and with `gaps` one
    must begin where the other ends (a node is held without a break). Empty: nothing."""
    faults: list[LedgerFault] = []
    chains: dict[tuple[str, str], list[Interval]] = {}
    for interval in intervals:
        chains.setdefault((interval.kind, interval.node_id), []).append(interval)
        faults += _alone(interval)
    for chain in chains.values():
        chain.sort(key=lambda each: (each.started_at, each.id))
        latest: Interval | None = None
        for interval in chain:
            if latest is not None:
                faults += _pair(latest, interval, gaps and interval.kind == "node")
            if latest is None or _end(interval) >= _end(latest):
                latest = interval
    return faults


def _end(interval: Interval) -> int:
    return 1 << 62 if interval.ended_at is None else interval.ended_at


def _alone(interval: Interval) -> Iterable[LedgerFault]:
    started, ended = interval.started_at, interval.ended_at
    if ended is not None and ended < started:
        sentence = f"Interval {interval.id} ends {started - ended} us before it starts."
        yield LedgerFault("backwards", interval.node_id, interval.id, "", started - ended, sentence)
    if ended is None and interval.last_seen_at < started:
        sentence = (
            f"Interval {interval.id} was last seen {started - interval.last_seen_at} us before it starts."
        )
        yield LedgerFault(
            "heartbeat", interval.node_id, interval.id, "", started - interval.last_seen_at, sentence
        )


def _pair(first: Interval, second: Interval, gaps: bool) -> Iterable[LedgerFault]:
    if first.ended_at is None:
        sentence = f"Interval {first.id} is open although {second.id} follows on node {first.node_id}."
        yield LedgerFault("open", first.node_id, first.id, second.id, 0, sentence)
        return
    distance = second.started_at - first.ended_at
    if distance < 0:
        sentence = f"Intervals {first.id} and {second.id} of node {first.node_id} overlap by {-distance} us."
        yield LedgerFault("overlap", first.node_id, first.id, second.id, -distance, sentence)
    elif distance > 0 and gaps:
        sentence = (
            f"Between {first.id} and {second.id} node {first.node_id} is unaccounted for {distance} us."
        )
        yield LedgerFault("gap", first.node_id, first.id, second.id, distance, sentence)
