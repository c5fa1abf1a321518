"""A start of a task on its node: its log, its control group and what counts there, its process."""

from __future__ import annotations

import os
import select
import signal

from tidemill.agent import contained, spawn
from tidemill.agent.files import found_without_links, open_beneath
from tidemill.agent.refused import Refused
from tidemill.sandbox import cgroups, disk, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tidemill.agent.place import Place
    from tidemill.agent.task import Task


class Starts:
    """Of one node."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._groups_made = 0
        self._spawner = spawn.Grouped(cgroups.own_directories()) if place.groups.kill else None
        memory = place.groups.paths.get("memory", "") if place.groups.kill else ""
        self._node_meter = cgroups.MemoryMeter(memory) if memory else None
        self._meter_each = bool(memory) and memory == place.groups.kill  # v2: a task's group counts its own
        pids = place.groups.paths.get("pids", "")
        self._pids_meter = cgroups.PidsMeter(pids) if pids else None

    def open_log(self, path: str) -> int:
        """To append to. Raises Refused."""
        root = self._place.work_path
        if not path.startswith(root + "/"):
            raise Refused("invalid", f"log_path {path!r} is not below the node's work directory {root!r}")
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            fd = open_beneath(self._place.work, path[len(root) + 1 :], flags)
            if self._place.uid:
                os.fchown(fd, self._place.uid, self._place.uid)
        except (OSError, ValueError) as error:
            raise Refused("invalid", f"log_path {path!r} cannot be opened: {error}") from None
        return fd

    def start(self, task: Task, spec: dict[str, Any], log: int) -> None:
        """Its process runs: `pid`, `main` and what belongs to them are set. `log` is closed. Raises OSError
        where nothing was started; what was made for it by then is in `task`, too."""
        order = spawn.Order(spec["argv"], self._environ(task, spec), spec["cwd"], log, self._place.uid)
        said = -1
        try:
            join = self._make_group(task)
            directory = f"{self._place.work_path}/{task.attempt}"
            if spec.get("runtime") == contained.NAME:
                task.container = os.path.basename(task.group)
                said = self._place.runc.put(order, task.container, directory, spec)
            elif self._place.box.made:
                self._check_shown(spec, directory)
                said = self._place.box.put(order, directory, spec)
            task.said = said  # closed when the task is finished
            if self._place.network is not None:
                order.network = self._place.network.of(spec.get("network"))
            spawned = self._spawner.start(order, join) if self._spawner else spawn.shepherded(order)
        finally:
            for fd in {log, *order.handed.values(), *(mount for mount, _ in order.mounts)} - {said}:
                os.close(fd)
            if self._place.network is not None and order.network is not None:
                self._place.network.done(order.network)
        task.pid, task.pipe = spawned.pid, spawned.pipe
        task.starting = bool(task.container)
        if not task.starting:
            task.main = task.pid if task.group else _shepherd_says(task)

    def _check_shown(self, spec: dict[str, Any], directory: str) -> None:
        """What bubblewrap mounts lies where the task, when it ran before, could put a link to the host's
        files (runc is given no path that could be one). Raises spawn.Failed."""
        places = (*(spec.get("shown_at") or ()), *(spec.get("writable_at") or ()))
        reads = (os.path.normpath(path) for path in spec.get("read_only") or ())
        own = [path for path in reads if path.startswith(f"{directory}/") and os.path.lexists(path)]
        for source, target in (*places, *((path, path) for path in own)):
            try:
                below = os.path.relpath(source, self._place.work_path)
                os.close(found_without_links(self._place.work, below))
            except (OSError, ValueError) as error:
                raise spawn.Failed(f"{source!r} cannot be shown at {target!r}: {error}") from None

    def made(self, task: Task, status: int, memory: int) -> bool:
        """runc has ended: whether it made the task's container. Its process is the task's then. Else `told`
        has the reason, unless the task's own end has one already."""
        task.starting = False
        why = ""
        if status == 0:
            try:
                task.pid = task.main = self._place.runc.started(task.container)
                return True
            except (OSError, ValueError) as error:
                why = f"runc did not say which process it made: {error}"
        task.status = status
        why = why or self._place.runc.failure(task.container) or _ended(status)
        if not task.reason and self.limit_reached(task, memory) is None:
            task.told = f"failed {why}\n"
        return False

    def cleared(self, task: Task) -> bool:
        """Of a task whose processes are gone: whether nothing else is left of this start."""
        return not task.container or self._place.runc.remove(task.container)

    def limit_reached(self, task: Task, memory: int) -> tuple[str, str] | None:
        """Which of the node's limits a task that failed had run into: (reason, sentence). `memory`: the
        node's, in bytes."""
        if task.meter is not None and task.meter.oom_kills() > task.oom_before:
            return "oom", f"killed by the kernel: it needed more memory than the node's {memory} bytes"
        if self._pids_meter is not None and self._pids_meter.refused() > task.refused_before:
            peak = self._pids_meter.peak()
            most = f", peak {peak}" if peak is not None else ""
            return "pids", f"{cgroups.MAX_PROCESSES} processes and threads on the node{most}"
        if (full := disk.fullness(self._place.work)) is not None:
            return "disk_full", "{} of {} bytes are in use".format(*full)
        return None

    def close_meter(self, task: Task) -> None:
        if task.meter is not None and task.meter is not self._node_meter:
            task.meter.close()

    def _environ(self, task: Task, spec: dict[str, Any]) -> dict[str, str]:
        # Jobs ask for their user's name; a uid of their own has an entry in no passwd file but the sandbox's.
        own = {"USER": self._place.user, "LOGNAME": self._place.user}
        if self._place.network is not None:
            own.update(self._place.network.variables())
        environ = {**own, **spec["env"]}
        environ[processes.VARIABLE] = task.marker
        environ["CUDA_VISIBLE_DEVICES"] = environ["NVIDIA_VISIBLE_DEVICES"] = ",".join(spec["gpu_ids"])
        return environ

    def _make_group(self, task: Task) -> list[str]:
        """-> the directories of the groups that its process joins."""
        groups = self._place.groups
        if not groups.kill:
            return []
        self._groups_made += 1
        directory = f"{groups.kill}/t{self._groups_made}"
        os.mkdir(directory)
        task.group = directory
        task.meter = cgroups.MemoryMeter(directory) if self._meter_each else self._node_meter
        if task.meter is not None:
            task.oom_before = task.meter.oom_kills()
            task.alone = self._meter_each or (task.alone and task.meter.reset())
        if self._pids_meter is not None:
            task.refused_before = self._pids_meter.refused()
        return groups.joined_by(directory)


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"runc was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"runc ended with exit code {os.WEXITSTATUS(status)}"


def _shepherd_says(task: Task) -> int:
    select.select([task.pipe], [], [], 10.0)
    task.listen()
    return task.said_by_shepherd("pid", 0)
