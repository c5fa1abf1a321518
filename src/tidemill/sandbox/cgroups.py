"""Control groups by writing their files: v1, v2 and hosts that have both.

A node has one directory per hierarchy it could make (`cpu`, `memory`, `pids`) and one `kill` directory below
which each task gets a group of its own; on a pure v2 host they are all the same directory. Which version a
directory is of is read from the files in it, so nothing else here needs to know. A limit is a plain dict
`{"enforced": bool, "by": str, "why_not": str}`; what could not be done is said there, never raised.
"""

from __future__ import annotations

import errno
import os
import signal

CONTROLLERS = ("cpu", "memory", "pids")
CPUSET = "cpuset"  # of a v2 group, where it can be had; v1's is joined by the agent alone (sandbox/cpuset.py)
PERIOD_US = 100_000
MAX_PROCESSES = 4096  # per node: stops a fork bomb, far above what a training job starts


class Hierarchy:
    """Where a hierarchy is mounted, and this process's own group in it (both absolute directories)."""

    __slots__ = ("own", "top")

    def __init__(self, top: str, own: str) -> None:
        self.top = top
        self.own = own


class Groups:
    """Directories of one node by use: "cpu", "memory", "pids", "kill". Missing where it could not be made."""

    __slots__ = ("paths",)

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths

    @property
    def kill(self) -> str:
        return self.paths.get("kill", "")

    def joined_by(self, task_group: str) -> list[str]:
        """Directories a task's process must join: its own group brings the hierarchy of `kill` with it."""
        others = {p for use, p in self.paths.items() if use != "kill" and p != self.kill}
        return [task_group, *sorted(others)]

    def directories(self) -> list[str]:
        return sorted(set(self.paths.values()))


def hierarchies(proc: str = "/proc/self") -> dict[str, Hierarchy]:
    """Mounted hierarchies by controller; "v2" is the unified one, whether or not it owns controllers."""
    own: dict[str, str] = {}
    for line in _read(f"{proc}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else ["v2"]:
            own[name] = path
    found: dict[str, Hierarchy] = {}
    for line in _read(f"{proc}/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, top = left.split(" ")[3:5]
        names = ["v2"] if kind == "cgroup2" else options.split(" ")[-1].split(",") if kind == "cgroup" else []
        for name in names:
            if name in own and name not in found:
                below = os.path.relpath(own[name], root) if own[name].startswith(root) else "."
                inside = not below.startswith("..")
                found[name] = Hierarchy(top, os.path.normpath(os.path.join(top, below)) if inside else top)
    return found


def own_directories() -> list[str]:
    """This process's own group in every hierarchy that a node may use."""
    found = hierarchies()
    return sorted({found[name].own for name in ("v2", *CONTROLLERS) if name in found})


def delegate(name: str, user: int) -> None:
    """Moves this process into groups of its own, in which `user` may make others for what it starts; one that
    cannot be made is left out. On v2 these have no controllers: a group with processes gives none on."""
    found = hierarchies()
    for directory in {found[use].own for use in ("v2", *CONTROLLERS) if use in found}:
        group = os.path.join(directory, name)
        try:
            os.makedirs(group, 0o755, exist_ok=True)
            for path in (group, f"{group}/cgroup.procs"):
                os.chown(path, user, user)
        except OSError:
            continue
        write(f"{group}/cgroup.procs", "0")


def create(name: str, found: dict[str, Hierarchy] | None = None) -> tuple[Groups, dict[str, str]]:
    """Makes the groups of one node. Returns them and, for each use that is missing, why."""
    found = hierarchies() if found is None else found
    paths: dict[str, str] = {}
    missing: dict[str, str] = {}
    unified = _make_unified(name, found.get("v2"), missing)
    for controller in CONTROLLERS:
        if unified and controller in _read(f"{unified}/cgroup.controllers").split():
            paths[controller] = unified
        elif controller in found:
            made = _make(os.path.join(found[controller].own, name), controller, missing)
            if made:
                paths[controller] = made
        else:
            missing.setdefault(
                controller, f"this host mounts no cgroup hierarchy with the {controller} controller"
            )
    if unified and os.path.exists(f"{unified}/cgroup.kill"):
        paths["kill"] = unified
    else:
        hierarchy = next((paths[c] for c in ("pids", "memory", "cpu") if c in paths), "")
        if hierarchy:
            paths["kill"] = hierarchy
        missing.setdefault("kill", "no cgroup could be made")
    if paths.get("memory") == paths.get("kill") and unified:
        write(f"{unified}/cgroup.subtree_control", "+memory")  # each task's own peak and oom counter
    return Groups(paths), {use: why for use, why in missing.items() if use not in paths}


def limit(
    groups: Groups, cpu_milli: int, memory: int, missing: dict[str, str]
) -> dict[str, dict[str, object]]:
    """Writes the limits (thousandths of a core, bytes; 0 is no limit) and reports each."""
    return {
        "cpu": _limit(groups, "cpu", missing, _cpu_files(groups.paths.get("cpu", ""), cpu_milli)),
        "memory": _limit(groups, "memory", missing, _memory_files(groups.paths.get("memory", ""), memory)),
        "pids": _limit(groups, "pids", missing, [("pids.max", str(MAX_PROCESSES))]),
    }


def kill(directory: str) -> None:
    """SIGKILL to everything in a group and below it."""
    if os.path.exists(f"{directory}/cgroup.kill"):
        write(f"{directory}/cgroup.kill", "1")
        return
    signal_all(directory, signal.SIGKILL)


def freeze(directory: str, frozen: bool) -> str:
    """Every process of a group stands still, or goes on; only v2 has that for each group. SIGKILL still ends
    them. -> why not, or ""."""
    return write(f"{directory}/cgroup.freeze", "1" if frozen else "0")


def signal_all(directory: str, number: int) -> None:
    for pid in processes(directory):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def populated(directory: str) -> bool:
    """Whether a live process is in the group or below it. A group that is absent holds none."""
    events = _read(f"{directory}/cgroup.events")
    if events:
        return "populated 1" in events
    return bool(processes(directory))


def processes(directory: str) -> list[int]:
    pids: list[int] = []
    for folder, _, _ in os.walk(directory):
        pids += [int(p) for p in _read(f"{folder}/cgroup.procs").split()]
    return pids


def remove(directory: str) -> bool:
    """Removes a group and those below it. False while a process lives in it: True proves it empty."""
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    for folder, _, _ in os.walk(directory, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def stale(prefix: str, found: dict[str, Hierarchy] | None = None) -> list[str]:
    """Groups whose name begins with `prefix`, wherever `create` would have put them."""
    found = hierarchies() if found is None else found
    parents = {d for h in found.values() for d in (h.top, h.own)}
    hits: list[str] = []
    for parent in sorted(parents):
        try:
            hits += [e.path for e in os.scandir(parent) if e.name.startswith(prefix) and e.is_dir()]
        except OSError:
            continue
    return hits


def named(name: str) -> list[str]:
    """The groups of exactly that name, wherever `create` would have put them."""
    return [directory for directory in stale(name) if os.path.basename(directory) == name]


def write(path: str, value: str) -> str:
    """Into a file of a group. -> why not, or ""."""
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        return error.strerror or str(error)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(fd)
    return ""


class MemoryMeter:
    """The memory counters of one group, held open: read at the start and at the end of every task."""

    __slots__ = ("_oom", "_peak")

    def __init__(self, directory: str) -> None:
        self._oom = _open_first(directory, "memory.events", "memory.oom_control")
        self._peak = _open_first(directory, "memory.peak", "memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        """Processes the kernel has killed for memory in this group (v1's failcnt stays 0: not used)."""
        lines = os.pread(self._oom, 4096, 0).splitlines() if self._oom >= 0 else []
        return next((int(line.split()[1]) for line in lines if line.startswith(b"oom_kill ")), 0)

    def peak(self) -> int | None:
        """Bytes, since the group was made or `reset`."""
        return int(os.pread(self._peak, 64, 0)) if self._peak >= 0 else None

    def reset(self) -> bool:
        """Starts the peak anew. False where the kernel cannot: then it is not one task's alone."""
        try:
            return self._peak >= 0 and os.pwrite(self._peak, b"0", 0) == 1
        except OSError:
            return False

    def close(self) -> None:
        for fd in (self._oom, self._peak):
            if fd >= 0:
                os.close(fd)


class PidsMeter:
    """The process counters of a node's group."""

    __slots__ = ("_events", "_peak")

    def __init__(self, directory: str) -> None:
        self._events = _open_first(directory, "pids.events")
        self._peak = _open_first(directory, "pids.peak")

    def refused(self) -> int:
        """Processes and threads that were not started because the limit was reached."""
        lines = os.pread(self._events, 4096, 0).splitlines() if self._events >= 0 else []
        return next((int(line.split()[1]) for line in lines if line.startswith(b"max ")), 0)

    def peak(self) -> int | None:
        """The most there were at once, where the kernel counts that (6.1)."""
        return int(os.pread(self._peak, 64, 0)) if self._peak >= 0 else None


def _open_first(directory: str, *names: str) -> int:
    for name in names:
        for flags in (os.O_RDWR, os.O_RDONLY):
            try:
                return os.open(f"{directory}/{name}", flags | os.O_CLOEXEC)
            except OSError:
                continue
    return -1


def _make_unified(name: str, v2: Hierarchy | None, missing: dict[str, str]) -> str:
    """A v2 group, with controllers where the parent can hand them down: a group that holds processes cannot,
    except the root, so the root is the second choice."""
    if v2 is None:
        return ""
    offered = [c for c in CONTROLLERS if c in _read(f"{v2.own}/cgroup.controllers").split()]
    for parent in dict.fromkeys((v2.own, v2.top)) if offered else (v2.own,):
        if any(write(f"{parent}/cgroup.subtree_control", f"+{c}") for c in offered):
            continue
        write(f"{parent}/cgroup.subtree_control", f"+{CPUSET}")
        made = _make(os.path.join(parent, name), "kill", missing)
        if made:
            return made
    return _make(os.path.join(v2.own, name), "kill", missing)


def _make(directory: str, use: str, missing: dict[str, str]) -> str:
    try:
        os.mkdir(directory)
        os.chmod(directory, 0o711)  # whatever the umask: the server, as another user, reads the counters
    except FileExistsError:
        return directory
    except OSError as error:
        why = "only root may make one here" if error.errno in (errno.EACCES, errno.EPERM) else error.strerror
        missing[use] = f"cgroup {os.path.dirname(directory)} refused a new group: {why}"
        return ""
    missing.pop(use, None)
    return directory


def _cpu_files(directory: str, cpu_milli: int) -> list[tuple[str, str]]:
    quota = max(1000, cpu_milli * PERIOD_US // 1000)
    if os.path.exists(f"{directory}/cpu.max"):
        return [("cpu.max", f"{quota if cpu_milli else 'max'} {PERIOD_US}")]
    return [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota if cpu_milli else -1))]


def _memory_files(directory: str, memory: int) -> list[tuple[str, str]]:
    if os.path.exists(f"{directory}/memory.max"):
        return [("memory.swap.max", "0"), ("memory.max", str(memory) if memory else "max")]
    value = str(memory) if memory else "-1"
    swap, plain = ("memory.memsw.limit_in_bytes", value), ("memory.limit_in_bytes", value)
    now = _read(f"{directory}/memory.limit_in_bytes").strip()
    growing = not memory or not now or int(now) < memory
    return [swap, plain] if growing else [plain, swap]  # memory may never exceed memory + swap


def _limit(
    groups: Groups, use: str, missing: dict[str, str], files: list[tuple[str, str]]
) -> dict[str, object]:
    directory = groups.paths.get(use, "")
    if not directory:
        return {"enforced": False, "by": "", "why_not": missing.get(use, "no cgroup")}
    version = "v2" if os.path.exists(f"{directory}/cgroup.controllers") else "v1"
    for file, value in files:
        if "sw" in file and not os.path.exists(f"{directory}/{file}"):
            continue  # a kernel without swap accounting
        why = write(f"{directory}/{file}", value)
        if why and "sw" not in file:
            return {"enforced": False, "by": f"cgroup {version}", "why_not": f"{file} = {value}: {why}"}
    name = next(f for f, _ in reversed(files) if "sw" not in f)
    return {"enforced": True, "by": f"cgroup {version} {name}", "why_not": ""}


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts: list[bytes] = []
        while data := os.read(fd, 65536):
            parts.append(data)
        return b"".join(parts).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)
