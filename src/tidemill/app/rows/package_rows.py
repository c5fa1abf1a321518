"""Where packages of models lie in the store, and how they are found.

Key(ws, "packages/versions", version, parent=name), name and version of the environment that it becomes;
`status`: PackageStatus; `state`: Creating, Succeeded, Failed. Its files are a container of its own in the
workspace's storage; layers are kept a second time, under names of what they were made of, for the packages to
come.
"""

from __future__ import annotations

import msgspec

from tidemill.app.errors import absent
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Event, Key, Resource, Scope
from tidemill.domain.serving.packaging import OCI, SUCCEEDED, PackageStatus
from tidemill.environments.images.reference import TARGET, ImageReference
from tidemill.store.api import Read, ResourceQuery

PACKAGES = "packages/versions"
EVENTS = "package"
LAYERS = "packaged-layers"  # the container of those that are kept

_status = msgspec.json.Decoder(PackageStatus)


def package_key(scope: Scope, name: str, version: str) -> Key:
    return Key(scope, PACKAGES, version, parent=name)


def package_status(row: Resource) -> PackageStatus:
    return _status.decode(row.status)


def label(row: Resource) -> str:
    return f"{row.key.parent}:{row.key.name}"


def container_of(row: Resource) -> str:
    return f"p{row.uid}"


def event(row: Resource, now: int, code: str, message: str, actor: str = "") -> Event:
    return Event(row.uid, EVENTS, now, code, message, actor or "server")


def find_package(read: Read, scope: Scope, name: str, version: str) -> Resource:
    """Raises NotFound naming those that exist."""
    row = read.get(package_key(scope, name, version))
    if row is None:
        names = [label(one) for one in read.find(ResourceQuery(PACKAGES, scope))]
        raise absent("Package", f"{name}:{version}", names, scope.words)
    return row


def in_image(read: Read, scope: Scope, image: ImageReference) -> Resource:
    """The package that `package://NAME:VERSION` is, in a workspace. Raises NotFound, or InvalidRequest for
    one that is no image, or none yet."""
    if image.registry not in ("", scope.workspace):
        raise InvalidRequest(
            f"{image.written} is a package of workspace {image.registry!r}, and what runs in {scope.words} "
            "uses its own.",
            "CrossWorkspace",
            TARGET,
        )
    row = find_package(read, scope, image.repository, image.tag)
    kind = package_status(row).plan.spec.format
    if kind != OCI:
        raise InvalidRequest(
            f"Package {label(row)} is a {kind}, no image: make one with --format oci.", "InvalidImage", TARGET
        )
    if row.state != SUCCEEDED:
        raise InvalidRequest(
            f"Package {label(row)} is {row.state}, and no image yet.", "InvalidImage", TARGET
        )
    return row
