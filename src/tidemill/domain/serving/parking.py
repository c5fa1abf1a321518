"""How much may stand still at once: which parked instances go, the oldest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.domain.units import human_bytes, plural

MOST = 32  # instances of a host: each has a node's processes, too
SCARCE = 512 << 20  # bytes; a host that has fewer for others parks less
SHARE = 8  # of a host's memory an eighth may be parked, where nobody has said how much


@dataclass(frozen=True, slots=True)
class Parked:
    """`memory`: bytes that it holds; None: not counted, and then not to be bounded."""

    node_id: str
    since: int
    memory: int | None


def bound(mib: int, host_bytes: int) -> int:
    """Bytes that may be parked together. `mib`: as configured, negative where it is not."""
    return host_bytes // SHARE if mib < 0 else mib << 20


def excess(held: Sequence[Parked], most_bytes: int, free: int | None) -> list[tuple[str, str]]:
    """-> (node, why) of those that are to end. `free`: bytes that the host has left, None: not known."""
    out: list[tuple[str, str]] = []
    left: list[Parked] = []
    for one in sorted(held, key=lambda one: (-one.since, one.node_id)):
        if one.memory is None:
            out.append((one.node_id, "its memory is not counted on this host, so it cannot be bounded"))
        else:
            left.append(one)
    total = sum(one.memory or 0 for one in left)
    while left and (len(left) > MOST or total > most_bytes):
        oldest = left.pop()
        total -= oldest.memory or 0
        limit = plural(MOST, "instance") if len(left) >= MOST else human_bytes(most_bytes)
        out.append((oldest.node_id, f"{limit} may be parked at once, and it was parked first"))
    if left and free is not None and free < SCARCE:
        oldest = left.pop()
        out.append((oldest.node_id, f"only {human_bytes(free)} of this host's memory are free"))
    return out
