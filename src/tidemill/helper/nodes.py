"""The nodes of one home, as far as that takes the rights of whoever runs their agents: making them, and
ending what they ran. Synchronous; `end_rest`, `remove` and `sandbox` can take long.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tidemill.agent import journal, protocol
from tidemill.helper import nodedir
from tidemill.helper.nodedir import NodeDir
from tidemill.sandbox import disk, processes, uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

PATIENCE_S = 3.0  # for what was killed to be gone
SIZE = ("cpu_milli", "memory", "gpus")


class NotMade(Exception):
    """The node could not be made; the text is a sentence's end for the user."""


class Nodes:
    """`home` is an absolute path without links. `binds` are paths that a job's own uid must be able to read
    although a folder above them is closed. `own_uids`, `cgroups`: whether nodes get them."""

    def __init__(
        self,
        home: Path,
        binds: Sequence[str],
        *,
        own_uids: bool = True,
        groups: bool = True,
        look_s: float = 30.0,
    ) -> None:
        self.root = home / "nodes"
        self.home_id = nodedir.home_id(home)
        self._disks = own_uids
        self._own_uids = own_uids and os.geteuid() == 0
        self._sandboxes: dict[str, dict[str, Any]] = {}
        self._fixed: dict[str, Any] = {
            "version": protocol.VERSION,
            "home_id": self.home_id,
            "cgroups": groups,
            "look_s": look_s,
            # What lies in the home belongs to the server: a link there is not followed.
            "binds": [{"path": p, "writable": False, "exact": home in Path(p).parents} for p in binds],
        }

    # --- what there is

    def names(self) -> list[str]:
        """Of every directory, those of closed nodes with something left in them included."""
        return sorted(name for name in os.listdir(self.root) if not name.startswith("."))

    def dir(self, node_id: str) -> NodeDir:
        return NodeDir(node_id, self.root / node_id)

    def config(self, node_id: str) -> dict[str, Any] | None:
        """What its agent was told; None of a node that does not exist (any more)."""
        return self.dir(node_id).config()

    def lives(self, node_id: str) -> bool:
        """Whether its agent does."""
        return self.dir(node_id).agent_pid() is not None

    def journal(self, node_id: str) -> journal.Replay:
        return self.dir(node_id).journal()

    # --- making one

    def sandbox(self, isolation: str) -> dict[str, Any]:
        """How jobs are put into a sandbox here, tried once, with a uid that they get."""
        if isolation not in self._sandboxes:
            from tidemill.sandbox import tiers

            if isolation == "plain":
                found = tiers.Sandboxing(why_not="switched off: this server runs with isolation plain")
            else:
                found = tiers.sandboxing(uids.FIRST if self._own_uids else 0)
            self._sandboxes[isolation] = found.config()
        return self._sandboxes[isolation]

    def runc(self, isolation: str) -> dict[str, Any]:
        """Where it is. Whether a container can be made with it shows on a node alone."""
        from tidemill.sandbox import tiers

        if isolation == "plain":
            return {"program": "", "why_not": "switched off: this server runs with isolation plain"}
        found = tiers.runc()
        return {"program": found, "why_not": "" if found else f"this host has no runc: {tiers.INSTALL_RUNC}"}

    def make(self, order: dict[str, Any]) -> NodeDir:
        """The directories of a new node, and what its agent is told. `order`: node, cpu_milli, memory, gpus,
        gpu_ids, host_gpus, egress, disk (bytes; 0: what there is), services (name -> port), isolation.
        Raises NotMade."""
        node = self.dir(order["node"])
        size, no_disk = 0, "switched off for this engine"
        if self._disks:
            size, no_disk = nodedir.disk_for(self.root, order["disk"])
        off = "switched off: this server runs with isolation plain" if order["isolation"] == "plain" else ""
        config = {
            **self._fixed,
            "node_id": node.node_id,
            "group_name": nodedir.group_name(self.home_id, node.node_id),
            **self._user_ids(node),
            "sandbox": self.sandbox(order["isolation"]),
            "runc": self.runc(order["isolation"]),
            "network_why": off,
            "disk": size,
            "disk_why": no_disk,
            **{name: order[name] for name in ("services", "egress", "gpu_ids", "host_gpus", *SIZE)},
        }
        try:
            node.make(config)
        except OSError as error:
            raise NotMade(f"the node's directory cannot be made: {error}") from None
        return node

    def _user_ids(self, node: NodeDir) -> dict[str, int]:
        """`uid` is the jobs' (0: the server's own), the first of the `uids` that are the node's alone."""
        if not self._own_uids:
            return {"uid": 0, "uids": 0, "relay_uid": 0}
        try:
            node.path.mkdir(exist_ok=True)  # a claim is worth nothing without it
            claimed = uids.claim(str(node.path))
        except (OSError, uids.Full) as error:
            with contextlib.suppress(OSError):
                node.path.rmdir()
            raise NotMade(f"node {node.node_id} gets no user ids of its own: {error}") from None
        return {"uid": claimed.first, "uids": claimed.count, "relay_uid": claimed.relay}

    def agent_marker(self, node_id: str) -> str:
        return processes.marker(self.home_id, node_id, "agent")

    def resized(self, node_id: str, size: dict[str, int]) -> None:
        """Its agent has other limits now: for whoever reads it after a restart."""
        node = self.dir(node_id)
        config = node.config()
        if config is not None and not size.items() <= config.items():
            node.write_config({**config, **size})

    # --- ending one

    def end_agent(self, node_id: str) -> None:
        self.dir(node_id).kill_agent()

    def end_rest(self, node_id: str, hard: bool) -> bool:
        """See `NodeDir.kill_rest`."""
        node = self.dir(node_id)
        config = node.config()
        return config is None or node.kill_rest(config, hard)

    def remove(self, node_id: str) -> None:
        self.dir(node_id).remove()

    def prune(self, node_id: str) -> None:
        self.dir(node_id).prune()

    def trim(self, node_id: str) -> None:
        """Gives the space of what was removed from its disk back to the host."""
        with contextlib.suppress(FileNotFoundError):
            disk.trim(str(self.dir(node_id).work))

    def sweep(self, known: Collection[str]) -> list[str]:
        """Groups of this home whose node directory is gone: killed and removed; half-made directories of
        nodes that are not `known`: removed. -> groups that still hold processes."""
        for name in self.names():
            path = self.root / name
            if path.is_dir() and name not in known and not (path / "agent" / "node.json").exists():
                NodeDir(name, path).remove()
        return nodedir.sweep_groups(self.root, self.home_id, PATIENCE_S)
