"""Tasks in containers of runc, as the agent sees them.

For each start there is a bundle, with the task's environment in it, in a small file system of root's that is
mounted in the agent's own view alone: it is gone with the agent and what it ran, however they end. runc is
started like any other task, in the node's groups and network, but as root. It makes the container and goes
(`run --detach`); the container's init, our own (`sandbox.init.contained`), is the agent's child then. runc's
`delete` is not needed: what it would remove is removed here.

Where control groups are v1, runc would make groups of its own in every hierarchy, and neither count nor be
counted as the node is. So it is started in a view in which there is one hierarchy, that of devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource

from tidemill.agent import boxed
from tidemill.sandbox import cgroups, init, linux, oci, processes, seccomp, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from tidemill.agent.boxed import Box
    from tidemill.agent.spawn import Order
    from tidemill.sandbox.cgroups import Groups
    from tidemill.sandbox.shown import Entry

NAME = "runc"
FOLDER = ".runc"  # below the node's work directory, where it is mounted
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ROOM = "mode=0700,size=64m,nr_inodes=65536"
_GROUPS = "/sys/fs/cgroup"  # where runc looks for them
_LIMITS = ("RLIMIT_CORE", "RLIMIT_NOFILE")  # runc changes its own


class Runc:
    """One node's. `why_not` says why there are no containers here, or ""."""

    def __init__(self, config: dict[str, Any], work_path: str, groups: Groups, uid: int, box: Box) -> None:
        given: dict[str, Any] = config.get("runc") or {
            "program": "",
            "why_not": "its server is of an earlier version",
        }
        self._program: str = given["program"]
        self._node: str = config["node_id"]
        self._folder = f"{work_path}/{FOLDER}"
        self._uid = uid
        self._box = box
        self._name: str = config["group_name"]
        self._view = -1  # a mount namespace that runc is started in; -1: the agent's own
        self._made = False
        self._devices = ""  # the control groups that runc makes its own below
        self._unified = False
        self.why_not = given["why_not"] or self._missing(groups)

    def _missing(self, groups: Groups) -> str:
        found = cgroups.hierarchies()
        self._unified = "v2" in found and found["v2"].top == _GROUPS
        if not self._uid:
            return "jobs have no user of their own here, and runc needs a server that root started"
        if not groups.kill:
            return "this node has no control groups"
        if self._box.lacking:
            return f"a container is shown what the sandbox shows, which lacks {self._box.lacking}"
        if self._unified:
            return ""
        if "devices" not in found or not found["devices"].top.startswith(f"{_GROUPS}/"):
            return f"this host mounts no cgroup hierarchy with the devices controller below {_GROUPS}"
        self._devices = os.path.join(found["devices"].own, self._name)
        return ""

    def put(self, order: Order, name: str, directory: str, spec: dict[str, Any]) -> int:
        """Makes the order one of runc, for a container called `name`. Returns where its init will say how the
        job ended. Raises OSError; what was made by then goes by `remove`."""
        self._prepare()
        bundle = self._bundle(name)
        job = self._box.job(order.cwd, directory, spec)
        entries = [e for e in self._box.entries(job) if e[0] != shown.READ_IF_THERE or os.path.exists(e[1])]
        _make_root(f"{bundle}/rootfs", entries)
        container = oci.Container(
            boxed.found(order, job.rootfs),
            order.env,
            job.cwd,
            entries,
            self._uid,
            self._node,
            f"{self._folder}/init",
            f"{name}/box" if self._unified else f"{self._name}/{name}",
            [(name, *resource.getrlimit(getattr(resource, name))) for name in _LIMITS],
        )
        with open(f"{bundle}/config.json", "w") as file:
            json.dump(oci.config(container), file)
        order.argv = self._command(name, bundle)
        order.env = {"PATH": _PATH, processes.VARIABLE: order.env[processes.VARIABLE]}
        order.uid, order.cwd, order.view = 0, "/", self._view
        order.handed[init.CONTAINED_SAID_FD] = said = boxed.high(os.memfd_create("said"))
        return said

    def started(self, name: str) -> int:
        """The pid of a container's init, once runc has ended with 0."""
        with open(f"{self._bundle(name)}/pid") as file:
            return int(file.read())

    def failure(self, name: str) -> str:
        """What runc said at last of a container that it did not start, or ""."""
        with contextlib.suppress(OSError, ValueError, KeyError), open(f"{self._bundle(name)}/log") as file:
            lines = [json.loads(line) for line in file]
            told = (str(line["msg"]) for line in reversed(lines) if line["level"] in ("error", "fatal"))
            return next(told, "")
        return ""

    def remove(self, name: str) -> bool:
        """What is left of a container whose processes are gone. False: its group is still in use."""
        if self._devices and not cgroups.remove(f"{self._devices}/{name}"):
            return False
        for path in (self._bundle(name), f"{self._folder}/state/{name}"):
            _remove(path)
        return True

    def close(self) -> bool:
        """With the node. False: something still lives in its group."""
        return not self._devices or cgroups.remove(self._devices)

    def _bundle(self, name: str) -> str:
        return f"{self._folder}/bundles/{name}"

    def _command(self, name: str, bundle: str) -> list[str]:
        return [
            *(self._program, "--root", f"{self._folder}/state"),
            *("--log", f"{bundle}/log", "--log-format", "json"),
            *("run", "--detach", "--pid-file", f"{bundle}/pid", "--bundle", bundle),
            *("--preserve-fds", "1", name),
        ]

    def _prepare(self) -> None:
        """With the first container: few nodes have any."""
        if self._made:
            return
        os.makedirs(self._folder, 0o700, exist_ok=True)
        if not os.path.ismount(self._folder):
            linux.mount("tmpfs", self._folder, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, _ROOM)
        machine = os.uname().machine
        with open(f"{self._folder}/init", "wb") as file:
            file.write(init.contained(machine, seccomp.program(machine)))
        os.chmod(f"{self._folder}/init", 0o555)
        if not self._unified:
            self._view = _view()
        self._made = True


def _make_root(rootfs: str, entries: list[Entry]) -> None:
    """What everybody in the container can see: the file system that it lies in is root's alone."""
    folders, links = oci.beforehand(entries)
    umask = os.umask(0o022)
    try:
        for folder in ["", *folders]:
            os.makedirs(f"{rootfs}{folder}", exist_ok=True)
        for leads_to, place in links:
            os.symlink(leads_to, f"{rootfs}{place}")
    finally:
        os.umask(umask)


def _remove(tree: str) -> None:
    """A folder of ours, if it is there."""
    for folder, folders, files in os.walk(tree, topdown=False):
        for name in files:
            os.unlink(f"{folder}/{name}")
        for name in folders:
            path = f"{folder}/{name}"
            if os.path.islink(path):
                os.unlink(path)
            else:
                os.rmdir(path)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(tree)


def _view() -> int:
    """A mount namespace like ours, in which there is no hierarchy of control groups but that of devices.
    Raises OSError."""
    ready, says = os.pipe()
    waits, ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ends)
        _make_view(says, waits)
    try:
        os.close(says)
        os.close(waits)
        said = os.read(ready, 1000)
        if said != b"ready":
            raise OSError(0, said.decode(errors="replace") or "the view for runc could not be made")
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(ends)
        os.waitpid(pid, 0)


def _make_view(says: int, waits: int) -> NoReturn:
    try:
        top = cgroups.hierarchies()["devices"].top
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
        directory = os.open(top, os.O_PATH)
        devices = linux.clone_mount(directory)
        os.close(directory)
        linux.unmount(_GROUPS)
        linux.mount("tmpfs", _GROUPS, "tmpfs", 0, "mode=0755,size=64k")
        os.mkdir(top)
        linux.move_mount(devices, top)
        os.write(says, b"ready")
        os.close(says)
        os.read(waits, 1)
    except OSError as error:
        os.write(says, f"the view for runc could not be made: {error}".encode()[:1000])
    finally:
        os._exit(0)
