"""A local node's directory: what is in it, whether its agent lives, and making sure that nothing of it is
left.

nodes/<node-id>/agent/ (0700)   node.json  pid (locked while the agent lives)  sock  journal  agent.log
nodes/<node-id>/disk.img        where it can be had: the file system mounted on
nodes/<node-id>/work/.etc/      what its jobs see as /etc; .dev/ the place of their /dev
nodes/<node-id>/work/           one directory per attempt, the job's: it stays when the node is closed, until
                                what is in it has been collected
Synchronous; what can take long (`kill_rest`, `remove`, `hand_over`) is meant for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import time
from pathlib import Path

from tidemill.agent import journal
from tidemill.sandbox import cgroups, disk, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

TRIMMED = 64 << 20  # bytes of an attempt's directory whose blocks are worth handing back


class NodeDir:
    __slots__ = ("node_id", "path")

    def __init__(self, node_id: str, path: Path) -> None:
        self.node_id = node_id
        self.path = path

    @property
    def agent(self) -> Path:
        return self.path / "agent"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def image(self) -> Path:
        return self.path / "disk.img"

    def make(self, config: dict[str, Any]) -> None:
        """Directories and node.json, on disk. The node exists from here on."""
        self.agent.mkdir(parents=True, mode=0o700)
        self.work.mkdir()
        for folder in (self.path, self.work):  # jobs and their server pass through
            os.chmod(folder, 0o711)
        if config["disk"]:
            # Sparse: from here on its size is promised.
            with open(self.image, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as image:
                image.truncate(config["disk"])
        self.write_config(config)

    def write_config(self, config: dict[str, Any]) -> None:
        new = self.agent / "node.json.new"
        with open(new, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(config, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.agent / "node.json")

    def config(self) -> dict[str, Any] | None:
        """None if the node was never fully made."""
        try:
            return json.loads((self.agent / "node.json").read_text())
        except FileNotFoundError:
            return None

    def journal(self) -> journal.Replay:
        return journal.replay(str(self.agent))

    def agent_pid(self) -> int | None:
        """The living agent's pid: it holds the lock on its pid file as long as it lives."""
        try:
            fd = os.open(self.agent / "pid", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            text = os.read(fd, 32)
            return int(text) if text else 0
        finally:
            os.close(fd)

    def kill_agent(self) -> None:
        pid = self.agent_pid()
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                if self.agent_pid() == pid:  # still the same one: the pid was not reused in between
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)

    def kill_rest(self, config: dict[str, Any], hard: bool) -> bool:
        """One round of killing what an agent left. True when nothing is left: no marked process, no group.
        Shepherds (forks of the agent) end everything below them when asked; only `hard` kills them too."""
        groups = self._groups(config["group_name"])
        for directory in groups:
            cgroups.kill(directory)
        marker = processes.marker(config["home_id"], self.node_id, "")
        left = processes.marked(marker) or processes.marked(marker)  # twice: one may fork past a single look
        shepherds = set(processes.marked(processes.marker(config["home_id"], self.node_id, "agent\0")))
        processes.kill([p for p in left if hard or p not in shepherds])
        for number in (signal.SIGTERM, signal.SIGCONT):
            processes.kill(sorted(shepherds), number)
        empty = not left and not any(cgroups.populated(directory) for directory in groups)
        return empty and all(cgroups.remove(directory) for directory in groups)

    def _groups(self, name: str) -> list[str]:
        """As the agent wrote them down, and wherever else a group of that name lies (it may have died
        before)."""
        written = self.journal().node.get("groups", {}).values()
        return sorted({*written, *cgroups.named(name)})

    def remove(self) -> None:
        """All but the directories of attempts, which are nobody's to enter now but ours. The node does not
        exist any more."""
        if self.work.exists():
            os.chmod(self.work, stat.S_IMODE(os.stat(self.work).st_mode) & ~stat.S_IRWXO)
        shutil.rmtree(self.agent, onerror=_make_removable)
        for name in (".etc", ".dev"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        self.prune()

    def prune(self) -> None:
        """Removes what is left of a closed node once no attempt's directory is in it, its disk included."""
        if self.agent.exists():
            return
        with contextlib.suppress(OSError):  # gone already
            if os.listdir(self.work):
                return
            disk.detach(str(self.work))
            os.rmdir(self.work)
        self.image.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


def home_id(home: Path) -> str:
    """8 hex digits that name this home on this host: in group names and process markers."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]


def group_name(home: str, node_id: str) -> str:
    return f"tidemill-{home}-{node_id}"


def sweep_groups(root: Path, home: str, patience_s: float) -> list[str]:
    """Kills and removes the control groups of nodes that have no directory below `root` -> those that still
    hold something after `patience_s`: what was killed is in its group until the kernel has done with it."""
    prefix = group_name(home, "")
    left = [d for d in cgroups.stale(prefix) if not (root / os.path.basename(d)[len(prefix) :]).exists()]
    until = time.monotonic() + patience_s
    while True:
        for directory in left:
            cgroups.kill(directory)
        left = [directory for directory in left if not cgroups.remove(directory)]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.005)


def make_folders(directory: str, folders: Sequence[str], links: Sequence[tuple[str, str]], uid: int) -> None:
    """The directory, with `folders` and `links` (path, target) below it, for `uid` alone (0: ours). What is
    there already stays as it is: it may be a running job's. Nothing is made through a link of a job's."""
    held = {"": _own_folder(directory, None, uid)}
    try:
        for path in folders:
            parent, name = os.path.split(path)
            if held.get(parent) is not None:
                held[path] = _own_folder(name, held[parent], uid)
        for path, target in links:
            parent, name = os.path.split(path)
            if held.get(parent) is not None:
                with contextlib.suppress(FileExistsError):
                    os.symlink(target, name, dir_fd=held[parent])
    finally:
        for fd in held.values():
            if fd is not None:
                os.close(fd)


def _own_folder(name: str, parent: int | None, uid: int) -> int | None:
    """Its descriptor; None where a job has put something else."""
    made = True
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        made = False
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EACCES):
            return None
        raise
    if made and uid:
        os.fchown(fd, uid, uid)
    return fd


def hand_over(directory: str, uid: int) -> None:
    """Gives a tree to `uid`. Links are not followed and stay whose they are; a file with several names is
    left alone: one of its other names may lie outside the tree. Each is looked at and given by one
    descriptor, so nobody can put something else in its place meanwhile."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        hand_over_all_in(root, uid)
    finally:
        os.close(root)
    give(directory, uid)


def hand_over_all_in(root: int, uid: int) -> None:
    """What lies in the directory of this descriptor, not the directory itself."""
    for _, folders, files, fd in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        for name in folders + files:
            with contextlib.suppress(FileNotFoundError):
                give(name, uid, fd)


def give(name: str, uid: int, parent: int | None = None) -> None:
    """One file or folder. Raises OSError."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        info = os.fstat(fd)
        kind = stat.S_IFMT(info.st_mode)
        alone = kind == stat.S_IFREG and info.st_nlink == 1
        if info.st_uid != uid and (alone or kind == stat.S_IFDIR):
            os.chown(f"/proc/self/fd/{fd}", uid, uid)
    finally:
        os.close(fd)


def crowded(work: Path) -> bool:
    """Whether an eighth of a disk of its own is in use. Raises OSError when it is gone."""
    if os.stat(work).st_dev == os.stat(work.parent).st_dev:
        return False
    info = os.statvfs(work)
    return info.f_bavail * 8 < info.f_blocks * 7 or info.f_favail * 8 < info.f_files * 7


def remove_tree(path: str) -> bool:
    """An attempt's directory. -> whether it held so much that its space is worth giving back to the host."""
    work = os.path.dirname(path)
    before = disk.used(work) if os.path.exists(path) else 0
    shutil.rmtree(path, onerror=_make_removable)
    return bool(before) and before - disk.used(work) >= TRIMMED


def disk_for(root: Path, wanted: int) -> tuple[int, str]:
    """Size of one more node's work disk below `root`, in bytes; 0 and why there is none."""
    if os.geteuid() != 0:
        return 0, "only root may mount a disk, so the work directory lies on the host's"
    host = os.statvfs(root)
    promised = disk.promised([str(image) for image in root.glob("*/disk.img")])
    total, free = host.f_blocks * host.f_frsize, host.f_bavail * host.f_frsize
    size = disk.grant(wanted, total, free, promised)
    why = "" if size else f"the host has too little disk space left for one ({free >> 20} MiB free)"
    return size, why


def _make_removable(function: Callable[..., Any], path: str, error: Any) -> None:
    """A job may have closed its own folders; without root that stops a removal until they are opened
    again."""
    if isinstance(error[1], FileNotFoundError):
        return
    if not isinstance(error[1], PermissionError):
        raise error[1]
    os.chmod(os.path.dirname(path), 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path)
    else:
        os.unlink(path)
