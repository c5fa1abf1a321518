"""What the helper does for the server of its home."""

from __future__ import annotations

import os
import socket

from tidemill.helper import door, forks
from tidemill.helper.builds import Builds
from tidemill.helper.door import Caller, Refused
from tidemill.helper.nodes import Nodes, NotMade
from tidemill.helper.show import show
from tidemill.sandbox import uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Answer = tuple[dict[str, Any], list[int]]

ISOLATION = ("auto", "full", "plain")


class Verbs:
    """`user`: the server's uid. `ending` is set by the verb `leave`."""

    def __init__(self, nodes: Nodes, builds: Builds, user: int) -> None:
        self._nodes = nodes
        self._builds = builds
        self._user = user
        self.ending = False
        self._verbs: dict[str, Callable[[dict[str, Any], Caller], Answer]] = {
            "names": self._names,
            "config": self._config,
            "lives": self._lives,
            "journal": self._journal,
            "open": self._open,
            "connect": self._connect,
            "show": self._show,
            "resized": self._resized,
            "end_agent": self._end_agent,
            "end_rest": self._end_rest,
            "remove": self._remove,
            "prune": self._prune,
            "trim": self._trim,
            "sweep": self._sweep,
            "build": self._build,
            "end_build": self._end_build,
            "leave": self._leave,
        }

    def carry_out(self, request: dict[str, Any], caller: Caller) -> Answer:
        """Raises Refused, or OSError with what the host refused."""
        verb = request.pop("verb", None)
        found = self._verbs.get(verb) if isinstance(verb, str) else None
        if found is None:
            raise Refused("there is no such verb")
        return found(request, caller)

    def _names(self, request: dict[str, Any], caller: Caller) -> Answer:
        door.exactly(request)
        return {"names": self._nodes.names()}, []

    def _config(self, request: dict[str, Any], caller: Caller) -> Answer:
        return {"config": self._nodes.config(_only_node(request))}, []

    def _lives(self, request: dict[str, Any], caller: Caller) -> Answer:
        return {"lives": self._nodes.lives(_only_node(request))}, []

    def _journal(self, request: dict[str, Any], caller: Caller) -> Answer:
        """A descriptor to read; none where there is no journal."""
        path = self._nodes.dir(_only_node(request)).agent / "journal"
        try:
            return {}, [os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)]
        except FileNotFoundError:
            return {}, []

    def _open(self, request: dict[str, Any], caller: Caller) -> Answer:
        """A new node. Its agent's word comes from the descriptor."""
        order = _order(request)
        if (self._nodes.root / order["node"]).exists():
            raise Refused(f"node {order['node']} exists")
        try:
            node = self._nodes.make(order)
        except NotMade as error:
            raise Refused(str(error)) from None
        log = os.open(node.agent / "agent.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return {}, [forks.start_agent(str(node.path), self._nodes.agent_marker(node.node_id), log)]
        finally:
            os.close(log)

    def _connect(self, request: dict[str, Any], caller: Caller) -> Answer:
        """A connection to the node's agent; the caller sees the node's files from here on."""
        node = self._nodes.dir(_only_node(request))
        show(node.work, uids.claimed(str(node.path)), self._user, caller)
        directory = os.open(node.agent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            try:
                link.setblocking(False)  # on a Unix socket connecting never waits
                link.connect(f"/proc/self/fd/{directory}/sock")
            finally:
                os.close(directory)
            return {}, [link.detach()]

    def _show(self, request: dict[str, Any], caller: Caller) -> Answer:
        node = self._nodes.dir(_only_node(request))
        if node.work.exists():
            show(node.work, uids.claimed(str(node.path)), self._user, caller)
        return {}, []

    def _resized(self, request: dict[str, Any], caller: Caller) -> Answer:
        door.exactly(request, "node", "cpu_milli", "memory", "gpus")
        size = {name: door.number(request[name]) for name in ("cpu_milli", "memory", "gpus")}
        self._nodes.resized(door.node_id(request["node"]), size)
        return {}, []

    def _end_agent(self, request: dict[str, Any], caller: Caller) -> Answer:
        self._nodes.end_agent(_only_node(request))
        return {}, []

    def _end_rest(self, request: dict[str, Any], caller: Caller) -> Answer:
        door.exactly(request, "node", "hard")
        gone = self._nodes.end_rest(door.node_id(request["node"]), door.flag(request["hard"]))
        return {"gone": gone}, []

    def _remove(self, request: dict[str, Any], caller: Caller) -> Answer:
        node = _only_node(request)
        if self._nodes.config(node) is not None and not self._nodes.end_rest(node, hard=False):
            raise Refused(f"node {node} still has processes")
        self._nodes.remove(node)
        return {}, []

    def _prune(self, request: dict[str, Any], caller: Caller) -> Answer:
        self._nodes.prune(_only_node(request))
        return {}, []

    def _trim(self, request: dict[str, Any], caller: Caller) -> Answer:
        self._nodes.trim(_only_node(request))
        return {}, []

    def _sweep(self, request: dict[str, Any], caller: Caller) -> Answer:
        door.exactly(request, "known")
        return {"left": self._nodes.sweep(door.names(request["known"], 4096))}, []

    def _build(self, request: dict[str, Any], caller: Caller) -> Answer:
        """A tool in the box of a build. What it says, and then how it ended, comes from the descriptors."""
        names = ("argv", "env", "egress", "own", "memory", "builds", "keeps", "most_bytes")
        door.exactly(request, "place", "name", "image", *names)
        order = {
            "argv": door.words(request["argv"]),
            "env": door.environment(request["env"]),
            "egress": door.text(request["egress"], 8192),
            "own": door.hosts(request["own"]),
            "memory": door.number(request["memory"], 1),
            "builds": door.flag(request["builds"]),
            "keeps": door.flag(request["keeps"]),
            "most_bytes": door.number(request["most_bytes"]),
        }
        image = door.names([request["image"]], 1)[0] if request["image"] else ""
        where = door.text(request["place"], 20), door.text(request["name"], 120)
        return {}, self._builds.run(*where, image, order)

    def _end_build(self, request: dict[str, Any], caller: Caller) -> Answer:
        door.exactly(request, "place", "name")
        return {}, self._builds.end(door.text(request["place"], 20), door.text(request["name"], 120))

    def _leave(self, request: dict[str, Any], caller: Caller) -> Answer:
        """The server ends; the next start of the home brings another helper."""
        door.exactly(request)
        self.ending = True
        return {}, []


def _only_node(request: dict[str, Any]) -> str:
    door.exactly(request, "node")
    return door.node_id(request["node"])


def _order(request: dict[str, Any]) -> dict[str, Any]:
    """What `Nodes.make` takes."""
    numbers = ("cpu_milli", "memory", "gpus", "host_gpus", "disk")
    door.exactly(request, "node", "gpu_ids", "egress", "services", "isolation", *numbers)
    if request["isolation"] not in ISOLATION:
        raise Refused(f"isolation is one of {', '.join(ISOLATION)}")
    return {
        "node": door.node_id(request["node"]),
        "gpu_ids": door.names(request["gpu_ids"], 64),
        "egress": door.text(request["egress"], 8192),
        "services": door.ports(request["services"]),
        "isolation": request["isolation"],
        **{name: door.number(request[name]) for name in numbers},
    }
