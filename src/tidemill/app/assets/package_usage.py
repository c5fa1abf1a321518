"""Who runs in a package of a model by the name of its image, package://…: container groups, and what other
environments are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tidemill.app.rows.asset_rows import ENVIRONMENTS
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.container_rows import GROUPS, group_status
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Scope
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.units import join_words
from tidemill.environments.images.reference import PACKAGE, parse_reference
from tidemill.store.api import Read, ResourceQuery


def users(read: Read, scope: Scope, name: str, version: str = "") -> list[str]:
    """In words, of a version or of all; `scope`: the package's workspace."""
    return [*_groups(read, scope, name, version), *_environments(read, scope, name, version)]


def refuse_if_used(read: Read, scope: Scope, name: str, version: str) -> None:
    """Raises Conflict naming who uses it."""
    found = users(read, scope, name, version)
    if found:
        raise Conflict(
            f"Package {name}:{version} is in use by {join_words(found, most=10)}. Delete it once nothing "
            "uses it.",
            "AssetInUse",
            f"{name}:{version}",
        )


def groups_of_workspace(read: Read, scope: Scope) -> list[str]:
    """In words: container groups that run in any of its packages."""
    return list(_groups(read, scope, "", ""))


def _groups(read: Read, scope: Scope, name: str, version: str) -> Iterator[str]:
    """Stopped ones, too: they could not start again."""
    for row in read.find(ResourceQuery(GROUPS, replace(scope, workspace=""))):
        images = [one.image for one in group_status(row).spec.every]
        used = any(_is(image, scope.workspace, "", name, version) for image in images)
        if used and row.state != Provisioning.DELETING:
            yield f"container group {row.key.name!r}"


def _environments(read: Read, scope: Scope, name: str, version: str) -> Iterator[str]:
    """But for the environment that the package itself is."""
    for row in read.find(ResourceQuery(ENVIRONMENTS.versions, scope)):
        image = str(decode_object(row.spec).get("image") or "")
        itself = row.key.parent.casefold() == name.casefold()
        if not itself and _is(image, scope.workspace, scope.workspace, name, version):
            yield f"environment '{row.key.parent}:{row.key.name}'"


def _is(image: str, workspace: str, default: str, name: str, version: str) -> bool:
    """`default`: the workspace of an image that names none; `name`, `version` "": any."""
    if not image.startswith(f"{PACKAGE}://"):
        return False
    found = parse_reference(image)
    pairs = (
        (found.registry or default, workspace),
        (found.repository if name else "", name),
        (found.tag if version else "", version),
    )
    return all(there.casefold() == asked.casefold() for there, asked in pairs)
