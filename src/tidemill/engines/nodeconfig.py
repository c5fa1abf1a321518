"""What the agent of a new node is told (node.json): its size, its user, its sandbox, its disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidemill.agent import protocol
from tidemill.engines import nodedir, words
from tidemill.engines.base import EngineError, HostCapacity, NodeSpec
from tidemill.sandbox import tiers, uids


class NodeConfigs:
    """Makes them for one engine, whose arguments these are. The host is asked once for its sandbox, when the
    first node is opened."""

    def __init__(
        self,
        home_id: str,
        root: Path,
        *,
        binds: Sequence[Path],
        own_uids: bool,
        cgroups: bool,
        isolation: str,
        look_s: float,
        services: Mapping[str, int],
    ) -> None:
        self._home_id = home_id
        self._root = root
        self._own_disks = own_uids
        self._own_uids = own_uids and os.geteuid() == 0
        self._isolation = isolation
        self._found: asyncio.Task[tiers.Sandboxing] | None = None
        self._fixed: dict[str, Any] = {
            "version": protocol.VERSION,
            "home_id": home_id,
            "cgroups": cgroups,
            "look_s": look_s,
            "services": dict(services),
            "network_why": "switched off: this server runs with isolation plain"
            if isolation == "plain"
            else "",
            "binds": [{"path": str(bind.absolute()), "writable": False} for bind in binds],
        }

    async def sandbox(self) -> dict[str, Any]:
        """How jobs are put into a sandbox here, tried with a uid that they get."""
        if self._isolation == "plain":
            return tiers.Sandboxing(why_not="switched off: this server runs with isolation plain").config()
        if self._found is None:
            uid = uids.FIRST if self._own_uids else 0
            self._found = asyncio.create_task(asyncio.to_thread(tiers.sandboxing, uid))
        return (await asyncio.shield(self._found)).config()

    def make(self, spec: NodeSpec, host: HostCapacity, sandbox: dict[str, Any]) -> dict[str, Any]:
        """Raises EngineError where no user ids can be had."""
        size, no_disk = 0, "switched off for this engine"
        if self._own_disks:
            size, no_disk = nodedir.disk_for(self._root, spec.disk)
        return {
            **self._fixed,
            "node_id": spec.node_id,
            "group_name": nodedir.group_name(self._home_id, spec.node_id),
            **self._user_ids(spec.node_id),
            "sandbox": sandbox,
            "egress": spec.egress,
            "disk": size,
            "disk_why": no_disk,
            "gpu_ids": list(spec.gpu_ids),
            "host_gpus": len(host.gpu_ids),
            **words.size(spec.granted),
        }

    def _user_ids(self, node_id: str) -> dict[str, int]:
        """`uid` is the jobs' (0: the server's own), the first of the `uids` that are the node's alone."""
        if not self._own_uids:
            return {"uid": 0, "uids": 0, "relay_uid": 0}
        directory = self._root / node_id
        try:
            directory.mkdir(exist_ok=True)  # a claim is worth nothing without it
            claimed = uids.claim(str(directory))
        except (OSError, uids.Full) as error:
            with contextlib.suppress(OSError):
                directory.rmdir()
            raise EngineError(f"node {node_id} gets no user ids of its own: {error}") from None
        return {"uid": claimed.first, "uids": claimed.count, "relay_uid": claimed.relay}
