"""Tasks in containers of runc, as the agent sees them.

For each start there is a bundle, with the task's environment in it, in a small file system that is mounted in
the agent's own view alone, over a folder of root's, which nobody else can replace: it is gone with the agent
and what it ran, however they end. runc is started like any other task, in the node's groups and network, but
as root. It makes the container and goes (`run --detach`); the container's init, our own
(`sandbox.init.contained`), is the agent's child then. runc's `delete` is not needed: what it would remove is
removed here.

runc mounts with root's rights, and follows links. So what the container is shown is opened here, with the
rights of the job's user, below the node's work directory without a link at any step; runc is given mounts of
what was opened. So a job or a server gains nothing by a link where a folder was.

Where control groups are v1, runc would make groups of its own in every hierarchy, and neither count nor be
counted as the node is. So in the view that it is started in there is one hierarchy, that of devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import stat

from tidemill.agent import boxed
from tidemill.agent.files import found_without_links
from tidemill.agent.spawn import Failed
from tidemill.sandbox import cgroups, init, linux, oci, processes, seccomp, shown, uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from tidemill.agent.boxed import Box
    from tidemill.agent.spawn import Order
    from tidemill.sandbox.cgroups import Groups
    from tidemill.sandbox.shown import Entry

NAME = "runc"
FOLDER = uids.REGISTRY  # where the file system is mounted: the agent needs nothing that lies there
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
        # In the agent's view: of a mount of another one no clone can be had.
        self._work = os.open(work_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._work_path = work_path
        self._uid = uid
        self._box = box
        self._name: str = config["group_name"]
        self._view = -1  # a mount namespace that runc is started in, once there is one
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
        os.makedirs(f"{bundle}/sources", 0o700)
        entries = self._opened(order, f"{bundle}/sources", self._box.entries(job))
        _make_root(f"{bundle}/rootfs", entries)
        container = oci.Container(
            boxed.found(order, job.rootfs),
            order.env,
            job.cwd,
            entries,
            self._uid,
            self._node,
            f"{FOLDER}/init",
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

    def _opened(self, order: Order, folder: str, entries: list[Entry]) -> list[Entry]:
        """The same, but for sources of binds: those are mounts below `folder`, which the order makes. Raises
        Failed."""
        made: list[Entry] = []
        for kind, source, target in entries:
            if kind in (shown.LINK, shown.FOLDER, shown.FRESH):
                made.append((kind, source, target))
                continue
            try:
                found = self._open(source)
            except FileNotFoundError:
                if kind == shown.READ_IF_THERE:
                    continue
                raise Failed(f"could not show {source!r}: it is not there") from None
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise Failed(f"could not show {source!r}: {why}") from None
            try:
                place = f"{folder}/{len(order.mounts)}"
                if stat.S_ISDIR(os.fstat(found).st_mode):
                    os.mkdir(place)
                else:
                    os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
                order.mounts.append((linux.clone_mount(found, recursive=True), place))
            finally:
                os.close(found)
            made.append((kind, place, target))
        return made

    def _open(self, path: str) -> int:
        """With the rights of the job's user. The real id stays root's: nobody of that user may signal us."""
        os.setegid(self._uid)
        os.seteuid(self._uid)
        try:
            path = os.path.normpath(path)
            if path.startswith(f"{self._work_path}/"):
                return found_without_links(self._work, path[len(self._work_path) + 1 :])
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        finally:
            os.seteuid(0)
            os.setegid(0)

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
        for path in (self._bundle(name), f"{FOLDER}/state/{name}"):
            _remove(path)
        return True

    def close(self) -> bool:
        """With the node. False: something still lives in its group."""
        return not self._devices or cgroups.remove(self._devices)

    def _bundle(self, name: str) -> str:
        return f"{FOLDER}/bundles/{name}"

    def _command(self, name: str, bundle: str) -> list[str]:
        return [
            *(self._program, "--root", f"{FOLDER}/state"),
            *("--log", f"{bundle}/log", "--log-format", "json"),
            *("run", "--detach", "--pid-file", f"{bundle}/pid", "--bundle", bundle),
            *("--preserve-fds", "1", name),
        ]

    def _prepare(self) -> None:
        """With the first container: few nodes have any."""
        if self._view >= 0:
            return
        os.makedirs(FOLDER, 0o700, exist_ok=True)
        if not os.path.ismount(FOLDER):
            linux.mount("tmpfs", FOLDER, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, _ROOM)
        machine = os.uname().machine
        with open(f"{FOLDER}/init", "wb") as file:
            file.write(init.contained(machine, seccomp.program(machine)))
        os.chmod(f"{FOLDER}/init", 0o555)
        self._view = _view(self._unified)


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


def _view(unified: bool) -> int:
    """A mount namespace like ours; where control groups are not `unified`, there is no hierarchy in it but
    that of devices. Raises OSError."""
    ready, says = os.pipe()
    waits, ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ends)
        _make_view(says, waits, unified)
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


def _make_view(says: int, waits: int, unified: bool) -> NoReturn:
    try:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
        if not unified:
            _keep_devices(cgroups.hierarchies()["devices"].top)
        os.write(says, b"ready")
        os.close(says)
        os.read(waits, 1)
    except OSError as error:
        os.write(says, f"the view for runc could not be made: {error}".encode()[:1000])
    finally:
        os._exit(0)


def _keep_devices(top: str) -> None:
    directory = os.open(top, os.O_PATH)
    devices = linux.clone_mount(directory)
    os.close(directory)
    linux.unmount(_GROUPS)
    linux.mount("tmpfs", _GROUPS, "tmpfs", 0, "mode=0755,size=64k")
    os.mkdir(top)
    linux.move_mount(devices, top)
