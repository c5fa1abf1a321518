"""How what was asked for ends, of a deployment as of a container group, and the pauses after failures."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.domain.plan import JobError

SECOND = 1_000_000
FIRST_PAUSE_US, MOST_PAUSE_US = 1 * SECOND, 300 * SECOND


@dataclass(frozen=True, slots=True)
class Finish:
    """What was asked for is there: Succeeded."""

    message: str


@dataclass(frozen=True, slots=True)
class Fail:
    error: JobError


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of what is deleted runs any more: its row can go."""


def pause_us(failed: int) -> int:
    """Between the last of so many failures in a row (one at least) and the next start: doubled each time."""
    return min(MOST_PAUSE_US, FIRST_PAUSE_US * 2 ** min(failed - 1, 20))
