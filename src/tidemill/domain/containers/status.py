"""The `status` JSON of a container group's row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tidemill.domain.containers.model import GroupSpec
from tidemill.domain.plan import JobError, PlannedEnvironment

FULFILLED = 8  # that are kept: whoever asked for an older one has stopped asking


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """`images`: of each container; `generation` counts up with each start and stop that is asked for;
    `fulfilled`: the last of those that came to what they asked for; `wanted`: it is to run, else it is
    stopped; `secrets`: `model.Secrets`, sealed (app.rows.sealed); `error`: why it failed."""

    spec: GroupSpec
    images: tuple[PlannedEnvironment, ...]
    size: str
    compute_uid: str
    generation: int = 1
    fulfilled: tuple[int, ...] = ()
    wanted: bool = True
    team: str = ""
    user: str = ""
    isolation: str = ""
    secrets: str = field(default="", repr=False)
    error: JobError | None = None

    @property
    def settled(self) -> GroupStatus:
        """As it is once what was asked for last is there."""
        past = tuple(one for one in self.fulfilled if one != self.generation)
        return replace(self, error=None, fulfilled=(*past, self.generation)[-FULFILLED:])
