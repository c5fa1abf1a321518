"""What every task of a node is given."""

from __future__ import annotations

import os
import pwd

from tidemill.sandbox import etc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tidemill.agent.boxed import Box
    from tidemill.agent.contained import Runc
    from tidemill.agent.network import Network
    from tidemill.sandbox.cgroups import Groups


class Place:
    """What every task of this node is given. `work` is a descriptor of the work directory `work_path`;
    `marker` the prefix of its processes' marker ("<home id>/<node id>/"); `uid` 0 keeps the agent's own
    user; `box` its sandbox; `runc` makes containers, where asked; `network` its own (None: the host's)."""

    __slots__ = (
        "box", "groups", "marker", "memory", "network", "node_id", "runc", "uid", "user", "work", "work_path",
    )  # fmt: skip

    def __init__(
        self,
        node_id: str,
        marker: str,
        work: int,
        work_path: str,
        groups: Groups,
        uid: int,
        memory: int,
        box: Box,
        runc: Runc,
        network: Network | None,
    ) -> None:
        self.box = box
        self.runc = runc
        self.network = network
        self.node_id = node_id
        self.marker = marker
        self.work = work
        self.work_path = work_path
        self.groups = groups
        self.uid = uid
        self.user = etc.USER if uid or (box.made and os.getuid()) else _own_name()
        self.memory = memory


def _own_name() -> str:
    """Of the user that this agent runs as."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return etc.USER
