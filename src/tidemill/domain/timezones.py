"""Time zones as clients name them: IANA's names, and the Windows names that the Azure ML SDK sends
("W. Europe Standard Time"), by CLDR's table of which stands for which; and wall clock times in them."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

# Names that the SDK still knows and CLDR dropped.
_DROPPED = {"mid-atlantic standard time": "Etc/GMT+2", "kamchatka standard time": "Asia/Kamchatka"}


def find_zone(name: str) -> ZoneInfo:
    """Without regard to case. Raises ValueError with a sentence that names the nearest zone."""
    text = name.strip()
    folded = text.casefold()
    if folded == "utc":
        return ZoneInfo("UTC")
    windows = _windows().get(folded)
    try:
        return ZoneInfo(windows or text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = _iana().get(folded)
    if known is None:
        near = difflib.get_close_matches(folded, [*_iana(), *_windows()], 1, 0.6)
        shown = [_iana().get(word) or _spelled()[word] for word in near]
        hint = (
            f"Did you mean {shown[0]!r}?" if shown else "Use UTC, Europe/Berlin or W. Europe Standard Time."
        )
        raise ValueError(f"{name[:80]!r} is no time zone. {hint}")
    return ZoneInfo(known)


@lru_cache(maxsize=1)
def _windows() -> dict[str, str]:
    """Windows name, folded -> IANA name."""
    from tzlocal.windows_tz import win_tz  # not with the module: it takes 20 ms

    return {**_DROPPED, **{name.casefold(): zone for name, zone in win_tz.items()}}


@lru_cache(maxsize=1)
def _spelled() -> dict[str, str]:
    from tzlocal.windows_tz import win_tz

    return {**{name: name.title() for name in _DROPPED}, **{name.casefold(): name for name in win_tz}}


@lru_cache(maxsize=1)
def _iana() -> dict[str, str]:
    return {name.casefold(): name for name in available_timezones()}


def micros(moment: datetime) -> int:
    """An aware time -> microseconds since the epoch."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def wall_clock(at: int, zone: ZoneInfo) -> datetime:
    """Microseconds since the epoch -> what clocks in `zone` show, without a zone."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).astimezone(zone).replace(tzinfo=None)
    )


def instant(wall: datetime, zone: ZoneInfo) -> int:
    """When clocks in `zone` show `wall`. A time that they show twice is its first; one that they skip is the
    first minute after the gap."""
    while True:
        aware = wall.replace(tzinfo=zone, fold=0)
        if aware.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == wall:
            return micros(aware)
        wall = wall.replace(second=0, microsecond=0) + timedelta(minutes=1)
