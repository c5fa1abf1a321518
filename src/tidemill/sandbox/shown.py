"""What a task is shown of the files, as a list of entries in the order in which they are made.

/usr and its links, a small /etc (`sandbox.etc`), a new /tmp, its own directory, and what it was given to
read; or, in place of the first two, the root of an unpacked image. bubblewrap (`sandbox.bwrap`) and runc
(`sandbox.oci`) are told the same.
"""

from __future__ import annotations

import os

from tidemill.sandbox import etc

# Kinds of entries. A bind has a source and a target, a link what it leads to and its place; the others have
# a target alone. What is absent is left out of READ_IF_THERE.
READ, READ_IF_THERE, WRITE, DEVICE = "read", "read if there", "write", "device"
LINK, FOLDER, FRESH = "link", "folder", "fresh"
Entry = tuple[str, str, str]  # kind, source, target

SYSTEM = "/sys/devices/system"  # how many processors and memory nodes: MPI and BLAS libraries look there
_OWN = ("proc", "dev", "tmp", "sys", "run", "boot", "lost+found")  # of an image: never shown
_TREE = ("bin", "lib", "lib64", "include", "share")  # of a Python, where its prefix holds more than itself
_GPU_SYSTEM = ("/sys/devices", "/sys/bus/pci", "/sys/module/nvidia")
_GPU_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")


class Job:
    """What one task is shown. `directory` is its own, writable; `read_only` paths are bound at the same
    place, those below `directory` over it; `rootfs` "" is the host's minimal view; `devices` are files in
    /dev; `writable` are folders besides its own; `shown_at` are (source, target) of what lies below its
    directory and is shown somewhere else, too, read-only; `writable_at` the same, to be written to."""

    __slots__ = ("cwd", "devices", "directory", "read_only", "rootfs", "shown_at", "writable", "writable_at")

    def __init__(
        self,
        directory: str,
        cwd: str,
        rootfs: str = "",
        read_only: list[str] | None = None,
        devices: list[str] | None = None,
        writable: list[str] | None = None,
        shown_at: list[tuple[str, str]] | None = None,
        writable_at: list[tuple[str, str]] | None = None,
    ) -> None:
        self.directory = directory
        self.shown_at = shown_at or []
        self.writable_at = writable_at or []
        self.cwd = cwd
        self.rootfs = rootfs
        self.read_only = read_only or []
        self.devices = devices or []
        self.writable = writable or []


def host_root(etc_folder: str, whole: bool) -> list[Entry]:
    """The host's programs, and the node's /etc; where that is not `whole`, the host's folders are bound over
    their places in it."""
    made: list[Entry] = [(READ, "/usr", "/usr")]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        made += _shown(f"/{name}", f"/{name}")
    made += [(FOLDER, "", "/var"), (LINK, "/tmp", "/var/tmp"), (READ, etc_folder, "/etc")]
    return made + [(READ, f"/etc/{name}", f"/etc/{name}") for name in ([] if whole else etc.folders())]


def image_root(job: Job, etc_folder: str) -> list[Entry]:
    """The image's top level, entry by entry; folders that something is to be bound into are opened further,
    because a mount point can be made on none of what is read-only. Of /etc, the files that tell of the
    node's names and its network lie over the image's own."""
    rootfs = job.rootfs
    targets = [target for _, target in (*job.shown_at, *job.writable_at)]
    wanted = [job.directory, *job.writable, *job.read_only, *targets]
    made = _opened(rootfs, "", [path for path in wanted if not path.startswith(rootfs)], _OWN)
    if os.path.isdir(f"{rootfs}/var/tmp") and not os.path.islink(f"{rootfs}/var"):
        made.append((FRESH, "", "/var/tmp"))
    made.append((FOLDER, "", "/run"))
    return made + _names_of_host(rootfs, etc_folder)


def fresh() -> list[Entry]:
    return [(FRESH, "", "/tmp"), (READ, SYSTEM, SYSTEM)]


def devices(given: list[str]) -> list[Entry]:
    """Of GPUs, and what their libraries look at."""
    if not given:
        return []
    made: list[Entry] = [(READ_IF_THERE, path, path) for path in _GPU_SYSTEM]
    return made + [(DEVICE, p, p) for p in [*given, *(p for p in _GPU_CONTROL if os.path.exists(p))]]


def files(job: Job) -> list[Entry]:
    """Its own directory, and what it may read; outer ones first, so that none hides another."""
    below = f"{job.directory}/"
    reads = {path for given in job.read_only for path in _narrow(os.path.normpath(given), job.directory)}
    hidden = () if job.rootfs else ("/usr/",)
    outside = [p for p in reads if not p.startswith(below) and not p.startswith(hidden) and p != "/usr"]
    made: list[Entry] = []
    for path in sorted(outside, key=lambda p: (p.count("/"), p)):
        made.append((READ_IF_THERE, path, path))
    for path in [*job.writable, job.directory]:
        made.append((WRITE, path, path))
    for path in sorted(path for path in reads if path.startswith(below)):
        made.append((READ_IF_THERE, path, path))
    for source, target in job.shown_at:
        made.append((READ, source, target))
    for source, target in job.writable_at:
        made.append((WRITE, source, target))
    return made


def _shown(source: str, target: str) -> list[Entry]:
    """A link as a link, a folder or file read-only, nothing as nothing."""
    if os.path.islink(source):
        return [(LINK, os.readlink(source), target)]
    return [(READ, source, target)] if os.path.exists(source) else []


def _names_of_host(rootfs: str, etc_folder: str) -> list[Entry]:
    made: list[Entry] = []
    if os.path.islink(f"{rootfs}/etc"):  # it would be mounted wherever that leads
        return made
    for name in ("hosts", "resolv.conf", "hostname"):
        place = f"{rootfs}/etc/{name}"
        if os.path.isfile(place) and not os.path.islink(place) and os.path.isfile(f"{etc_folder}/{name}"):
            made.append((READ, f"{etc_folder}/{name}", f"/etc/{name}"))
    return made


def _opened(rootfs: str, folder: str, wanted: list[str], but: tuple[str, ...] = ()) -> list[Entry]:
    made: list[Entry] = []
    for name in sorted(os.listdir(f"{rootfs}{folder}")):
        here = f"{folder}/{name}"
        source = f"{rootfs}{here}"
        if name in but:
            continue
        inside = [path for path in wanted if path.startswith(f"{here}/")]
        if inside:
            # Not through a link of the image's: while bubblewrap mounts, that could lead to the host's files.
            made.append((FOLDER, "", here))
            if os.path.isdir(source) and not os.path.islink(source):
                made += _opened(rootfs, here, inside)
        elif here not in wanted:
            made += _shown(source, here)
    return made


def _narrow(path: str, directory: str) -> list[str]:
    """A tree that the job's own directory lies in would show it the whole home: of such a tree, only what a
    Python needs."""
    if not f"{directory}/".startswith(f"{path.rstrip('/')}/"):
        return [path]
    return [f"{path.rstrip('/')}/{name}" for name in _TREE]
