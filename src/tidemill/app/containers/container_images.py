"""Images of container groups: as for jobs, but that registries are signed in to with what the group says.

What a registry lets one group read is not given to another without asking: the group is the image's owner.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tidemill.app.assets import package_images
from tidemill.app.rows.container_rows import secrets_of
from tidemill.app.services import Services
from tidemill.domain.containers.model import HOST_PYTHON
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.plan import PlannedEnvironment
from tidemill.environments.images import inside, registry
from tidemill.environments.images.reference import PACKAGE, ImageReference, parse_reference
from tidemill.environments.images.rules import host_instead
from tidemill.environments.shared import LogLine


async def plan(s: Services, caller: Caller, scope: Scope, owner: str, written: str) -> PlannedEnvironment:
    """With `image_digest` where nothing has to be fetched. Raises InvalidRequest; of a package also NotFound
    and AccessDenied."""
    if written == HOST_PYTHON:
        inside.require_sandbox(written)
        return PlannedEnvironment(label=HOST_PYTHON)
    if why := host_instead(s.settings.images, written, packages=False):
        raise InvalidRequest(
            f"Image {written!r}: {why}, and it cannot stand in for a container. Use {HOST_PYTHON} with a "
            f"command, a package of a model ({PACKAGE}://WORKSPACE/NAME:VERSION), or tidemill up --images "
            "use.",
            "ImagesNotUsed",
        )
    image = parse_reference(written)
    if image.transport == PACKAGE:
        await package_images.check_in_group(s, caller, scope, image)
    else:
        image = s.images.check(image)
    inside.require_sandbox(image.written)
    known = s.images.known(image, owner)
    if known is None and image.transport not in ("oci", PACKAGE):
        registry.require(image)
    digest = hashlib.sha256("\n".join(["container", owner, image.canonical]).encode()).hexdigest()[:40]
    return PlannedEnvironment(
        label=written,
        digest=digest,
        image=written,
        in_image=True,
        image_digest="" if known is None else known.digest,
    )


def is_ready(images: tuple[PlannedEnvironment, ...]) -> bool:
    return all(one.image_digest or not one.in_image for one in images)


async def fetch(
    s: Services, group: Resource, planned: PlannedEnvironment, log: LogLine
) -> tuple[PlannedEnvironment, tuple[str, ...]]:
    """-> (it, with what its name stands for now; notes). Raises what `ImageStore.ensure` raises."""
    if not planned.in_image:
        return planned, ()
    image = parse_reference(planned.image or "")
    if image.transport == PACKAGE:
        found = await package_images.ensure(
            s, package_images.workspace_of(group.key.scope, image), image, log
        )
    else:
        found = await s.images.ensure(image, owner_of(group.uid), _login(s, group, image), log)
    return replace(planned, image_digest=found.image.digest), found.notes


def owner_of(group_uid: str) -> str:
    return f"containerGroups/{group_uid}"


def _login(s: Services, group: Resource, image: ImageReference) -> registry.Login | None:
    if image.local:
        return None
    found = secrets_of(s, group).registries.get(image.registry.lower())
    return found and registry.Login(f"container group {group.key.name}", *found)
