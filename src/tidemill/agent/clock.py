"""The agent's clocks: seconds since the host's boot for what is planned, microseconds for what is told."""

from __future__ import annotations

import time


def boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> int:
    return time.time_ns() // 1000


def micro(seconds: float) -> int:
    return int(seconds * 1_000_000)
