"""Which processors each node of a host runs on.

A quota alone does not keep a neighbour's speed: the kernel is fair on each processor, so sixteen busy threads
next door take part of every one. A node therefore has as many processors to itself as its share has whole
ones; what is left of its share it gets on those that nobody has to himself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Told = Mapping[str, Sequence[int]]


def share_out(
    granted: Mapping[str, int], cpus: Sequence[int], told: Told | None = None
) -> dict[str, list[int]]:
    """`granted` in thousandths of a core, by node -> the processors that each may use. A node keeps those
    that it was `told` to use and nobody else was, so that nothing moves without need. Where more was granted
    than there is, the last have to share."""
    told = {key: said for key, said in (told or {}).items() if key in granted}
    own = {key: _alone(key, told, cpus)[: milli // 1000] for key, milli in granted.items()}
    free = [cpu for cpu in cpus if not any(cpu in mine for mine in own.values())]
    for key, mine in own.items():
        missing = granted[key] // 1000 - len(mine)
        mine += free[:missing]
        del free[:missing]
    shared = free or list(cpus)
    return {
        key: sorted(mine if mine and len(mine) * 1000 >= granted[key] else {*mine, *shared})
        for key, mine in own.items()
    }


def changes(granted: Mapping[str, int], cpus: Sequence[int], told: Told) -> list[tuple[str, list[int]]]:
    """-> (node, its processors) of those that must be told, who has to give some up first. A node that was
    told nothing uses all."""
    before = {key: sorted(told.get(key, cpus)) for key in granted}
    changed = [(key, now) for key, now in share_out(granted, cpus, told).items() if now != before[key]]
    return sorted(changed, key=lambda item: len(item[1]) - len(before[item[0]]))


def _alone(key: str, told: Told, cpus: Sequence[int]) -> list[int]:
    others = {cpu for other, said in told.items() if other != key for cpu in said}
    return [cpu for cpu in told.get(key, ()) if cpu in cpus and cpu not in others]
