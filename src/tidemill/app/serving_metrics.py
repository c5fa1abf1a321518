"""What the gateway said last of each deployment: in memory, and no more than a moment old."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Traffic:
    """`rate`: answers a second; `held`: requests that wait for an instance to wake; `errors`: of `requests`,
    both since the gateway started; the times are those of the last seconds, in ms, None without requests;
    `last_at`: of the last request, microseconds since the epoch, 0 for none."""

    rate: float = 0.0
    in_flight: int = 0
    held: int = 0
    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    last_at: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_report(report: Mapping[str, Any]) -> dict[str, Traffic]:
    """By the deployment's uid. What is no such report is none: the gateway is a process of its own."""
    said, held = (_object(report.get(field)) for field in ("deployments", "held"))
    found = {uid: _traffic(_object(one)) for uid, one in said.items()}
    for uid, count in held.items():
        before = found.get(uid, Traffic())
        found[uid] = Traffic(**{**asdict(before), "held": int(_number(count) or 0)})
    return found


def _traffic(raw: Mapping[str, Any]) -> Traffic:
    return Traffic(
        rate=_number(raw.get("rate")) or 0.0,
        in_flight=int(_number(raw.get("in_flight")) or 0),
        requests=int(_number(raw.get("requests")) or 0),
        errors=int(_number(raw.get("errors")) or 0),
        p50_ms=_number(raw.get("p50_ms")),
        p95_ms=_number(raw.get("p95_ms")),
        p99_ms=_number(raw.get("p99_ms")),
        last_at=int(_number(raw.get("last_at")) or 0),
    )


def _object(raw: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], raw) if isinstance(raw, Mapping) else {}


def _number(raw: Any) -> float | None:
    return float(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) else None
