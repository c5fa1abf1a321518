"""What a deployment's requests took: counters, and times in buckets of which each is at most a quarter wider
than the one before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from time import perf_counter_ns

_BUCKETS = 4 * 40  # of microseconds, up to 2**39
WINDOW_S = 10.0
DOUBLINGS = range(9, 28)  # 2**9 us (half a millisecond) to 2**27 us (two minutes)


class Times:
    """Microseconds in buckets: four for each doubling."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS

    def add(self, us: int) -> None:
        size = us.bit_length()
        at = size * 4 + ((us >> (size - 3)) & 3) if size > 2 else us
        self.counts[at if at < _BUCKETS else _BUCKETS - 1] += 1


def upper_us(bucket: int) -> int:
    """The first microsecond beyond a bucket."""
    size, quarter = divmod(bucket, 4)
    return (5 + quarter) << (size - 3) if size > 2 else bucket + 1


def percentiles(parts: Sequence[Times], wanted: Sequence[float]) -> list[float | None]:
    """Milliseconds below which these shares (0 to 1) of the requests stayed; None without requests."""
    counts = [sum(column) for column in zip(*(part.counts for part in parts), strict=True)]
    total = sum(counts)
    return [_at(counts, share * total) / 1000 if total else None for share in wanted]


def _at(counts: Sequence[int], rank: float) -> int:
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            return upper_us(bucket)
    return 0


class Metrics:
    """Of one deployment. The percentiles are of the last WINDOW_S to twice that."""

    __slots__ = (
        "_before",
        "_now",
        "_rate",
        "_total",
        "_turned",
        "_was",
        "by_status",
        "in_flight",
        "last_ns",
        "us",
    )

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.us = 0  # of all requests together
        self.in_flight = 0
        self.last_ns = 0  # of the last request, by perf_counter
        self._total = Times()
        self._now, self._before = Times(), Times()
        self._turned = self._rate = 0.0
        self._was = (0.0, 0)

    @property
    def requests(self) -> int:
        return sum(self.by_status.values())

    @property
    def errors(self) -> int:
        """Answers of 500 and above, and models' errors (424)."""
        return sum(count for status, count in self.by_status.items() if status >= 500 or status == 424)

    def answered(self, us: int, status: int) -> None:
        if status in self.by_status:
            self.by_status[status] += 1
        else:
            self.by_status[status] = 1
        self.us += us
        self._now.add(us)

    def below(self) -> list[tuple[int, int]]:
        """(microseconds, requests that took less) for each doubling, since the start."""
        counts = [now + before for now, before in zip(self._now.counts, self._total.counts, strict=True)]
        return [(1 << size, sum(counts[: 4 * (size + 1)])) for size in DOUBLINGS]

    def turn(self, now: float) -> None:
        """Called now and then, with seconds of a clock that only goes forward."""
        if now - self._turned >= WINDOW_S:
            for at, count in enumerate(self._now.counts):
                self._total.counts[at] += count
            self._before, self._now = self._now, Times()
            if now - self._turned >= 2 * WINDOW_S:
                self._before = Times()
            self._turned = now

    def report(self, now: float) -> dict[str, float | int | None]:
        """Since the one before: the rate is of requests that ended, a second."""
        self.turn(now)
        then, count = self._was
        requests = self.requests
        if now - then >= 1.0:
            self._rate = (requests - count) / (now - then)
            self._was = (now, requests)
        p50, p95, p99 = percentiles((self._before, self._now), (0.5, 0.95, 0.99))
        last = (
            (time.time_ns() - (perf_counter_ns() - self.last_ns)) // 1_000_000 * 1000 if self.last_ns else 0
        )
        return {
            "rate": round(self._rate, 3),
            "in_flight": self.in_flight,
            "last_at": last,
            "requests": requests,
            "errors": self.errors,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
        }
