"""From a task to the bubblewrap command line that runs it: an explicit, minimal view of the files.

What a job sees: /usr and its links, a small /etc (`sandbox.etc`), new /proc, /dev and /tmp, its own
directory, and what it was given to read; or, in place of the first two, the root of an unpacked image.
Namespaces of its own for users, processes, IPC and host name; no capability; no new privileges; `seccomp`.

Two things bubblewrap does not do: the init of the job's PID namespace is hidden (an empty folder lies over
/proc/1, since /proc/1/mem would let a job write into it), and the filter refuses to trace it.
"""

from __future__ import annotations

import os

from tidemill.sandbox import etc, init

FILTER_FD = 3  # where the seccomp program is handed over
_NAMESPACES = (
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--cap-drop",
    "ALL",
    "--new-session",
    "--die-with-parent",
)
# For a Dockerfile's build. No cgroup namespace: of its own it could mount the control groups, which hold it.
_BUILD = (
    *("--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    *("--cap-add", "ALL", "--new-session", "--die-with-parent"),
)
_OWN = ("proc", "dev", "tmp", "sys", "run", "boot", "lost+found")  # of an image: never shown
_TREE = ("bin", "lib", "lib64", "include", "share")  # of a Python, where its prefix holds more than itself
_SYSTEM = "/sys/devices/system"  # how many processors and memory nodes: MPI and BLAS libraries look there
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


class Sandbox:
    """One node's: `program` is bubblewrap, `options` those of its options that not every version has, `etc`
    the folder that `sandbox.etc` made, `hostname` what the job is told."""

    __slots__ = ("_dev", "_etc", "_host", "_init", "_start")

    def __init__(self, program: str, options: list[str], etc_folder: str, hostname: str) -> None:
        self._start = [program, *_NAMESPACES, *options, "--hostname", hostname[:64]]
        self._start += ["--seccomp", str(FILTER_FD)]
        self._etc = etc_folder
        self._host = _host_root() + self._etc_over()
        self._dev = ["--dev", "/dev"]
        self._init: list[str] = []

    def etc_is_whole(self) -> None:
        """The host's folders lie in the node's /etc already: one mount for each job instead of one for each
        folder, every one of which makes bubblewrap read the whole table of mounts."""
        self._host = [*_host_root(), "--ro-bind", self._etc, "/etc"]

    def dev_is_made(self, folder: str) -> None:
        """`folder` is a /dev for every job of the node (`sandbox.dev`). Where GPUs are allotted, bubblewrap
        makes one: their device files are put into it."""
        self._dev = ["--dev-bind", folder, "/dev", "--tmpfs", "/dev/shm"]

    def init_is_ours(self) -> None:
        """The job's first process is `sandbox.init`, handed over as INIT_FD; it says on SAID_FD how the job
        ended. It looks for no program on the PATH: `argv` begins with a path."""
        self._start += ["--as-pid-1", "--perms", "0555", "--file", str(init.INIT_FD), init.PATH]
        self._init = [init.PATH]

    def is_root(self) -> None:
        """What it runs is root of the user namespace that bubblewrap is started in, and may mount there."""
        program, rest = self._start[0], self._start[1 + len(_NAMESPACES) :]
        self._start = [program, *_BUILD, *rest]

    def command(self, argv: list[str], job: Job, inside: dict[str, str] | None = None) -> list[str]:
        """`argv` inside the sandbox. Its environment is handed over as it is, so it shows in no argument, but
        for the variables `inside` (see `apart`)."""
        root = _image_root(job, self._etc) if job.rootfs else self._host
        return [
            *self._start,
            *root,
            *_FRESH,
            *(["--dev", "/dev"] if job.devices else self._dev),
            *_devices(job.devices),
            *_files(job),
            *_END,
            job.cwd,
            *(word for name, value in (inside or {}).items() for word in ("--setenv", name, value)),
            "--",
            *self._init,
            *argv,
        ]

    def _etc_over(self) -> list[str]:
        made = ["--ro-bind", self._etc, "/etc"]
        for name in etc.folders():
            made += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
        return made


def apart(environ: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(what bubblewrap may be started with, what may be set only inside): the loader and the C library obey
    some variables before a program's first line, and bubblewrap itself runs outside its sandbox. These are
    the ones that glibc itself drops for set-user-id programs (sysdeps/generic/unsecvars.h)."""
    inside = {name: environ[name] for name in environ if name.startswith(_LOADER) or name in _LIBRARY}
    return {name: value for name, value in environ.items() if name not in inside}, inside


_LOADER = ("LD_", "GLIBC_", "MALLOC_", "GCONV_")
_LIBRARY = (
    *("GETCONF_DIR", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH", "RESOLV_HOST_CONF"),
    *("RES_OPTIONS", "TZDIR"),
)
_FRESH = (
    *("--proc", "/proc", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"),
    *("--tmpfs", "/tmp", "--ro-bind", _SYSTEM, _SYSTEM),
)
_END = ("--remount-ro", "/", "--chdir")


def _host_root() -> list[str]:
    made = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        made += _shown(f"/{name}", f"/{name}")
    return [*made, "--dir", "/var", "--symlink", "/tmp", "/var/tmp"]


def _shown(source: str, target: str) -> list[str]:
    """A link as a link, a folder or file read-only, nothing as nothing."""
    if os.path.islink(source):
        return ["--symlink", os.readlink(source), target]
    return ["--ro-bind", source, target] if os.path.exists(source) else []


def _image_root(job: Job, etc_folder: str) -> list[str]:
    targets = [target for _, target in (*job.shown_at, *job.writable_at)]
    root = image_root(job.rootfs, [job.directory, *job.writable, *job.read_only, *targets])
    return root + names_of_host(job.rootfs, etc_folder)


def names_of_host(rootfs: str, etc_folder: str) -> list[str]:
    """The files that tell of the node's names and its network, in place of the image's own."""
    made: list[str] = []
    if os.path.islink(f"{rootfs}/etc"):  # it would be mounted wherever that leads
        return made
    for name in ("hosts", "resolv.conf", "hostname"):
        place = f"{rootfs}/etc/{name}"
        if os.path.isfile(place) and not os.path.islink(place) and os.path.isfile(f"{etc_folder}/{name}"):
            made += ["--ro-bind", f"{etc_folder}/{name}", f"/etc/{name}"]
    return made


def image_root(rootfs: str, wanted: list[str]) -> list[str]:
    """The image's top level, entry by entry; folders that something `wanted` is to be bound into are opened
    further, because a mount point can be made on none of what is read-only."""
    made = _opened(rootfs, "", [path for path in wanted if not path.startswith(rootfs)], _OWN)
    if os.path.isdir(f"{rootfs}/var/tmp") and not os.path.islink(f"{rootfs}/var"):
        made += ["--tmpfs", "/var/tmp"]
    return [*made, "--dir", "/run"]


def _opened(rootfs: str, folder: str, wanted: list[str], but: tuple[str, ...] = ()) -> list[str]:
    made: list[str] = []
    for name in sorted(os.listdir(f"{rootfs}{folder}")):
        here = f"{folder}/{name}"
        source = f"{rootfs}{here}"
        if name in but:
            continue
        inside = [path for path in wanted if path.startswith(f"{here}/")]
        if inside:
            # Not through a link of the image's: while bubblewrap mounts, that could lead to the host's files.
            made += ["--dir", here]
            if os.path.isdir(source) and not os.path.islink(source):
                made += _opened(rootfs, here, inside)
        elif here not in wanted:
            made += _shown(source, here)
    return made


def _devices(devices: list[str]) -> list[str]:
    made: list[str] = []
    for path in _GPU_SYSTEM if devices else ():
        made += ["--ro-bind-try", path, path]
    for path in [*devices, *(p for p in _GPU_CONTROL if devices and os.path.exists(p))]:
        made += ["--dev-bind", path, path]
    return made


def _files(job: Job) -> list[str]:
    """Its own directory, and what it may read; outer ones first, so that none hides another."""
    below = f"{job.directory}/"
    reads = {path for given in job.read_only for path in _narrow(os.path.normpath(given), job.directory)}
    hidden = () if job.rootfs else ("/usr/",)
    outside = [p for p in reads if not p.startswith(below) and not p.startswith(hidden) and p != "/usr"]
    made: list[str] = []
    for path in sorted(outside, key=lambda p: (p.count("/"), p)):
        made += ["--ro-bind-try", path, path]
    for path in [*job.writable, job.directory]:
        made += ["--bind", path, path]
    for path in sorted(path for path in reads if path.startswith(below)):
        made += ["--ro-bind-try", path, path]
    for source, target in job.shown_at:
        made += ["--ro-bind", source, target]
    for source, target in job.writable_at:
        made += ["--bind", source, target]
    return made


def _narrow(path: str, directory: str) -> list[str]:
    """A tree that the job's own directory lies in would show it the whole home: of such a tree, only what a
    Python needs."""
    if not f"{directory}/".startswith(f"{path.rstrip('/')}/"):
        return [path]
    return [f"{path.rstrip('/')}/{name}" for name in _TREE]
