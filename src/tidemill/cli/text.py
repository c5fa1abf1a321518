"""How values read to a person: times, durations, money, sizes. Pure; `now` is seconds since the epoch."""

from __future__ import annotations

from datetime import datetime
from typing import Any

NOTHING = "-"


def seconds_of(iso: str | None) -> float | None:
    """ISO 8601 -> seconds since the epoch; None for None or what is no time."""
    if not iso:
        return None
    try:
        return datetime.fromisoformat(iso.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def ago(iso: str | None, now: float) -> str:
    """ "8 s ago", "3 min ago", "5 h ago", "2 days ago", then the date."""
    at = seconds_of(iso)
    if at is None:
        return NOTHING
    passed = now - at
    if passed < 1:
        return "now"
    if passed < 60:
        return f"{passed:.0f} s ago"
    if passed < 3600:
        return f"{passed / 60:.0f} min ago"
    if passed < 48 * 3600:
        return f"{passed / 3600:.0f} h ago"
    if passed < 14 * 86400:
        return f"{passed / 86400:.0f} days ago"
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d")


def duration(seconds: float | None) -> str:
    """ "0.05 s", "12.3 s", "2 min 05 s", "1 h 02 min", "3 d 04 h"."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def money(usd: float | None) -> str:
    """Two decimals from one dollar, else three significant digits down to a millionth of a dollar, the least
    that is counted: a job of a second still has a price."""
    if usd is None:
        return NOTHING
    if usd == 0:
        return "$0"
    if abs(usd) >= 1:
        return f"${usd:,.2f}"
    digits = 2
    while digits < 6 and round(abs(usd) * 10**digits) < 100:
        digits += 1
    return f"${usd:.{digits}f}"


def size(count: float | None) -> str:
    """Bytes, with binary units."""
    if count is None:
        return NOTHING
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    value, unit = float(count), 0
    while value >= 1024 and unit < len(units) - 1:
        value, unit = value / 1024, unit + 1
    return f"{int(value)} B" if unit == 0 else f"{value:.1f} {units[unit]}"


def gib(count: float) -> str:
    """Memory as people name it: "14 GiB", "3.5 GiB"."""
    return f"{round(count, 1):g} GiB"


def number(value: Any) -> str:
    """A metric: six significant digits, no trailing zeros."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(value)


def uri(value: Any, now: float = 0.0) -> str:
    """A data URI without the workspace in it: azureml://datastores/STORE/paths/PATH."""
    shown = plain(value)
    if shown.lower().startswith("azureml://subscriptions/") and "/datastores/" in shown:
        return "azureml://datastores/" + shown.split("/datastores/", 1)[1]
    return shown


def plain(value: Any) -> str:
    """A table cell from any JSON value."""
    if value is None or value == "" or value == [] or value == {}:
        return NOTHING
    if value is True:
        return "yes"
    if value is False:
        return "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return str(value)
