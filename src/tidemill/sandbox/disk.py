"""A node's work disk: a file system of its own in a sparse image, so that a job can fill its disk and nobody
else's.

The image is ext4. What is in it is worth nothing after a crash of the host, yet it has a journal, the
smallest there is, without barriers: without one, ext4 gives no inode out again for half a minute after its
file was removed, and looks at all of those for each new file (fs/ext4/ialloc.c, recently_deleted). The
folders of a short job then cost ten times as much after a few thousand.

The loop device passes the host's page cache by where the host's file system lets it: what a job writes is
kept in memory once, and a job that fills its disk costs its neighbours 2 % of their speed instead of 22 %
(benchmarks/neighbours.py).

A kernel mount needs root; `attach` says why where it cannot be had. The mount is made in the host's own mount
namespace, because the server collects from it after the node's processes have ended, and stays until
`detach`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct

from tidemill.sandbox import linux

SMALLEST = 16 << 20
RESERVE_SHARE, LEAST_RESERVE = 20, 1 << 30  # of the host's disk, for the server: a 20th, at least 1 GiB
FULL_BELOW = 1 << 20  # a disk with less left is full

_MKFS = ("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "has_journal,^resize_inode", "-J", "size=4", "-m", "0")
# The image is sparse: what was never written reads as zeros, so nothing has to be written or discarded.
_EXTENDED = "lazy_itable_init=1,lazy_journal_init=1,packed_meta_blocks=1,nodiscard"
_OPTIONS = "data=writeback,noinit_itable,nobarrier,errors=remount-ro"
_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"

# linux/loop.h
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _AUTOCLEAR, _DIRECT_IO = 0x4C82, 0x4C0A, 4, 16
_LOOP_CONFIG = struct.Struct("=II5Q4I64s64s32s2Q8Q")
_FITRIM, _FSTRIM_RANGE = 0xC0185879, struct.Struct("=3Q")
_WORK = re.compile(r"/nodes/[^/]+/work$")


class NotAvailable(Exception):
    """No work disk can be had here; the text says why."""


def grant(wanted: int, total: int, free: int, promised: int) -> int:
    """Bytes for one more disk. `wanted` 0: as much as may be. `promised` is what the images of other nodes
    may still take. A node gets at most half of what is left to give, so that there is some for the next one;
    0: too little is left for any."""
    left = free - promised - max(LEAST_RESERVE, total // RESERVE_SHARE)
    size = min(wanted or left, left // 2) // 4096 * 4096
    return size if size >= SMALLEST else 0


def promised(images: list[str]) -> int:
    """Bytes these sparse files may still grow by."""
    total = 0
    for image in images:
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(image)
            total += max(0, info.st_size - info.st_blocks * 512)
    return total


def attach(image: str, target: str, size: int) -> None:
    """Makes the image and mounts it on the empty directory `target`. Raises NotAvailable; nothing is left of
    it then."""
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, size)
        _format(image)
        _mount(fd, image, target)
        os.rmdir(os.path.join(target, "lost+found"))
        os.chmod(target, 0o711)
    except (OSError, NotAvailable) as error:
        detach(target)
        os.unlink(image)
        raise NotAvailable(str(error)) from None
    finally:
        os.close(fd)


def detach(target: str) -> None:
    """Takes the mount away, if there is one: out of sight at once, gone with its last user."""
    try:
        linux.unmount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT, errno.EPERM):  # no mount; absent; not root: ours
            raise


def hide_others(own: set[str]) -> None:
    """In a mount namespace of this process's own: lets go of the work disks of other nodes, which would
    otherwise be held for as long as it lives."""
    with open("/proc/self/mountinfo") as file:
        lines = file.read().splitlines()
    for line in lines:
        left, _, right = line.partition(" - ")
        where = left.split(" ")[4].encode().decode("unicode_escape")
        if right.startswith("ext4 /dev/loop") and _WORK.search(where) and where not in own:
            detach(where)


def fullness(directory: int) -> tuple[int, int] | None:
    """(bytes used, bytes there are) of a file system that is full, of blocks or of inodes; else None."""
    info = os.fstatvfs(directory)
    if info.f_bavail * info.f_frsize >= FULL_BELOW and (info.f_favail or not info.f_files):
        return None
    return (info.f_blocks - info.f_bfree) * info.f_frsize, info.f_blocks * info.f_frsize


def used(path: str) -> int:
    info = os.statvfs(path)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


def trim(path: str) -> None:
    """Gives the space of removed files back to the host. Where the file system cannot, nothing happens."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FITRIM, _FSTRIM_RANGE.pack(0, (1 << 64) - 1, 0))
    except OSError:
        pass
    finally:
        os.close(fd)


def _format(image: str) -> None:
    program = next((p for folder in _PATH.split(":") if os.path.exists(p := f"{folder}/{_MKFS[0]}")), None)
    if program is None:
        raise NotAvailable("mkfs.ext4 is not installed (Debian: e2fsprogs)")
    reader, writer = os.pipe()
    try:
        streams = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, writer, 2)]
        argv = [*_MKFS, "-E", _EXTENDED, image]
        pid = os.posix_spawn(program, argv, {"PATH": _PATH}, file_actions=streams)
        os.close(writer)
        writer = -1
        said = os.read(reader, 4096).decode(errors="replace").strip()
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            raise NotAvailable(f"mkfs.ext4 failed: {said}")
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _mount(image: int, name: str, target: str) -> None:
    """Through a loop device that goes with its last user."""
    shown = os.fsencode(name)[-63:]
    config = _LOOP_CONFIG.pack(image, 4096, *[0] * 8, _AUTOCLEAR | _DIRECT_IO, shown, b"", b"", *[0] * 10)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        device, path = _free_device(control, config)
    finally:
        os.close(control)
    try:
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOATIME
        linux.mount(path, target, "ext4", flags, _OPTIONS)
    finally:
        os.close(device)


def _free_device(control: int, config: bytes) -> tuple[int, str]:
    while True:
        path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            return device, path
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:  # another process was quicker: the next one
                raise
