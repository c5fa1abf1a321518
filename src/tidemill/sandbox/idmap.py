"""A directory seen with other owners: a mount of its own (mount_setattr(2), MOUNT_ATTR_IDMAP, Linux 5.12) on
which some ids of the disk appear as others. What is made through it is made as the ids of the disk.

Every other id of the disk has no owner there: such files can be read as others may, and not be changed.
"""

from __future__ import annotations

import os

from tidemill.sandbox import linux


def clone(directory: int, pairs: list[tuple[int, int]]) -> int:
    """A descriptor of the mount. `pairs`: (id on the disk, id it is seen as), of users and of groups alike.
    Needs root; raises OSError where the kernel or the file system cannot."""
    users = _namespace("".join(f"{disk} {seen} 1\n" for disk, seen in pairs))
    try:
        mount = linux.clone_mount(directory)
        try:
            linux.map_ids(mount, users)
        except OSError:
            os.close(mount)
            raise
        return mount
    finally:
        os.close(users)


def _namespace(mapping: str) -> int:
    """A user namespace with this mapping; it lives as long as its descriptor or a mount that uses it."""
    ready_reader, ready_writer = os.pipe()
    end_reader, end_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(end_writer)
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready_writer, b"+")
            os.read(end_reader, 1)
        finally:
            os._exit(0)
    try:
        os.close(ready_writer)
        os.close(end_reader)
        if os.read(ready_reader, 1) != b"+":
            raise PermissionError(1, "this host allows no user namespaces")
        for name in ("uid_map", "gid_map"):
            _write(f"/proc/{pid}/{name}", mapping)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_reader)
        os.close(end_writer)
        os.waitpid(pid, 0)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
