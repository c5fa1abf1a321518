"""Finding what belongs to a node without control groups: by a marker in the environment a process started
with.

The marker is `TIDEMILL_TASK=<home id>/<node id>/<what>`; the agent carries it too (`what` = "agent"), so a
child that was caught between fork and exec is found as well.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "TIDEMILL_TASK"


def marker(home_id: str, node_id: str, what: str) -> str:
    return f"{home_id}/{node_id}/{what}"


def marked(prefix: str, *, but: int = 0) -> list[int]:
    """Live processes whose marker begins with `prefix`. Zombies have no environment and do not count.
    Those of other users are unreadable, hence never found, unless we are root."""
    needle = f"{VARIABLE}={prefix}".encode()
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (but, os.getpid()):
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                text = file.read()
        except OSError:
            continue
        if text.startswith(needle) or b"\0" + needle in text:
            found.append(int(name))
    return found


def is_marked(pid: int, prefix: str) -> bool:
    """Whether this process's marker begins with `prefix`, as far as that can be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return any(word.startswith(f"{VARIABLE}={prefix}".encode()) for word in words)


def children(parent: int) -> list[int]:
    """Live direct children of a process (zombies left out)."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                state, ppid = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state not in ("Z", "X"):
            found.append(int(name))
    return found


def descendants(parent: int) -> list[int]:
    """Live processes below one, from its children on."""
    found: list[int] = []
    level = children(parent)
    while level:
        found += level
        level = [pid for above in level for pid in children(above)]
    return found


def is_init(pid: int) -> bool:
    """Whether it is the first process of a PID namespace below ours."""
    try:
        with open(f"/proc/{pid}/status") as file:
            numbers = next(line for line in file if line.startswith("NSpid:")).split()[1:]
    except (OSError, StopIteration):
        return True  # gone: nothing that a signal would reach
    return len(numbers) > 1 and numbers[-1] == "1"


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
