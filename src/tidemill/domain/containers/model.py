"""A container group (Microsoft.ContainerInstance/containerGroups): what it is to be, as frozen values.

Secure values are no part of it: it knows their names only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"
EMPTY, SECRET, SHARE = "emptyDir", "secret", "azureFile"  # kinds of volumes
SANDBOX, RUNC = "sandbox", "runc"  # what runs containers
RUNTIMES = (SANDBOX, RUNC)
RUNTIME_TAG = "tidemill.runtime"  # of a group: Azure's schema has no field for it
HOST_PYTHON = "host-python"  # the image name of the host's own Python
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class ContainerProbe:
    """GET `path` on the container's `port` is answered with 200..399. Times in seconds."""

    port: int
    path: str = "/"
    delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Mount:
    volume: str
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """`files`: names of a secret's files. `account`, `container` and `folder`: the blobs that a share is
    filled with; `folder` ends in '/', "" is all of them."""

    name: str
    kind: str
    files: tuple[str, ...] = ()
    account: str = ""
    container: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """`command` empty: the image's own. `secure`: names of variables whose values are sealed. `memory` in
    bytes."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    secure: tuple[str, ...] = ()
    cpu_milli: int = 1000
    memory: int = GIB * 3 // 2
    liveness: ContainerProbe | None = None
    readiness: ContainerProbe | None = None
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """`init`: run to their end one after the other, before the others start. `ports`: those that its address
    has; `registries`: servers that a login was given for; `runtime`: one of RUNTIMES."""

    name: str
    containers: tuple[ContainerSpec, ...]
    restart: str = ALWAYS
    volumes: tuple[VolumeSpec, ...] = ()
    ports: tuple[int, ...] = ()
    dns_label: str = ""
    registries: tuple[str, ...] = ()
    init: tuple[ContainerSpec, ...] = ()
    runtime: str = SANDBOX

    @property
    def every(self) -> tuple[ContainerSpec, ...]:
        """In the order of their numbers: a run has a rank for each."""
        return (*self.init, *self.containers)

    @property
    def label(self) -> str:
        """Of its compute: the first part of its node's name."""
        return f"container.{self.name}"

    @property
    def cpu_milli(self) -> int:
        return sum(one.cpu_milli for one in self.containers)

    @property
    def memory(self) -> int:
        return sum(one.memory for one in self.containers)

    def volume(self, name: str) -> VolumeSpec:
        return next(one for one in self.volumes if one.name == name)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is sealed of a group: values of variables by container and name, base64 of files by volume and
    name, (user, password) by registry."""

    variables: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    files: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    registries: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def __repr__(self) -> str:
        return "Secrets(…)"
