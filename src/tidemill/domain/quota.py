"""Quotas: how much a team, a user, a workspace and a compute may hold at most, and how far that is used.

A quota is hard: nothing starts or opens that would go above it. Lowering one ends nothing that runs; nothing
more is given until what is held is below it again. What counts:

- of a team and a user: the nodes that their jobs hold, and the jobs;
- of a workspace and a compute: the nodes that exist, idle ones too (as Azure counts a cluster's nodes against
  a family's quota), and the jobs that hold any.

Measures: `cores` and a VM family's name (both in vCPU of the size, also where nodes share the host's),
`gpus`, `nodes`, `jobs`. Amounts are integers in `unit(measure)` parts, so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidemill.domain.model import Vector

TEAM, USER, WORKSPACE, COMPUTE = "team", "user", "workspace", "compute"
KINDS = (TEAM, USER, WORKSPACE, COMPUTE)
CORES, GPUS, NODES, JOBS = "cores", "gpus", "nodes", "jobs"
MEASURES = (CORES, GPUS, NODES, JOBS)
_FLAGS = {TEAM: "team", USER: "user", WORKSPACE: "workspace-name", COMPUTE: "compute"}  # of the CLI
ANY = "*"  # each one of a kind that has no limit of its own

Key = tuple[str, str, str]  # (kind, id, measure)
Amounts = tuple[tuple[str, int], ...]  # (measure, amount)
Asks = tuple[tuple[Key, int], ...]


def unit(measure: str) -> int:
    """Parts of one: vCPU are counted in thousandths, everything else in whole ones."""
    return 1 if measure in (GPUS, NODES, JOBS) else 1000


def measured(measure: str, amount: int) -> str:
    """`6 cores`, `1 GPU`, `2.5 vCPU of standardDSv2Family`."""
    value = amount / unit(measure)
    text = f"{value:.15g}"
    if measure == GPUS:
        return f"{text} GPU{'' if value == 1 else 's'}"
    if measure in (CORES, NODES, JOBS):
        return f"{text} {measure.removesuffix('s')}{'' if value == 1 else 's'}"
    return f"{text} vCPU of {measure}"


def amounts(node: Vector, family: str, node_count: int) -> Amounts:
    """What `node_count` nodes are, in every measure but jobs; what they have none of is left out."""
    parts = [(CORES, node.cpu_milli), (GPUS, node.gpus), (NODES, 1)]
    if family:
        parts.append((family, node.cpu_milli))
    return tuple((measure, amount * node_count) for measure, amount in parts if amount)


@dataclass(frozen=True, slots=True)
class Quotas:
    """All limits (whole units), the weights of teams and users in the fair share, and their names."""

    limits: Mapping[Key, int] = field(default_factory=dict[Key, int])
    team_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    user_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    names: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def __bool__(self) -> bool:
        return bool(self.limits)

    def limit(self, key: Key) -> int | None:
        """In parts; its own, else that of each of its kind, else None: no limit."""
        found = self.limits.get(key)
        if found is None:
            found = self.limits.get((key[0], ANY, key[2]))
        return None if found is None else found * unit(key[2])

    def limited(self, kind: str, id: str, what: Iterable[tuple[str, int]]) -> Asks:
        """Those of the amounts that a limit of this subject holds for."""
        found = (((kind, id, measure), amount) for measure, amount in what if amount)
        return tuple((key, amount) for key, amount in found if self.limit(key) is not None)

    def name(self, kind: str, id: str) -> str:
        """`team 'vision'`."""
        return f"{kind} {self.names.get((kind, id)) or short(id)!r}"


NO_QUOTAS = Quotas()


def short(id: str) -> str:
    """The last word of a path, else the id."""
    return id.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Equation:
    """One quota against one ask, in parts. `before`: kept for jobs that go first."""

    key: Key
    limit: int
    used: int
    asked: int
    before: int = 0

    @property
    def fits(self) -> bool:
        return self.used + self.before + self.asked <= self.limit

    def text(self) -> str:
        """`6 used + 4 asked = 10, limit 8 cores`."""
        kind = self.key[2]
        sides = [(self.used, "used"), (self.before, "kept for jobs that go first"), (self.asked, "asked")]
        shown = [f"{part / unit(kind):.15g} {word}" for part, word in sides if part or word != sides[1][1]]
        total = (self.used + self.before + self.asked) / unit(kind)
        return f"{' + '.join(shown)} = {total:.15g}, limit {measured(kind, self.limit)}"


def never_sentence(job: str, quotas: Quotas, equation: Equation) -> str:
    """Of a job that can never start under a quota. What is used is never given back: minimum nodes."""
    kind, id, measure = equation.key
    named = quotas.names.get((kind, id)) or short(id)
    kept = " (what is used are minimum nodes of other computes)" if equation.used else ""
    return (
        f"Job {job!r} can never start: the quota of {quotas.name(kind, id)} does not allow it. "
        f"{equation.text()}{kept}. Ask for fewer nodes or a smaller size, or have the quota raised: "
        f"tidemill quota set --{_FLAGS[kind]} {named} --{_option(measure)}."
    )


def waits_sentence(quotas: Quotas, equation: Equation, first: str = "") -> str:
    """Of a job that waits for a quota. `first`: the job that goes before it and waits for the same."""
    kind, id, measure = equation.key
    text = f"the quota of {quotas.name(kind, id)}: {equation.text()}"
    if first:
        return f"Waits behind {first!r}, which waits for {text}."
    missing = equation.used + equation.before + equation.asked - equation.limit
    return f"Waits for {text}: {measured(measure, max(0, missing))} must be given back first."


def _option(measure: str) -> str:
    return f"{measure} N" if measure in MEASURES else f"family {measure}=N"
