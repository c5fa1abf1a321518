"""The files that a run of a container group finds on its node, and that it has a network there."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from tidemill.app.computes import isolation
from tidemill.app.rows.container_rows import secrets_of
from tidemill.app.services import Services
from tidemill.data.staging import Going, clear
from tidemill.domain.containers.model import SHARE, Secrets
from tidemill.domain.containers.plan import PlannedGroup, folder_of, volume_folder
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Attempt, Resource


async def stage(s: Services, group: PlannedGroup, attempt: Attempt, root: str, going: Going) -> None:
    """Once for each attempt; can be repeated. Raises Conflict, NotFound where a share is gone."""
    await _check_network(s, attempt)
    secrets = secrets_of(s, await row_of(s, group))
    await asyncio.to_thread(_stage, s, group, secrets, Path(root), going)


async def row_of(s: Services, group: PlannedGroup) -> Resource:
    """Raises Conflict where it is gone."""
    row = await s.store.read(lambda read: read.by_uid(group.group))
    if row is None:
        raise Conflict(f"Container group {group.spec.name!r} is not there any more.", "ContainerGroupGone")
    return row


def _stage(s: Services, group: PlannedGroup, secrets: Secrets, root: Path, going: Going) -> None:
    for one in group.spec.every:
        (root / folder_of(one.name)).mkdir(parents=True, exist_ok=True)
    for volume in group.spec.volumes:
        folder = root / volume_folder(volume.name)
        clear(folder)
        folder.mkdir(parents=True)
        for name, content in secrets.files.get(volume.name, {}).items():
            (folder / name).write_bytes(base64.b64decode(content))
        if volume.kind == SHARE:
            s.blobs.copy_out(volume.account, volume.container, volume.folder, folder, going=going)


async def _check_network(s: Services, attempt: Attempt) -> None:
    """Ports are fixed, so another group's must not be in the way. Raises Conflict."""
    node = await s.store.read(lambda read: read.node(attempt.nodes[0]))
    network = isolation.limits_of(node).get("network") if node is not None else None
    if network is None or not network.enforced:
        why = network.why_not if network is not None else "its node is gone"
        raise Conflict(f"A container group needs a network of its own: {why}", "NetworkMissing")
