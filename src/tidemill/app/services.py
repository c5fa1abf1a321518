"""What use cases are given: the ports of the system in one frozen value, made by `server/compose.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tidemill.app.activity import ActivityLog
from tidemill.app.codes import CodeBook
from tidemill.app.container_lines import Lines
from tidemill.app.live import Live
from tidemill.app.visitors import Visits
from tidemill.domain.listening import Listening
from tidemill.domain.model import Caller as Caller  # identity makes it, the use cases take it
from tidemill.domain.model import Scope
from tidemill.identity.oidc import OidcClient
from tidemill.identity.passwords import Passwords

if TYPE_CHECKING:
    from tidemill.app.access_directory import AccessDirectory
    from tidemill.app.session_directory import SessionDirectory
    from tidemill.catalog.curated import CuratedCatalog
    from tidemill.catalog.sizes import SizeCatalog
    from tidemill.data.blobstore import BlobStore
    from tidemill.engines.base import Engine
    from tidemill.environments.builder import EnvironmentBuilder
    from tidemill.environments.dockerfiles.builder import DockerfileBuilder
    from tidemill.environments.images.store import ImageStore
    from tidemill.identity.secrets import SecretBox
    from tidemill.identity.storage_keys import StorageKeys
    from tidemill.identity.tokens import TokenIssuer
    from tidemill.store.api import Store
    from tidemill.store.tracking import TrackingStore


class Clock(Protocol):
    def now(self) -> int:
        """Wall clock, microseconds since the epoch."""
        ...

    def boottime(self) -> int:
        """CLOCK_BOOTTIME, microseconds."""
        ...


class Ids(Protocol):
    def uid(self) -> str:
        """32 hex digits, time-ordered (UUIDv7), never reused."""
        ...

    def short(self) -> str:
        """6 random hex digits, for names."""
        ...


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where this server is reached. Always `localhost`: the SDK's storage addressing works only there."""

    https: str  # "https://localhost:8443"
    http: str  # "http://127.0.0.1:8440"
    data: str  # "https://localhost:8445"
    gateway: str = ""  # of online endpoints: "https://localhost:8446"; "" where none runs

    @property
    def data_netloc(self) -> str:
        return self.data.split("://", 1)[1]

    @property
    def ports(self) -> dict[str, int]:
        """By name: what a job may reach of this host."""
        named = {"https": self.https, "http": self.http, "data": self.data, "gateway": self.gateway}
        return {name: int(address.rsplit(":", 1)[1]) for name, address in named.items() if address}

    def page_of_job(self, scope: Scope, name: str) -> str:
        """In the portal."""
        return f"{self.http}/ui/{scope.subscription}/{scope.group}/{scope.workspace}/jobs/{name}"


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    subscription: str
    tenant: str
    region: str
    ca_bundle: Path  # public CAs and this home's own: jobs read it, too
    capacity: str = "elastic"  # "elastic" | "strict"
    strict_python: bool = False  # refuse another Python than the environment asks for
    cancel_grace_s: float = 10.0  # TERM -> KILL
    close_grace_s: float = 20.0  # KILL -> the node is closed
    listening: Listening = field(default_factory=Listening)
    images: str = "use"  # "use" | "prefer-host" | "require"
    egress: str = ""  # of computes that say nothing: see sandbox/egress.py
    require_isolation: str = ""  # the level every job must have
    parked_memory: int = 0  # bytes that parked instances may hold together; 0: none is parked
    why_root: str | None = None  # why root is kept, "": it is not; None: root did not start this server


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    addresses: Addresses
    clock: Clock
    ids: Ids
    store: Store
    access: AccessDirectory
    sessions: SessionDirectory
    tracking: TrackingStore
    blobs: BlobStore
    sizes: SizeCatalog
    curated: CuratedCatalog
    environments: EnvironmentBuilder
    images: ImageStore
    dockerfiles: DockerfileBuilder
    engine: Engine
    tokens: TokenIssuer
    secrets: SecretBox
    storage_keys: StorageKeys
    incarnation: str
    live: Live = field(default_factory=Live)
    visits: Visits = field(default_factory=Visits)
    activity: ActivityLog = field(default_factory=ActivityLog)
    passwords: Passwords = field(default_factory=Passwords)
    codes: CodeBook = field(default_factory=CodeBook)
    oidc: OidcClient = field(default_factory=OidcClient)
    lines: Lines = field(default_factory=Lines)
