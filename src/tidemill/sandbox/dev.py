"""A node's own /dev, made once in the agent's view: bubblewrap's own costs each job eight mounts.

The same harmless devices that bubblewrap gives, pseudo-terminals of the node, and nothing that a job can
write to but /dev/shm, which is mounted anew for each job.
"""

from __future__ import annotations

import os
import stat

from tidemill.sandbox import linux

# Linux's Documentation/admin-guide/devices.txt: (major, minor)
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}


def make(directory: str) -> None:
    """Mounts it on `directory` (made if absent), in this process's own mount namespace. Needs root; raises
    OSError where this host does not let it: nothing is mounted then."""
    os.makedirs(directory, 0o755, exist_ok=True)
    linux.mount("tmpfs", directory, "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, "mode=0755,size=64k")
    umask = os.umask(0)
    try:
        for name, (major, minor) in _DEVICES.items():
            os.mknod(f"{directory}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        for name, target in _LINKS.items():
            os.symlink(target, f"{directory}/{name}")
        os.mkdir(f"{directory}/pts", 0o755)
        os.mkdir(f"{directory}/shm", 0o1777)  # runc gives what it mounts there the mode that it finds
        options = "newinstance,ptmxmode=0666,mode=620"
        linux.mount("devpts", f"{directory}/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, options)
    except OSError:
        linux.unmount(directory)
        raise
    finally:
        os.umask(umask)
