"""Durations, sizes and money: ISO 8601 as Azure writes it, and the words used in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

SECOND = 1_000_000  # microseconds

_DURATION = re.compile(
    r"^P(?=[0-9T])(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?$",
    re.IGNORECASE | re.ASCII,
)
_SPAN = re.compile(
    r"(?:(?P<days>\d{1,9})d)?(?:(?P<hours>\d{1,9})h)?(?:(?P<minutes>\d{1,9})m)?(?:(?P<seconds>\d{1,9})s)?",
    re.ASCII,
)
_LONGEST_S = 100 * 366 * 86_400
_SECONDS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def parse_whole(text: str) -> int | None:
    """The number that a text of 1 to 18 ASCII digits is; None for anything else. `int` takes other scripts'
    digits, and fails on very many."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def parse_duration(text: str) -> float:
    """`PT2M` -> 120.0 seconds. Weeks to (fractions of) seconds; years and months have no fixed length.
    Raises ValueError with a sentence that names the text."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not an ISO 8601 duration of days, hours, minutes and seconds: "
            "write PT90S, PT2M, PT1H30M or P1D"
        )
    seconds = sum(float(value) * _SECONDS[unit] for unit, value in match.groupdict().items() if value)
    if seconds > _LONGEST_S:
        raise ValueError(f"{text[:40]!r} is longer than a hundred years")
    return seconds


def parse_span(text: str) -> float:
    """`30m`, `1h30m`, `45s`, `2d`, or as ISO 8601 has it -> seconds. Raises ValueError."""
    short = _SPAN.fullmatch(text.strip().lower())
    if short is None or not text.strip():
        return parse_duration(text)
    return float(sum(int(value) * _SECONDS[unit] for unit, value in short.groupdict().items() if value))


def human_duration(micros: int) -> str:
    """Microseconds in at most two units: `800 ms`, `1.5 s`, `2 min`, `1 h 30 min`, `3 d 4 h`."""
    if micros < 0:
        return f"-{human_duration(-micros)}"
    if micros < 1_000:
        return f"{micros} us" if micros else "0 s"
    if micros < SECOND:
        return f"{micros // 1_000} ms"
    if micros < 60 * SECOND:
        return f"{int(micros / 100_000) / 10:g} s"
    seconds = micros // SECOND
    for big, big_name, small, small_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= big:
            head, rest = divmod(seconds, big)
            tail = rest // small
            return f"{head} {big_name}" + (f" {tail} {small_name}" if tail else "")
    raise AssertionError("unreachable: seconds >= 60")


def human_bytes(count: int) -> str:
    """Binary units with four significant digits: `512 B`, `1.5 KiB`, `14 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            return f"{value:.4g} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    return f"{value:.4g} PiB"


def human_cpus(milli: int) -> str:
    """Thousandths of a core: 2000 -> `2 vCPU`, 1500 -> `1.5 vCPU`."""
    return f"{milli / 1000:.4g} vCPU"


def human_usd(micro_usd: int) -> str:
    """Millionths of a dollar: `$1.23`; below a cent up to six digits, so that a short run is not free."""
    if micro_usd < 0:
        return f"-{human_usd(-micro_usd)}"
    if micro_usd >= 10_000 or micro_usd == 0:
        cents = (micro_usd + 5_000) // 10_000
        return f"${cents // 100:,}.{cents % 100:02d}"
    return "$0." + f"{micro_usd:06d}".rstrip("0")


def plural(count: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def join_words(words: Iterable[str], last: str = "and", most: int = 6) -> str:
    """`a, b and c`; beyond `most` the rest is counted."""
    items = list(words)
    if len(items) > most:
        items = [*items[:most], f"{len(items) - most} more"]
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"
