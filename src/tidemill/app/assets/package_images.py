"""Packages of models as images: `package://NAME:VERSION` is unpacked when something first runs in it."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from tidemill.app.people.access import authorise
from tidemill.app.rows.package_rows import in_image, label, package_status
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest, OutOfSpace
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, Scope
from tidemill.environments import tree
from tidemill.environments.images.reference import PACKAGE, ImageReference, parse_reference
from tidemill.environments.images.store import FoundImage
from tidemill.environments.shared import LogLine

DOWNLOAD = f"{PROVIDER}/workspaces/packages/versions/download/action"
FOLDER = ".packages"  # below the home's images/: what is on its way


async def check(s: Services, scope: Scope, written: str) -> None:
    """Of an image's name: that the package it names is there. Raises NotFound, InvalidRequest."""
    image = parse_reference(written)
    if image.transport == PACKAGE:
        await s.store.read(lambda read: in_image(read, scope, image))


async def check_in_group(s: Services, caller: Caller, scope: Scope, image: ImageReference) -> None:
    """Of a container group, which is of no workspace: the package's is named, and whoever creates the group
    may have its files. Raises NotFound, InvalidRequest, AccessDenied."""
    if not image.registry:
        raise InvalidRequest(
            f"{image.written}: a container group is of no workspace: write {PACKAGE}://WORKSPACE/NAME:VERSION.",
            "InvalidImage",
        )
    there = workspace_of(scope, image)
    below = f"packages/{image.repository}/versions/{image.tag}"
    await authorise(s, caller, DOWNLOAD, there, below)
    await s.store.read(lambda read: in_image(read, there, image))


def workspace_of(scope: Scope, image: ImageReference) -> Scope:
    """Of a package that a container group names."""
    return replace(scope, workspace=image.registry)


async def ensure(s: Services, scope: Scope, image: ImageReference, log: LogLine) -> FoundImage:
    """Raises NotFound, InvalidRequest, OutOfSpace."""
    row = await s.store.read(lambda read: in_image(read, scope, image))
    status = package_status(row)
    known = s.images.find(status.digest)
    if known is not None:
        return FoundImage(known, True, (f"Package {label(row)} is {known.short}.",))
    layout = await asyncio.to_thread(_folder, s)
    try:
        log(f"Package {label(row)}: its layers are taken from the workspace's storage.")
        copy = s.blobs.copy_out
        await asyncio.to_thread(copy, status.plan.account, status.container, "", layout / "image")
        found = await s.images.adopt(layout / "image", image.written, scope.arm_id, log)
    except OSError as error:
        if tree.is_full(error):
            raise OutOfSpace(
                f"No space left on the disk of this home to unpack package {label(row)}. Free space and try "
                "again."
            ) from error
        raise
    finally:
        await asyncio.shield(asyncio.to_thread(tree.remove_tree, layout))
    return FoundImage(found, False, (f"Package {label(row)} is {found.short}.",))


def place(s: Services) -> Path:
    return s.settings.home / "images" / FOLDER


def _folder(s: Services) -> Path:
    s.images.prepare()
    place(s).mkdir(mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="image-", dir=place(s)))
