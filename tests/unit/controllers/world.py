"""The controllers over the store in memory and the fake engine: whole job paths without a process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tidemill.app.access_directory import AccessDirectory
from tidemill.app.computes import computes
from tidemill.app.jobs import jobs
from tidemill.app.people import principals
from tidemill.app.services import Addresses, Services, Settings
from tidemill.app.session_directory import SessionDirectory
from tidemill.app.workspaces import groups, workspaces
from tidemill.catalog.curated import CuratedCatalog
from tidemill.catalog.sizes import GIB, SizeCatalog
from tidemill.controllers import runtime
from tidemill.controllers.runtime import Runtime
from tidemill.data.blobstore import BlobStore
from tidemill.domain.errors import OutOfSpace
from tidemill.domain.model import Attempt, Caller, Interval, JobState, Node, Resource, Scope, Vector
from tidemill.engines.base import HostCapacity, TaskSpec
from tidemill.engines.fake import FakeEngine, Plan
from tidemill.environments.box import Confinement
from tidemill.environments.built import BuiltEnvironment
from tidemill.environments.dockerfiles.builder import DockerfileBuilder
from tidemill.environments.images.store import ImageStore
from tidemill.environments.spec import EnvironmentSpec
from tidemill.identity.secrets import SecretBox
from tidemill.identity.storage_keys import StorageKeys
from tidemill.store.memory import MemoryStore
from tidemill.store.tracking import TrackingStore

SCOPE = Scope("11111111-1111-1111-1111-111111111111", "tidemill", "main")
OWNER = Caller("o", "owner", "User")
WAIT_S = 60.0
SECOND = 1_000_000
FOREVER = Plan(after=None)


class ShiftedClock:
    """The real clock, moved forward by hand."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return time.time_ns() // 1000 + self.ahead

    def boottime(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 + self.ahead


class CountedIds:
    def __init__(self) -> None:
        self._next = itertools.count(1)

    def uid(self) -> str:
        return f"{next(self._next):032x}"

    def short(self) -> str:
        return f"{next(self._next):06x}"


class FlakyStore(MemoryStore):
    """While it is `full`, every closure is refused; so is, once, one whose name has `refuse` in it. `refused`
    are the names of those that were."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.refuse = ""
        self.refused: list[str] = []

    async def write(self, fn: Callable[[Any], Any]) -> Any:
        name = getattr(fn, "__qualname__", repr(fn))
        if self.full or (self.refuse and self.refuse in name):
            self.refuse = ""
            self.refused.append(name)
            await asyncio.sleep(0)
            raise OutOfSpace("The disk is full.")
        return await super().write(fn)


class Tokens:
    def issue_job(self, **given: Any) -> str:
        return "token"


class Environments:
    """`problem` is raised by a build; `gate` holds it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.built: set[str] = set()
        self.problem: Exception | None = None
        self.asked = 0

    def key(self, spec: EnvironmentSpec) -> str:
        return "d" * 8

    def is_built(self, digest: str) -> bool:
        return digest in self.built

    def find(self, digest: str) -> BuiltEnvironment | None:
        if digest not in self.built:
            return None
        bin_dir = self.root / "bin"
        python = bin_dir / "python"
        return BuiltEnvironment(digest, self.root, python, bin_dir, self.root, True, python_version="3.11.7")

    def log_path(self, digest: str) -> Path:
        return self.root / f"{digest}.log"

    async def ensure(self, spec: EnvironmentSpec, log: Callable[[str], None]) -> BuiltEnvironment:
        self.asked += 1
        await asyncio.sleep(0)
        if self.problem is not None:
            raise self.problem
        self.built.add("d" * 8)
        found = self.find("d" * 8)
        assert found is not None
        return found


@dataclass
class World:
    services: Services
    store: FlakyStore
    engine: FakeEngine
    clock: ShiftedClock
    environments: Environments
    plans: dict[str, Plan] = field(default_factory=dict)
    running: Runtime | None = None

    async def start(self) -> Runtime:
        self.running = await runtime.start(self.services)
        self.services.live.scheduler = self.running.pool.scheduler
        return self.running

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
            self.running = None
            # Listeners of a server that is gone hear nothing.
            self.store._writer._listeners.clear()  # pyright: ignore[reportPrivateUsage]

    async def restart(self) -> Runtime:
        """As after a kill: nothing is tidied up."""
        assert self.running is not None

        async def nothing(wait_s: float) -> None: ...

        self.running.nodes.close_idle = nothing
        await self.stop()
        self.engine.reattach()
        return await self.start()

    async def cluster(self, name: str = "cpu", low: int = 0, high: int = 2, idle: str = "PT2M") -> Resource:
        scale = {"minNodeCount": low, "maxNodeCount": high, "nodeIdleTimeBeforeScaleDown": idle}
        inner = {"vmSize": "Standard_DS1_v2", "scaleSettings": scale}
        body = {"location": "westeurope", "properties": {"computeType": "AmlCompute", "properties": inner}}
        row, _ = await computes.put(self.services, OWNER, SCOPE, name, body)
        return row

    async def submit(self, name: str, compute: str = "", **more: Any) -> Resource:
        properties = {"jobType": "Command", "command": f"run {name}", "computeId": compute, **more}
        row, _ = await jobs.submit(self.services, OWNER, SCOPE, name, {"properties": properties})
        return row

    async def job(self, name: str) -> Resource:
        return await jobs.get(self.services, SCOPE, name)

    async def ended(self, name: str) -> Resource:
        await self.until(lambda: JobState(self.row(name).state).final, f"{name} has ended")
        return self.row(name)

    def row(self, name: str) -> Resource:
        row = self.read().get(jobs.key_of(SCOPE, name))
        assert row is not None
        return row

    def read(self) -> Any:
        return self.store._read  # pyright: ignore[reportPrivateUsage]

    def attempts(self, name: str) -> list[Attempt]:
        return list(self.read().attempts_of(self.row(name).uid))

    def nodes(self) -> list[Node]:
        return list(self.read().live_nodes())

    def intervals(self, **query: Any) -> list[Interval]:
        return list(self.read().intervals(**query))

    def codes(self, subject: str) -> list[str]:
        return [event.code for event in self.read().events(subject)]

    def calls(self, verb: str) -> list[tuple[Any, ...]]:
        return [call for call in self.engine.calls if call[0] == verb]

    async def until(self, condition: Callable[[], bool], what: str = "", timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            self.engine.advance()
            await asyncio.sleep(0.005)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        self.store.full = True
        try:
            yield
        finally:
            self.store.full = False


async def make(tmp_path: Path) -> World:
    clock, ids = ShiftedClock(), CountedIds()
    capacity = HostCapacity(Vector(4000, 16 * GIB, 0))
    plans: dict[str, Plan] = {}

    def plan(spec: TaskSpec) -> Plan:
        """By the command's last word, or by it and the attempt's number."""
        name = spec.argv[-1].split()[-1]
        number = spec.attempt_id.rpartition(".")[2]
        return plans.get(f"{name}.{number}") or plans.get(name) or Plan()

    store = FlakyStore()
    engine = FakeEngine(tmp_path / "engine", clock, capacity=capacity, plan=plan)
    environments = Environments(tmp_path / "envs")
    images = ImageStore(tmp_path / "images", clock.now)
    services = Services(
        settings=Settings(
            tmp_path,
            SCOPE.subscription,
            "tenant",
            "westeurope",
            tmp_path / "ca.pem",
            "elastic",
            False,
            0.3,
            0.3,
        ),
        addresses=Addresses("https://localhost:8443", "http://127.0.0.1:8440", "https://localhost:8445"),
        clock=clock,
        ids=ids,
        store=store,
        access=AccessDirectory(store),
        sessions=SessionDirectory(store, clock.now),
        tracking=TrackingStore(tmp_path / "tracking.db"),
        blobs=BlobStore(tmp_path / "blobs", clock.now),
        sizes=SizeCatalog.load(capacity),
        curated=CuratedCatalog(),
        environments=cast(Any, environments),
        images=images,
        dockerfiles=DockerfileBuilder(tmp_path / "images", images, Confinement()),
        engine=engine,
        tokens=cast(Any, Tokens()),
        secrets=SecretBox({"00000001": b"k" * 32}),
        storage_keys=StorageKeys(b"m" * 64),
        incarnation="test",
    )
    await principals.ensure_owner(services, OWNER.oid, OWNER.name, "app")
    group = Scope(SCOPE.subscription, SCOPE.group)
    await groups.put(services, OWNER, group, "westeurope", None)
    await workspaces.create(services, OWNER, group, workspaces.WorkspaceDraft(SCOPE.workspace))
    return World(services, store, engine, clock, environments, plans)
