"""What jobs and nodes cost: the ledger's intervals at the dated list price of their size (domain.prices)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tidemill.app.jobs import families
from tidemill.app.rows.codec import job_kind
from tidemill.app.services import Services
from tidemill.domain.model import Interval, Resource
from tidemill.domain.plan import COMMAND
from tidemill.domain.prices import PricePeriod, cost, run_rate
from tidemill.store.api import Read

SHOWBACK = "showback until your hardware has a price sheet"
UNPRICED = "this size has no price sheet"


@dataclass(frozen=True, slots=True)
class JobCost:
    """`usd` is None where the size has no price (`host`); `seconds` are node seconds."""

    usd: float | None
    usd_hour: float | None
    size: str
    nodes: int
    seconds: float
    basis: str
    open: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "usd": self.usd,
            "usd_hour": self.usd_hour,
            "size": self.size,
            "nodes": self.nodes,
            "seconds": self.seconds,
            "basis": self.basis,
            "open": self.open,
        }


async def job_cost(s: Services, row: Resource) -> JobCost:
    return (await job_costs(s, [row]))[row.uid]


async def job_costs(s: Services, rows: Sequence[Resource]) -> dict[str, JobCost]:
    """Of each job: its allocations, one per attempt and node, and those of all that it started."""
    found = await s.store.read(lambda r: {row.uid: _allocations(r, row) for row in rows})
    now = s.clock.now()
    return {uid: _job_cost(s, intervals, now) for uid, intervals in found.items()}


def _allocations(read: Read, row: Resource) -> list[Interval]:
    own = list(read.intervals(job_uid=row.uid, kind="allocation"))
    if job_kind(row.status) == COMMAND:
        return own
    below = [
        one
        for child in families.descendants(read, row)
        for one in read.intervals(job_uid=child.uid, kind="allocation")
    ]
    return sorted([*own, *below], key=lambda interval: (interval.started_at, interval.id))


def _job_cost(s: Services, intervals: Sequence[Interval], now: int) -> JobCost:
    if not intervals:
        return JobCost(0.0, None, "", 0, 0.0, "nothing ran", False)
    total = cost(intervals, lambda i: _periods(s, i), now)
    size = intervals[-1].size
    price = s.sizes.price(size, intervals[-1].region)
    return JobCost(
        usd=float(total.usd) if price else None,
        usd_hour=price.usd_hour if price else None,
        size=size,
        nodes=len({i.node_id for i in intervals}),
        seconds=total.seconds,
        basis=f"{price.basis} of {price.as_of}; {SHOWBACK}" if price else UNPRICED,
        open=total.open,
    )


def _periods(s: Services, interval: Interval) -> list[PricePeriod]:
    price = s.sizes.price(interval.size, interval.region, interval.started_at)
    return [PricePeriod(0, Decimal(str(price.usd_hour)) if price else None, price.basis if price else "")]


def usd_hour(s: Services, size: str, region: str) -> float | None:
    price = s.sizes.price(size, region or s.settings.region)
    return None if price is None else price.usd_hour


async def compute_run_rate(s: Services, compute_uid: str) -> float:
    """USD per hour of the nodes that a compute holds now."""
    intervals = await s.store.read(
        lambda r: r.intervals(compute_uid=compute_uid, kind="node", open_only=True)
    )
    return float(run_rate(intervals, lambda i: _periods(s, i), s.clock.now()))


async def compute_usd(s: Services, compute_uid: str) -> float | None:
    """What the nodes of a compute have cost so far; None where one had a size without a price."""
    intervals = await s.store.read(lambda r: r.intervals(compute_uid=compute_uid, kind="node"))
    total = cost(intervals, lambda i: _periods(s, i), s.clock.now())
    return None if total.unpriced_seconds else float(total.usd)


async def node_usd(s: Services, node_id: str) -> float | None:
    """What a node has cost since the engine has it; None for a size without a price."""
    intervals = await s.store.read(lambda r: r.intervals(node_id=node_id, kind="node"))
    total = cost(intervals, lambda i: _periods(s, i), s.clock.now())
    return None if total.unpriced_seconds else float(total.usd)


def of_intervals(s: Services, intervals: Sequence[Interval]) -> tuple[float | None, float | None]:
    """(USD until now, USD per hour now) of rows of the ledger; None for a size without a price."""
    now = s.clock.now()
    total = cost(intervals, lambda i: _periods(s, i), now)
    if total.unpriced_seconds:
        return None, None
    return float(total.usd), float(run_rate(intervals, lambda i: _periods(s, i), now))


def listed(s: Services, size: str, region: str) -> dict[str, Any]:
    """A size's price fields in the catalogue."""
    price = s.sizes.price(size, region)
    if price is None:
        return {"price_usd_hour": None, "price_date": "", "price_basis": ""}
    return {"price_usd_hour": price.usd_hour, "price_date": price.as_of, "price_basis": price.basis}
