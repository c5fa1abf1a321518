"""What an engine is: something that opens nodes and runs tasks on them.

Every call returns at once (a few milliseconds); progress comes through `events()`. All verbs are
idempotent. Things that are absent close silently. tests/contract/engine holds every engine to this.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidemill.domain.isolation import Limit
from tidemill.domain.model import Vector


class EngineError(Exception):
    """Base; `str()` is a sentence for the user."""


class NoCapacity(EngineError): ...


class InvalidTask(EngineError): ...


class Unready(EngineError):
    """The task is just starting or ending: what was asked for may be possible in a moment."""


class Unreachable(EngineError):
    """The node's agent does not answer. Nothing is known about its tasks until it is closed."""


@dataclass(frozen=True, slots=True)
class HostCapacity:
    total: Vector
    gpu_ids: tuple[str, ...] = ()
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    node_id: str
    granted: Vector
    gpu_ids: tuple[str, ...] = ()
    egress: str = ""  # what its jobs may reach besides this server: see sandbox/egress.py
    disk: int = 0  # bytes of its work disk at most; 0: as the host has room for


@dataclass(frozen=True, slots=True)
class HeldNode:
    """A node the engine holds, whether the store knows it or not."""

    node_id: str
    alive: bool  # its agent answers
    granted: Vector
    limits: dict[str, Limit] = field(default_factory=dict)
    handle: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Of a service, carried out by its node whether or not we live. `policy`: "always" | "on-failure" |
    "never". It starts again at once, after ends in a row `first_s` later, doubled up to `cap_s`; a run of
    `steady_s` ends the row."""

    policy: str = "always"
    first_s: float = 0.5
    cap_s: float = 60.0
    steady_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a port of the task's own loopback answers. `kind`: "tcp" (a connection is enough) | "http" (GET
    `path` is answered with 200..399). Failures before `delay_s` after the start do not count; `failures` or
    `successes` in a row change the verdict."""

    port: int
    kind: str = "http"
    path: str = "/"
    delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 2.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Service:
    """What makes a task a service. `ready`: it may be used while that passes; tried often until it does for
    the first time. `live`: its process is ended and started again (by the policy) when that fails."""

    restart: RestartPolicy = RestartPolicy()
    ready: Probe | None = None
    live: Probe | None = None


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One process tree on one node. `(attempt_id, rank)` names it; a start of a lower epoch is refused."""

    attempt_id: str
    epoch: int
    rank: int
    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)  # may hold secrets
    cwd: str
    log_path: str  # stdout and stderr are appended here, by the kernel, live
    term_grace_s: float = 10.0  # TERM -> KILL when stopped
    timeout_s: float | None = None  # wall-clock limit; then TERM -> KILL with reason "timeout"
    gpu_ids: tuple[str, ...] = ()
    network_of: str = ""  # node id: it runs in the network of that node, which must be open; "": of its own
    service: Service | None = None  # None: it runs once
    rootfs: str = ""  # an unpacked image, below what nodes can see; "": a minimal view of the host
    read_only: tuple[str, ...] = ()  # what the task may read at the same path, besides its own directory
    # (a folder below its directory, where else it is shown, read-only); in a sandbox alone
    shown_at: tuple[tuple[str, str], ...] = ()
    writable_at: tuple[tuple[str, str], ...] = ()  # the same, to be written to; refused without a sandbox
    chdir: str = ""  # where it starts instead of `cwd`, a path of its sandbox
    runtime: str = ""  # what runs it instead of the node's sandbox: one of `Engine.runtimes`


@dataclass(frozen=True, slots=True)
class TaskKey:
    attempt_id: str
    rank: int


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """kind: "node_ready" | "node_lost" | "node_closed" | "task_started" | "task_exited", and of services
    "task_ready" | "task_unready" (`message`: why) | "task_restarting" (how it ended; it starts again
    `again_in_s` later, then "task_started"; it is not ready before "task_ready").

    "task_exited" is sent only when the exit record is on disk and every process of the task is proved gone.
    "node_closed" is sent only when every process of the node is proved gone.
    Events of tasks are repeated after a reconnect until `forget` was called for them.
    """

    kind: str
    node_id: str
    task: TaskKey | None = None
    epoch: int = 0
    at: int = 0  # microseconds, wall clock of the node
    mono: int = 0  # CLOCK_BOOTTIME, microseconds
    pid: int = 0
    exit_code: int | None = None
    signal: int | None = None
    # "", "oom", "pids", "disk_full", "timeout", "stopped", "spawn_failed", "lost", "unhealthy"
    reason: str = ""
    message: str = ""
    restarts: int = 0  # of a service: how often it was started again, or is about to be
    again_in_s: float = 0.0
    peak_memory: int | None = None
    limits: dict[str, Limit] = field(default_factory=dict)
    handle: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Beside:
    """A service that was started beside a task. `why`: it could not be started."""

    running: bool
    exit_code: int | None = None
    why: str = ""


class Inside(Protocol):
    """A process that `enter` started. See engines/entered.py."""

    async def started(self) -> None: ...
    async def read(self, stream: int) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def close_input(self) -> None: ...
    def resize(self, rows: int, columns: int) -> None: ...
    async def wait(self) -> int | None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """What else than the sandbox runs containers here. `why_not` "": it does."""

    version: str
    why_not: str = ""


class Engine(Protocol):
    name: str

    async def capacity(self) -> HostCapacity: ...
    async def isolation(self) -> Mapping[str, Limit]:
        """The report that a node opened here would give; found once. Raises EngineError."""
        ...

    async def runtimes(self) -> Mapping[str, Runtime]:
        """By name, those that tasks can ask for (`TaskSpec.runtime`): each tried on a node that is opened for
        it, until it has worked once. Raises EngineError."""
        ...

    async def open_node(self, spec: NodeSpec) -> None:
        """node_ready or node_lost follows. Opening a node that is open repeats node_ready."""
        ...

    async def close_node(self, node_id: str) -> None:
        """Kills everything on it, proves it gone, removes its cgroup and directory; node_closed follows.
        The directories of attempts stay until remove_dir: their logs are still to be collected."""
        ...

    async def held(self) -> Sequence[HeldNode]:
        """Everything this engine holds now, orphans included. Reconnects to agents that live."""
        ...

    async def resize(self, node_id: str, granted: Vector) -> None: ...
    async def park(self, node_id: str) -> None:
        """The services that run there stand still, until `wake`: no CPU, no probes, no start anew of one that
        ends. Their memory stays. Raises EngineError where that cannot be."""
        ...

    async def wake(self, node_id: str) -> None:
        """They go on; "task_ready" comes once their probes pass. Nothing where nothing is parked."""
        ...

    async def start(self, node_id: str, task: TaskSpec) -> None:
        """Intent is on disk when this returns. Raises InvalidTask or Unreachable."""
        ...

    async def stop(self, node_id: str, task: TaskKey, epoch: int, reason: str) -> None:
        """TERM now, KILL after the task's term_grace_s: the agent does both, whether or not we live.
        A task that was never started is recorded as exited with reason "stopped"."""
        ...

    async def forget(self, node_id: str, task: TaskKey) -> None: ...
    async def enter(
        self, node_id: str, task: TaskKey, argv: Sequence[str], size: tuple[int, int] | None, term: str = ""
    ) -> Inside:
        """Starts a process inside a running task: its files, processes, network, user, limits; it ends with
        the task. `argv` empty: a shell. `size` (rows, columns) of the terminal it gets, None: pipes. Raises
        EngineError."""
        ...

    async def start_beside(
        self, node_id: str, task: TaskKey, name: str, argv: Sequence[str], log_path: str
    ) -> None:
        """Starts a service inside a running task, once for each name; it ends with the task, whoever
        lives. Raises Unready, EngineError; what cannot be started at all is told by `beside`."""
        ...

    async def beside(self, node_id: str, task: TaskKey) -> Mapping[str, Beside]:
        """The services that were started beside a running task, by name. Raises EngineError."""
        ...

    async def dial(self, node_id: str, task: TaskKey, port: int) -> socket.socket:
        """A connection to a TCP port of the task's own loopback. Raises EngineError."""
        ...

    def work_dir(self, node_id: str, attempt_id: str) -> str:
        """Directory of an attempt on that node, readable and writable by the job; made by prepare_dir."""
        ...

    async def prepare_dir(
        self,
        node_id: str,
        attempt_id: str,
        folders: Sequence[str] = (),
        links: Sequence[tuple[str, str]] = (),
    ) -> str:
        """Makes work_dir, and below it `folders` (parents before children), owned by the node's job uid, and
        `links` (path, target) in them."""
        ...

    async def settle_dir(self, node_id: str, attempt_id: str) -> None:
        """After staging: hands what was copied into work_dir to the job's uid."""
        ...

    async def remove_dir(self, node_id: str, attempt_id: str) -> None: ...
    async def crowded(self, node_id: str) -> bool:
        """Whether the directories of ended attempts take space that the next one may need."""
        ...

    async def keep_dirs(self, attempt_ids: Collection[str]) -> None:
        """After a start: removes the directories of all other attempts, on whatever node. What is made after
        the call is not touched."""
        ...

    async def read_log(self, node_id: str, attempt_id: str, path: str, offset: int, limit: int) -> bytes:
        """Bytes of a file below the attempt's work_dir (`path` is relative to it). b"" past the end or while
        it does not exist; EngineError when the directory is gone or the path leaves it (links included)."""
        ...

    async def log_size(self, node_id: str, attempt_id: str, path: str) -> int:
        """Bytes in that file now; 0 while it does not exist."""
        ...

    def cpu_used(self, node_id: str) -> int | None:
        """Microseconds of CPU that the node's processes have used since it was opened, those that have ended
        included; None where nobody counts them."""
        ...

    def memory_used(self, node_id: str) -> int | None:
        """Bytes that the node's processes hold now, files that the kernel keeps for them not counted; None
        where nobody counts them."""
        ...

    def free_memory(self) -> int | None:
        """Bytes that the host has for more; None where that is not known."""
        ...

    def events(self) -> AsyncIterator[EngineEvent]: ...
    async def detach(self) -> None:
        """Lets go of every agent without touching what they run (server shutdown)."""
        ...
