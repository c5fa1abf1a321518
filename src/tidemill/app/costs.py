"""What jobs and nodes cost: the ledger's intervals at the list price of their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.app.services import Services
from tidemill.domain.model import Interval, Resource

SHOWBACK = "list price of the size; showback: your own hardware has no price sheet"


@dataclass(frozen=True, slots=True)
class JobCost:
    """`usd` is None where the size has no price (`host`)."""

    usd: float | None
    usd_hour: float | None
    size: str
    nodes: int
    seconds: float
    basis: str
    open: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "usd": self.usd, "usd_hour": self.usd_hour, "size": self.size, "nodes": self.nodes,
            "seconds": self.seconds, "basis": self.basis, "open": self.open,
        }


async def job_cost(s: Services, row: Resource) -> JobCost:
    return (await job_costs(s, [row]))[row.uid]


async def job_costs(s: Services, rows: Sequence[Resource]) -> dict[str, JobCost]:
    """Of each job: its allocations, one per attempt and node."""
    found = await s.store.read(
        lambda r: {row.uid: r.intervals(job_uid=row.uid, kind="allocation") for row in rows}
    )
    now = s.clock.now()
    return {uid: _cost(s, intervals, now) for uid, intervals in found.items()}


def _cost(s: Services, intervals: Sequence[Interval], now: int) -> JobCost:
    seconds = sum(((i.ended_at or now) - i.started_at) for i in intervals) / 1e6
    size = intervals[0].size if intervals else ""
    price = s.sizes.price(size, intervals[0].region) if intervals else None
    usd = None if price is None else seconds / 3600 * price.usd_hour
    return JobCost(
        usd if intervals else 0.0, price.usd_hour if price else None, size, len({i.node_id for i in intervals}),
        seconds, f"{price.basis}, {price.as_of}; {SHOWBACK}" if price else "no price sheet for this host",
        any(i.ended_at is None for i in intervals),
    )


def usd_hour(s: Services, size: str) -> float | None:
    price = s.sizes.price(size, s.settings.region)
    return None if price is None else price.usd_hour


async def node_usd(s: Services, node_id: str) -> float | None:
    intervals = await s.store.read(lambda r: r.intervals(node_id=node_id, kind="node"))
    return _cost(s, intervals, s.clock.now()).usd


def listed(s: Services, size: str, region: str) -> dict[str, Any]:
    price = s.sizes.price(size, region)
    if price is None:
        return {"price_usd_hour": None, "price_date": "", "price_basis": ""}
    return {"price_usd_hour": price.usd_hour, "price_date": price.as_of, "price_basis": price.basis}
