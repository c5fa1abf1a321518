"""`workspace diagnose`: what a workspace depends on, tried. A result says what was done and its outcome."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tidemill import __version__
from tidemill.app.assets.storage import BLOB_STORE, account_for, datastore_container
from tidemill.app.services import Services
from tidemill.app.views import doctor
from tidemill.app.workspaces.workspaces import DATASTORES
from tidemill.domain.errors import TidemillError
from tidemill.domain.isolation import lacking
from tidemill.domain.model import Scope
from tidemill.domain.units import join_words
from tidemill.engines.base import EngineError

Level = Literal["Information", "Warning", "Error"]
_REACH_S = 3.0
_LEAST_FREE = 0.05  # of the disk: what nodes leave to the server
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    level: Level
    message: str


async def diagnose(s: Services, scope: Scope) -> Mapping[str, Sequence[Finding]]:
    """By the part of the workspace: storage, secrets, images, other. Raises NotFound."""
    await s.store.read(lambda read: account_for(read, scope))
    return {
        "storage": [*await _containers(s, scope), await _stored(s, scope), await _reached(s), _disk(s)],
        "secrets": [_secrets(s)],
        "images": [_images()],
        "other": [*await _isolation(s), _versions()],
    }


async def _containers(s: Services, scope: Scope) -> list[Finding]:
    account = await s.store.read(lambda read: account_for(read, scope))
    there = {found.name for found in await asyncio.to_thread(s.blobs.containers, account)}
    return [
        Finding("ContainerMissing", "Error", f"The container of datastore {name!r} is gone.")
        for name, (container, _) in DATASTORES.items()
        if container not in there
    ]


async def _stored(s: Services, scope: Scope) -> Finding:
    """A blob is written, read and removed, as a job's outputs are."""
    name = f".tidemill/diagnose-{s.ids.uid()}"

    def try_it(account: str, container: str) -> bytes | None:
        try:
            s.blobs.put_bytes(account, container, name, name.encode())
            return s.blobs.read_bytes(account, container, name)
        finally:
            s.blobs.delete(account, container, name)

    account = await s.store.read(lambda read: account_for(read, scope))
    try:
        place = await s.store.read(lambda read: datastore_container(read, scope, account, BLOB_STORE))
        read = await asyncio.to_thread(try_it, place.account, place.name)
    except (TidemillError, OSError, sqlite3.Error) as error:
        return Finding("StorageFailed", "Error", f"A blob could not be stored in {BLOB_STORE}: {error}")
    if read != name.encode():
        return Finding("StorageFailed", "Error", f"A blob of {BLOB_STORE} was read as something else.")
    return Finding("StorageWorks", "Information", f"A blob was written to {BLOB_STORE}, read and removed.")


async def _reached(s: Services) -> Finding:
    host, _, port = s.addresses.data_netloc.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), _REACH_S)
    except (OSError, TimeoutError) as error:
        return Finding(
            "StorageUnreachable",
            "Error",
            f"The storage's process does not answer at {s.addresses.data} ({error or 'no answer'}); "
            f"{s.settings.home / 'logs' / 'data.log'} may say why.",
        )
    writer.close()
    return Finding("StorageReachable", "Information", f"The storage's process answers at {s.addresses.data}.")


def _disk(s: Services) -> Finding:
    usage = shutil.disk_usage(s.settings.home)
    text = (
        f"{usage.free / _GIB:.1f} GiB of {usage.total / _GIB:.1f} are free on the disk of {s.settings.home}."
    )
    if usage.free < max(usage.total * _LEAST_FREE, _GIB):
        return Finding(
            "DiskNearlyFull", "Warning", f"Only {text} Jobs and uploads will fail when it is full."
        )
    return Finding("DiskFree", "Information", text)


def _secrets(s: Services) -> Finding:
    try:
        whole = s.secrets.decrypt(s.secrets.encrypt(b"diagnose", "diagnose"), "diagnose") == b"diagnose"
    except Exception as error:  # whatever the key does, it is what is asked about
        return Finding("SecretsFailed", "Error", f"A secret could not be sealed and opened: {error}")
    if not whole:
        return Finding("SecretsFailed", "Error", "A sealed secret was opened as something else.")
    return Finding("SecretsWork", "Information", "A secret was sealed and opened with the home's master key.")


def _images() -> Finding:
    path = shutil.which("skopeo")
    if path is None:
        return Finding(
            "NoSkopeo",
            "Warning",
            "skopeo is absent, so no image of a registry can be fetched: apt install skopeo.",
        )
    return Finding("ImagesWork", "Information", f"Images are fetched by {path}.")


async def _isolation(s: Services) -> list[Finding]:
    try:
        limits = await s.engine.isolation()
    except EngineError as error:
        return [Finding("NoNode", "Error", f"No node could be opened on this host: {error}")]
    examination = await asyncio.to_thread(doctor.examine, limits, {})
    level, lacks = examination.level, lacking("full", limits)
    said = f"Jobs run at isolation level {level}."
    found = [Finding("Isolation", "Information", said)]
    if lacks:
        found = [Finding("Isolation", "Warning", f"{said} full lacks: {join_words(lacks, most=12)}.")]
    sources = next((check for check in examination.checks if check.name == "bubblewrap"), None)
    if sources is not None and sources.state == "missing":
        text = f"Environments are built of wheels alone: from source it takes a sandbox. {sources.text}"
        found.append(Finding("NoSourceBuilds", "Warning", text))
    else:
        text = "Environments are built of wheels, and from source in a sandbox where there are none."
        found.append(Finding("EnvironmentBuilder", "Information", text))
    return found


def _versions() -> Finding:
    python = sys.version.split()[0]
    text = f"tidemill {__version__}, Python {python}, SQLite {sqlite3.sqlite_version}."
    return Finding("Versions", "Information", text)
