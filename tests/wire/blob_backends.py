"""Two blob services behind one face: Tidemill's data process and Azurite, each in https."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidemill.data.blobstore import BlobStore
from tidemill.domain.model import Key, Resource, Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import OWNER_ROLE, RoleAssignment
from tidemill.identity import ca
from tidemill.identity.keys import load_or_create
from tidemill.identity.storage_keys import StorageKeys
from tidemill.server import side
from tidemill.server.home import Home, load_config
from tidemill.store.api import Tx
from tidemill.store.sql import open_store

ROOT = Path(__file__).parents[2]
AZURITE = ROOT / ".cache" / "azurite"
AZURITE_VERSION = "3.35.0"
ACCOUNT = "tmtest01"
OTHER = "tmtest02"
SCOPE = Scope("s", "g", "Main")
DEADLINE_S = 60.0


class Unavailable(Exception):
    """What this backend needs is not here."""


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    port: int
    key: str
    ca: str
    pid: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/{ACCOUNT}.blob.core.windows.net"


def now() -> int:
    return time.time_ns() // 1000


def make_home(home: Path) -> str:
    """Keys, certificate, two accounts of one workspace and an owner: what the data process needs of a home.
    -> the owner's key of ACCOUNT."""
    for folder in ("secrets", "tls", "logs", "db"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    keys = StorageKeys(load_or_create(home / "secrets").storage)
    ca.ensure(home / "tls", now())
    store = BlobStore(home / "blobs", now)
    store.ensure_account(ACCOUNT, SCOPE)
    store.ensure_account(OTHER, SCOPE)
    store.close()
    holder = asyncio.run(make_owner(home))
    return keys.key(ACCOUNT, holder)


async def make_owner(home: Path) -> str:
    """-> the holder of keys that an Owner of SCOPE's subscription, the home's own, is."""
    config = load_config(Home(home))
    owner = Principal(config.owner_oid, PrincipalKind.USER, "owner", app_id=config.client_id)
    given = RoleAssignment("owner-1", Scope(SCOPE.subscription).arm_id, owner.oid, OWNER_ROLE)

    def make(tx: Tx) -> None:
        if tx.principal(owner.oid) is None:
            tx.insert_principal(owner)
            tx.insert_role_assignment(given)

    opened = open_store(home / "db" / "tidemill.db")
    await opened.write(make)
    await opened.close()
    return f"{owner.oid}.{given.id}"


async def change_home(home: Path, change: Callable[[Tx], object]) -> None:
    """As the control process would, while the data process runs."""
    opened = open_store(home / "db" / "tidemill.db")
    await opened.write(change)
    await opened.close()


def add_jobs(home: Path, states: dict[str, str]) -> None:
    """Jobs of SCOPE by uid."""

    def add(tx: Tx) -> None:
        for uid, state in states.items():
            tx.insert(Resource(uid, Key(SCOPE, "jobs", uid), state))

    asyncio.run(change_home(home, add))


def start_data_process(home: Path, port: int = 0) -> tuple[subprocess.Popen[bytes], int]:
    """-> (process, port), once it listens."""
    argv = [sys.executable, "-m", "tidemill.server.data_process", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(argv)

    def listening() -> int | None:
        state = side.read_state(home, side.DATA)
        return state["port"] if state and state["pid"] == process.pid else None

    try:
        return process, wait_for(listening, process)
    except BaseException:
        process.kill()
        process.wait()
        raise


def wait_for(look: Callable[[], int | None], process: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        found = look()
        if found is not None:
            return found
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        time.sleep(0.005)
    raise TimeoutError(f"{process.args} is not ready after {DEADLINE_S} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def tidemill(home: Path) -> Iterator[Backend]:
    key = make_home(home)
    process, port = start_data_process(home)
    try:
        yield Backend("tidemill", port, key, str(home / "tls" / "ca.pem"), process.pid)
    finally:
        stop(process)


@contextmanager
def azurite(home: Path) -> Iterator[Backend]:
    """Raises Unavailable naming what is missing."""
    binary = install_azurite()
    make_home(home)
    key = base64.b64encode(os.urandom(64)).decode()
    argv = [
        str(binary),
        *("--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(home / "azurite")),
        *("--cert", str(home / "tls" / "server.pem"), "--key", str(home / "tls" / "server.key")),
        *("--disableProductStyleUrl", "--skipApiVersionCheck", "--silent", "--disableTelemetry"),
    ]
    accounts = f"{ACCOUNT}.blob.core.windows.net:{key};{OTHER}.blob.core.windows.net:{key}"
    (home / "azurite").mkdir(exist_ok=True)
    said = home / "azurite.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            argv, env={**os.environ, "AZURITE_ACCOUNTS": accounts}, stdout=log, stderr=subprocess.DEVNULL
        )

    def listening() -> int | None:
        found = re.search(r"successfully listens on .*:(\d+)\n", said.read_text())
        return int(found[1]) if found else None

    try:
        port = wait_for(listening, process)
        yield Backend("azurite", port, key, str(home / "tls" / "ca.pem"), process.pid)
    finally:
        stop(process)


def install_azurite() -> Path:
    """The azurite-blob command in a prefix of its own, installed by npm once."""
    binary = AZURITE / "node_modules" / ".bin" / "azurite-blob"
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Unavailable("npm and node are needed for Azurite")
    AZURITE.mkdir(parents=True, exist_ok=True)
    with open(AZURITE / "install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            argv = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(AZURITE)]
            done = subprocess.run(
                [*argv, f"azurite@{AZURITE_VERSION}"], capture_output=True, text=True, timeout=570
            )
            if done.returncode or not binary.exists():
                raise Unavailable(f"npm could not install Azurite: {done.stderr[-500:]}")
    return binary
