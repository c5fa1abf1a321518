"""The processors that a node's processes run on, by the kernel's cpuset controller.

v1 has a hierarchy for it: the agent lives in the node's group, and what it starts is born there; so a start
joins nothing more. On v2 it is a file of the node's group, which tasks join anyway. A job cannot leave it
(`sched_setaffinity` stays within it), and sees as many processors as it has.
"""

from __future__ import annotations

import os

from tidemill.sandbox import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


ROUNDS = 100  # of looking for processes that were started meanwhile


class CpuSet:
    """Of the node whose groups are called `name` and hold its tasks below `kill`. Nothing is made before the
    first `use`: to join a group takes milliseconds."""

    def __init__(self, name: str, kill: str) -> None:
        self._name = name
        self._kill = kill
        self._shared = kill if os.path.exists(f"{kill}/cpuset.cpus") else ""
        self._lived_in = ""

    def use(self, cpus: Iterable[int]) -> dict[str, object]:
        """-> the line of the node's report."""
        why_not = "" if self._shared or self._lived_in else self._move_in()
        directory = self._shared or self._lived_in
        why_not = why_not or cgroups.write(f"{directory}/cpuset.cpus", ",".join(map(str, cpus)))
        by = f"cgroup {'v2' if self._shared else 'v1'} cpuset"
        return {"enforced": not why_not, "by": "" if why_not else by, "why_not": why_not}

    def remove(self) -> bool:
        """False while anything but this process lives in it."""
        if not self._lived_in:
            return True
        cgroups.write(f"{os.path.dirname(self._lived_in)}/cgroup.procs", "0")
        return cgroups.remove(self._lived_in)

    def _move_in(self) -> str:
        """-> why not, or ""."""
        found = cgroups.hierarchies()
        if "cpuset" not in found:
            return "this host mounts no cgroup hierarchy with the cpuset controller"
        parent = found["cpuset"].own
        directory = os.path.join(parent, self._name)
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            # A new group has neither, and refuses processes until it has both.
            for file in ("cpuset.mems", "cpuset.cpus"):
                with open(f"{parent}/{file}") as given, open(f"{directory}/{file}", "w") as taken:
                    taken.write(given.read())
            with open(f"{directory}/cgroup.procs", "w") as joined:
                joined.write("0")
        except OSError as error:
            cgroups.remove(directory)
            return f"cgroup {parent} refused a new group: {error.strerror}"
        self._lived_in = directory
        self._bring_tasks()
        return ""

    def _bring_tasks(self) -> None:
        """What the node runs already. What is started from now on is born here, but for the children of those
        that are still to come: looked for again until there are none."""
        here: set[int] = set()
        for _ in range(ROUNDS):
            others = set(cgroups.processes(self._kill)) - here
            if not others:
                return
            for pid in others:
                cgroups.write(f"{self._lived_in}/cgroup.procs", str(pid))  # it may have ended
            here |= others
