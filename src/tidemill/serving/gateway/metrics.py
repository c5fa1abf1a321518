"""What a deployment's requests took: counters, and times in buckets of which each is at most a quarter wider
than the one before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from time import perf_counter_ns

_BUCKETS = 4 * 40  # of microseconds, up to 2**39
WINDOW_S = 10.0


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
    """Of one deployment. `errors`: answers of 500 and above, and models' errors (424). The percentiles are of
    the last WINDOW_S to twice that."""

    __slots__ = (
        "_before",
        "_now",
        "_rate",
        "_turned",
        "_was",
        "errors",
        "in_flight",
        "last_ns",
        "requests",
        "total",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.in_flight = 0
        self.last_ns = 0  # of the last request, by perf_counter
        self.total = Times()
        self._now, self._before = Times(), Times()
        self._turned = self._rate = 0.0
        self._was = (0.0, 0)

    def answered(self, us: int, status: int) -> None:
        self.requests += 1
        if status >= 424 and (status >= 500 or status == 424):
            self.errors += 1
        self._now.add(us)

    def turn(self, now: float) -> None:
        """Called now and then, with seconds of a clock that only goes forward."""
        if now - self._turned >= WINDOW_S:
            for at, count in enumerate(self._now.counts):
                self.total.counts[at] += count
            self._before, self._now = self._now, Times()
            if now - self._turned >= 2 * WINDOW_S:
                self._before = Times()
            self._turned = now

    def report(self, now: float) -> dict[str, float | int | None]:
        """Since the one before: the rate is of requests that ended, a second."""
        self.turn(now)
        then, count = self._was
        if now - then >= 1.0:
            self._rate = (self.requests - count) / (now - then)
            self._was = (now, self.requests)
        p50, p95, p99 = percentiles((self._before, self._now), (0.5, 0.95, 0.99))
        return {
            "rate": round(self._rate, 3),
            "in_flight": self.in_flight,
            "last_at": (time.time_ns() - (perf_counter_ns() - self.last_ns)) // 1_000_000 * 1000
            if self.last_ns
            else 0,
            "requests": self.requests,
            "errors": self.errors,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
        }
