"""From a task to the OCI bundle by which runc runs it: the same view of the files as `sandbox.bwrap`'s.

Field names and rules: github.com/opencontainers/runtime-spec, config.md and config-linux.md (1.0.2). There is
no network namespace among the new ones: runc is started in the node's. There are no limits: runc is started
in the node's control groups. There is no seccomp profile: OCI's cannot say all that our filter does (several
conditions on one argument), so the container's init brings that along (`sandbox.init.contained`).
"""

from __future__ import annotations

from tidemill.sandbox import init, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tidemill.sandbox.shown import Entry

VERSION = "1.0.2"
SPACES = ("pid", "ipc", "uts", "mount", "cgroup")
# Those of `runc spec`: what tells of the host, or would change it.
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_BINDS = {
    # rro: and what is mounted below it (runc 1.1)
    shown.READ: ["rbind", "ro", "rro", "nosuid", "nodev"],
    shown.READ_IF_THERE: ["rbind", "ro", "rro", "nosuid", "nodev"],
    shown.WRITE: ["rbind", "rw", "nosuid", "nodev"],
    shown.DEVICE: ["rbind", "rw", "nosuid", "noexec"],
}


class Container:
    """`argv` begins with a path; `init_file` is our init's on the host; `group` the control group's path,
    below runc's own; `rlimits` are (name, soft, hard)."""

    __slots__ = ("argv", "cwd", "entries", "env", "group", "hostname", "init_file", "rlimits", "uid")

    def __init__(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        cwd: str,
        entries: Sequence[Entry],
        uid: int,
        hostname: str,
        init_file: str,
        group: str,
        rlimits: Sequence[tuple[str, int, int]] = (),
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.entries = entries
        self.uid = uid
        self.hostname = hostname
        self.init_file = init_file
        self.group = group
        self.rlimits = rlimits


def config(container: Container) -> dict[str, Any]:
    """config.json of its bundle, whose root file system is the folder "rootfs" with what `beforehand` says.
    What is READ_IF_THERE has to be there."""
    return {
        "ociVersion": VERSION,
        "process": {
            "user": {"uid": container.uid, "gid": container.uid, "umask": 0o022},
            "args": [init.PATH, *container.argv],
            "env": [f"{name}={value}" for name, value in container.env.items()],
            "cwd": container.cwd,
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [{"type": name, "soft": low, "hard": top} for name, low, top in container.rlimits],
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": container.hostname[:64],
        "mounts": [
            _mount("proc", "proc", "/proc", ["nosuid", "noexec", "nodev"]),
            *(_entry(*entry) for entry in container.entries if entry[0] not in (shown.LINK, shown.FOLDER)),
            _mount("bind", container.init_file, init.PATH, _BINDS[shown.READ]),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in SPACES],
            "cgroupsPath": container.group,
            # What it may open of the host's devices: runc adds those that every container has.
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def beforehand(entries: Sequence[Entry]) -> tuple[list[str], list[tuple[str, str]]]:
    """(folders, links as (what it leads to, place)) that are made in the root file system before anything is
    mounted: runc knows mounts alone."""
    folders = [target for kind, _, target in entries if kind == shown.FOLDER]
    return folders, [(source, target) for kind, source, target in entries if kind == shown.LINK]


def _entry(kind: str, source: str, target: str) -> dict[str, Any]:
    if kind == shown.FRESH:
        return _mount("tmpfs", "tmpfs", target, ["nosuid", "nodev", "mode=1777"])
    return _mount("bind", source, target, _BINDS[kind])


def _mount(kind: str, source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}
