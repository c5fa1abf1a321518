"""From a pid that a job knows itself by to the one that this test sees: a sandbox has a PID namespace."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SAYS = "echo pid $$ $(readlink /proc/self/ns/pid)"  # what a job writes first, for `said`
# Until that process gets USR1, which it takes from before it says so.
WAITS = "trap go=1 USR1; " + SAYS + "; until [ $go ]; do sleep 0.05; done; "


def said(log: str) -> int:
    """The host's pid of a job whose log begins with what SAYS writes."""
    _, inner, space = log.split()[:3]
    return host_pids([int(inner)], {space})[0]


def host_pids(inner: list[int], spaces: set[str]) -> list[int]:
    """Of processes known as `inner` in one of the PID namespaces ("pid:[4026531836]")."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            numbers = (process / "status").read_text().partition("NSpid:")[2].split("\n")[0].split()
            if int(numbers[-1]) in inner and os.readlink(process / "ns" / "pid") in spaces:
                found.append(int(process.name))
    assert len(found) == len(inner), f"of {inner} in {spaces} only {found} were found"
    return found
