"""The home: one directory that holds everything of one server, for one user."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tidemill.domain import listening
from tidemill.domain.errors import Conflict, Forbidden, InvalidRequest
from tidemill.domain.isolation import CHOICES, LEVELS
from tidemill.domain.listening import Listening
from tidemill.domain.model import Scope
from tidemill.environments.images.rules import MODES
from tidemill.identity.ca import Pair
from tidemill.identity.files import write_whole

HOME_VARIABLE = "TIDEMILL_HOME"
DEFAULT_GROUP = "tidemill"
DEFAULT_WORKSPACE = "main"
DEFAULT_REGION = "eastus"
# What a start that was cut off before config.json may have left.
_OURS = {
    "lock", "secrets", "tls", "db", "blobs", "envs", "images", "logs", "nodes", "helper", "backups",
    "serving",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """config.json: what was decided at the first start and stays. `ports` are those of the last start.
    `cancel_grace_s`: seconds from TERM to KILL; `close_grace_s`: from there to closing the node.
    `certificate` and `key`: PEM files of the user's own for `names`; "" is the home's CA.
    `egress`: what jobs may reach besides this server, on computes that say nothing (sandbox/egress.py).
    `isolation`: one of domain.isolation.CHOICES; `require_isolation`: the level every job must have, or "".

    `images` is one of environments.images.rules.MODES; `image_folders` where `oci:` and archives may lie;
    `image_registries` the only ones that are asked (none: any); `insecure_registries` those without TLS;
    `image_max_gib` the most that one image may hold, unpacked.

    `build_egress`: what packages that are built from source reach besides the server's own indexes;
    `unconfined_builds`: whether they are built without a sandbox where there is none.
    `parked_mib`: what instances of deployments that sleep may hold in memory (domain/serving/parking.py): 0
    parks none, -1 leaves it to the host's size.
    `retention`: what may be removed, and when (domain/retention.py)."""

    subscription: str
    tenant: str
    group: str
    workspace: str
    region: str
    owner_oid: str
    client_id: str
    capacity: str = "elastic"
    isolation: str = "auto"
    require_isolation: str = ""
    egress: str = ""
    strict_python: bool = False
    build_egress: str = "internet"
    unconfined_builds: bool = False
    images: str = "use"
    image_folders: list[str] = field(default_factory=list[str])
    image_registries: list[str] = field(default_factory=list[str])
    insecure_registries: list[str] = field(default_factory=list[str])
    image_max_gib: int = 100
    parked_mib: int = -1
    cancel_grace_s: float = 10.0
    close_grace_s: float = 20.0
    database: str = ""
    retention: dict[str, Any] = field(default_factory=dict[str, Any])
    ports: dict[str, int] = field(default_factory=dict[str, int])
    listen: list[str] = field(default_factory=list[str])
    names: list[str] = field(default_factory=list[str])
    certificate: str = ""
    key: str = ""

    @property
    def listening(self) -> Listening:
        return listening.plan(self.listen, self.names)

    @property
    def own_pair(self) -> Pair | None:
        return Pair(Path(self.certificate), Path(self.key)) if self.certificate else None

    @property
    def scope(self) -> Scope:
        return Scope(self.subscription, self.group, self.workspace)


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below `root`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def server_json(self) -> Path:
        return self.root / "server.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def db(self) -> Path:
        return self.root / "db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def envs(self) -> Path:
        return self.root / "envs"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def prepare(root: Path) -> Home:
    """Makes the home (0700) and its folders. Raises InvalidRequest for a directory that holds something
    else, Forbidden for one of another user."""
    root = root.expanduser().absolute()
    home = Home(root)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = root.stat()
        ours = info.st_uid == os.geteuid()
        if not ours and (info.st_uid, info.st_gid) != (0, os.getegid()):  # that of a root that was given up
            raise Forbidden(
                f"{root} belongs to another user. Give a home of your own: --home DIR.", target="--home"
            )
        check_content(home)
        if not ours:
            return home
        root.chmod(0o700)
        for folder in (home.secrets, home.tls, home.db, home.blobs, home.envs, home.images, home.logs):
            folder.mkdir(mode=0o700, exist_ok=True)
        # Jobs run as users of their own and read these, through the view their node gives them; the home
        # itself stays closed to everybody else.
        home.envs.chmod(0o755)
        home.images.chmod(0o755)
    except (FileExistsError, NotADirectoryError):
        raise InvalidRequest(f"{root} is not a directory. Give one: --home DIR.", target="--home") from None
    except PermissionError as error:
        raise Forbidden(
            f"{error.filename}: permission denied. Give another --home DIR.", target="--home"
        ) from None
    return home


def check_content(home: Home) -> None:
    """Raises InvalidRequest for a directory that holds something else."""
    if not home.config.exists() and any(entry.name not in _OURS for entry in home.root.iterdir()):
        raise InvalidRequest(
            f"{home.root} is not empty and is no Tidemill home. Give an empty or new directory: --home DIR.",
            target="--home",
        )


def load_config(
    home: Home,
    *,
    region: str = "",
    capacity: str = "",
    images: str = "",
    isolation: str = "",
    require_isolation: str = "",
    database: str | None = None,
) -> Config:
    """Reads config.json, making it at the first start; the arguments, where given, change it for good.
    `require_isolation` "none" takes a requirement away."""
    config = read_config(home) or _first_config()
    if (images or config.images) not in MODES:
        raise Conflict(f"{home.config}: images is {config.images!r}. Set one of: {', '.join(MODES)}.")
    wanted = replace(
        config,
        region=region or config.region,
        capacity=capacity or config.capacity,
        images=images or config.images,
        isolation=_known("isolation", isolation or config.isolation, CHOICES),
        require_isolation=_known(
            "require_isolation",
            "" if require_isolation == "none" else require_isolation or config.require_isolation,
            ("", *LEVELS),
        ),
        database=config.database if database is None else database,
    )
    if wanted != config or not home.config.exists():
        save_config(home, wanted)
    return wanted


def read_config(home: Home) -> Config | None:
    """config.json as it is; None before the first start. Raises Conflict for one that cannot be read."""
    try:
        raw: dict[str, Any] = json.loads(home.config.read_bytes())
        known = {f.name for f in fields(Config)}
        return Config(**{name: value for name, value in raw.items() if name in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Conflict(f"{home.config} cannot be read ({error}). Restore it, or move it away.") from None


def _known(name: str, value: str, words: tuple[str, ...]) -> str:
    if value not in words:
        allowed = ", ".join(word for word in words if word)
        raise InvalidRequest(f"{name} {value!r} (config.json) is not known: use {allowed}.", target=name)
    return value


def save_config(home: Home, config: Config) -> None:
    write_whole(home.config, json.dumps(asdict(config), indent=2).encode() + b"\n")


def read_server(home: Home) -> dict[str, Any] | None:
    """server.json as the running (or killed) server wrote it."""
    try:
        return json.loads(home.server_json.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def write_server(home: Home, state: dict[str, Any]) -> None:
    write_whole(home.server_json, json.dumps(state, indent=2).encode() + b"\n")


def _first_config() -> Config:
    new = lambda: str(uuid.uuid4())  # noqa: E731
    return Config(new(), new(), DEFAULT_GROUP, DEFAULT_WORKSPACE, DEFAULT_REGION, new(), new())
