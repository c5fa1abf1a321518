"""A container group as its row keeps it, and one run of it: parts of `status` JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.domain.containers.model import EMPTY, GroupSpec, Mount

VOLUMES = "volumes"  # the folder below the attempt's directory that they lie in
KEPT_EVENTS = 20  # of a container
ERROR, START_ERROR = "Error", "StartError"  # details of what is TERMINATED
WAITING, RUNNING, TERMINATED = "Waiting", "Running", "Terminated"  # Azure's states of a container


@dataclass(frozen=True, slots=True)
class PlannedMount:
    """`folder`: below the attempt's directory, what is seen at `path`."""

    folder: str
    path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class ContainerState:
    """How a container's process is or was. Times in microseconds; `detail`: a word, or why."""

    state: str = WAITING
    started_at: int | None = None
    finished_at: int | None = None
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """`kind`: "Normal" | "Warning", as Azure's. The same again is counted."""

    name: str
    kind: str
    message: str
    first_at: int
    last_at: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """How a container of a run is doing, of the attempt with the number `attempt`."""

    name: str
    attempt: int = 0
    now: ContainerState = field(default_factory=ContainerState)
    before: ContainerState | None = None
    restarts: int = 0
    ready: bool = True
    events: tuple[ContainerEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """What makes a job a run of a container group. `group`: the uid of its row; `generation`: of what was
    asked for."""

    group: str
    generation: int
    spec: GroupSpec


def folder_of(container: str) -> str:
    """A container's home, below the attempt's directory."""
    return f"containers/{container}"


def volume_folder(name: str) -> str:
    return f"{VOLUMES}/{name}"


def mounts_of(spec: GroupSpec, mounts: tuple[Mount, ...]) -> tuple[PlannedMount, ...]:
    """What a container is shown of its group's volumes: only an emptyDir is written to."""
    return tuple(
        PlannedMount(
            volume_folder(mount.volume),
            mount.path,
            mount.read_only or spec.volume(mount.volume).kind != EMPTY,
        )
        for mount in mounts
    )
