"""Environments that are Docker build contexts: where their files lie, and the image that they become."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tidemill.app.assets.locations import Storage, locate
from tidemill.app.assets.storage import account_for
from tidemill.app.services import Services
from tidemill.data.blobmodel import BlobInfo
from tidemill.data.blobstore import BlobStore
from tidemill.domain.errors import NotFound, NotOffered
from tidemill.domain.model import Scope
from tidemill.domain.plan import Place, PlannedBuild, PlannedEnvironment
from tidemill.environments.dockerfiles.builder import Logins, Order
from tidemill.environments.images import inside
from tidemill.environments.images.store import FoundImage
from tidemill.environments.shared import LogLine
from tidemill.environments.spec import BuildContext
from tidemill.store.api import Read

TARGET = "properties.build"
_CHUNK = 4 << 20


async def plan(
    s: Services, scope: Scope, planned: PlannedEnvironment, context: BuildContext, owner: Scope
) -> PlannedEnvironment:
    """With the place of its context, in the storage of `owner` (a registry, or the workspace). Raises
    InvalidRequest where this host lacks what builds it, NotOffered for a context elsewhere (git, the web),
    NotFound for one that was not uploaded."""
    s.dockerfiles.require(planned.label)
    inside.require_sandbox(f"the {planned.image}")

    def find(read: Read) -> Place | None:
        storage = Storage(owner, account_for(read, owner), s.addresses.data_netloc)
        return locate(read, storage, context.uri).place

    place = await s.store.read(find)
    if place is None:
        raise NotOffered(
            f"Environment {planned.label}: its build context is at {context.uri}, and only a folder in the "
            f"storage of {owner.words} is built. Give a local folder (build: path), which is uploaded.",
            f"{TARGET}.contextUri",
        )
    folder = replace(place, path=place.path.rstrip("/") + "/")
    asked = ["dockerfile", scope.arm_id, folder.account, folder.container, folder.path, context.dockerfile]
    digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:40]
    return replace(planned, digest=digest, build=PlannedBuild(folder, context.dockerfile))


async def prepare(
    s: Services,
    scope: Scope,
    planned: PlannedEnvironment,
    build: PlannedBuild,
    logins: Logins,
    log: LogLine,
) -> FoundImage:
    """Builds the image, or finds it. Raises what `DockerfileBuilder.ensure` raises."""
    order = Order(
        planned.label,
        scope.arm_id,
        BlobContext(s.blobs, build.context, planned.label),
        build.dockerfile,
        logins,
    )
    return await s.dockerfiles.ensure(order, log)


class BlobContext:
    """A build context in a workspace's storage. `label`: of its environment, for sentences."""

    def __init__(self, blobs: BlobStore, folder: Place, label: str) -> None:
        self._blobs = blobs
        self._folder = folder
        self._label = label

    def digest(self) -> str:
        whole = hashlib.sha256()
        for info in self._files():
            content = hashlib.sha256()
            opened = self._blobs.open(info.account, info.container, info.name)
            if opened is None:
                continue
            with open(opened[1], "rb") as file:
                while chunk := file.read(_CHUNK):
                    content.update(chunk)
            name = info.name[len(self._folder.path) :]
            whole.update(f"{len(name)} {name} {content.hexdigest()}\n".encode())
        return whole.hexdigest()

    def read(self, name: str) -> bytes | None:
        where = self._folder
        return self._blobs.read_bytes(where.account, where.container, where.path + name)

    def copy_to(self, folder: Path) -> None:
        where = self._folder
        self._blobs.copy_out(where.account, where.container, where.path, folder)

    def _files(self) -> Iterator[BlobInfo]:
        """In the order of their names. Raises NotFound where there are none."""
        where, marker, found = self._folder, "", False
        while True:
            page = self._blobs.list(where.account, where.container, where.path, marker=marker)
            for info in page.blobs:
                found = True
                yield info
            marker = page.next_marker
            if not marker:
                break
        if not found:
            raise NotFound(
                f"Environment {self._label}: nothing is stored at {where.container}/{where.path}, where its "
                "build context was. Create the environment again under another version.",
                "BuildContextNotFound",
                TARGET,
            )
