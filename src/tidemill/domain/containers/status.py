"""The `status` JSON of a container group's row."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.domain.containers.model import GroupSpec
from tidemill.domain.plan import JobError, PlannedEnvironment


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """`images`: of each container; `generation` counts up with each start and stop that is asked for;
    `wanted`: it is to run, else it is stopped; `secrets`: `model.Secrets`, sealed (app.rows.sealed);
    `error`: why it failed."""

    spec: GroupSpec
    images: tuple[PlannedEnvironment, ...]
    size: str
    compute_uid: str
    generation: int = 1
    wanted: bool = True
    team: str = ""
    user: str = ""
    isolation: str = ""
    secrets: str = field(default="", repr=False)
    error: JobError | None = None
