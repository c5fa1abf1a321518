"""From a task to the bubblewrap command line that runs it: an explicit, minimal view of the files.

What a job sees is what `sandbox.shown` lists, and new /proc and /dev.
Namespaces of its own for users, processes, IPC and host name; no capability; no new privileges; `seccomp`.

Two things bubblewrap does not do: the init of the job's PID namespace is hidden (an empty folder lies over
/proc/1, since /proc/1/mem would let a job write into it), and the filter refuses to trace it.
"""

from __future__ import annotations

from tidemill.sandbox import init, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from tidemill.sandbox.shown import Entry, Job

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
_OPTIONS = {
    shown.READ: "--ro-bind",
    shown.READ_IF_THERE: "--ro-bind-try",
    shown.WRITE: "--bind",
    shown.DEVICE: "--dev-bind",
    shown.LINK: "--symlink",
    shown.FOLDER: "--dir",
    shown.FRESH: "--tmpfs",
}


class Sandbox:
    """One node's: `program` is bubblewrap, `options` those of its options that not every version has, `etc`
    the folder that `sandbox.etc` made, `hostname` what the job is told."""

    __slots__ = ("_dev", "_etc", "_host", "_init", "_start")

    def __init__(self, program: str, options: list[str], etc_folder: str, hostname: str) -> None:
        self._start = [program, *_NAMESPACES, *options, "--hostname", hostname[:64]]
        self._start += ["--seccomp", str(FILTER_FD)]
        self._etc = etc_folder
        self._host = _words(shown.host_root(etc_folder, whole=False))
        self._dev = ["--dev", "/dev"]
        self._init: list[str] = []

    def etc_is_whole(self) -> None:
        """The host's folders lie in the node's /etc already: one mount for each job instead of one for each
        folder, every one of which makes bubblewrap read the whole table of mounts."""
        self._host = _words(shown.host_root(self._etc, whole=True))

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
        root = _words(shown.image_root(job, self._etc)) if job.rootfs else self._host
        return [
            *self._start,
            *root,
            *_FRESH,
            *(["--dev", "/dev"] if job.devices else self._dev),
            *_words(shown.devices(job.devices)),
            *_words(shown.files(job)),
            *_END,
            job.cwd,
            *(word for name, value in (inside or {}).items() for word in ("--setenv", name, value)),
            "--",
            *self._init,
            *argv,
        ]


def _words(entries: Iterable[Entry]) -> list[str]:
    made: list[str] = []
    for kind, source, target in entries:
        made += [_OPTIONS[kind], source, target] if source else [_OPTIONS[kind], target]
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
_FRESH = ("--proc", "/proc", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1", *_words(shown.fresh()))
_END = ("--remount-ro", "/", "--chdir")
