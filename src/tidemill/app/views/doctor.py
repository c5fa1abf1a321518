"""What this host has and what it lacks, with the way to get it: `tidemill doctor`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tidemill.domain.isolation import LEVELS, Limit, lacking, reached
from tidemill.engines.base import EngineError, Runtime
from tidemill.sandbox import cgroups, tiers

if TYPE_CHECKING:
    from tidemill.app.services import Services

State = Literal["ok", "missing", "unproven", "note"]

# What makes a limit enforceable, where its own reason does not say it.
_FIXES = {
    "uid": "start the server as root",
    "cpu": "start the server as root, or: systemd-run --user --scope -p Delegate=yes tidemill up",
    "memory": "start the server as root, or: systemd-run --user --scope -p Delegate=yes tidemill up",
    "pids": "start the server as root, or: systemd-run --user --scope -p Delegate=yes tidemill up",
    "disk": "start the server as root, with loop devices and mkfs.ext4 (Debian: apt install e2fsprogs)",
    "network": "start the server as root",
    "home": tiers.INSTALL,
    "files": tiers.INSTALL,
    "namespaces": tiers.INSTALL,
    "syscalls": tiers.INSTALL,
    "gpu": tiers.INSTALL,
}
_UNPROVEN_V2 = "cgroup v1 keeps cpu, memory and pids here: their use in v2 cannot be tried on this host"
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Check:
    """`fix` is what to do about it, "" where there is nothing to do."""

    name: str
    state: State
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    level: str  # that a node opened here reaches
    checks: tuple[Check, ...]


def examine(
    limits: Mapping[str, Limit], runtimes: Mapping[str, Runtime], why_root: str | None = None
) -> Examination:
    """`limits` is the report of a node of this host (`Engine.isolation`), `runtimes` what its engine can run
    containers by (`Engine.runtimes`). `why_root`: why a server that root
    starts keeps root; "": it does not; None: nobody is root here."""
    checks = [_limit(name, limit) for name, limit in limits.items()]
    if why_root is not None:
        checks.append(_root(why_root))
    checks += [_bubblewrap(), *_runtimes(runtimes), _cgroups(), *_programs(), _python()]
    return Examination(reached(limits), tuple(checks))


@dataclass(frozen=True, slots=True)
class Tier:
    """`lacks`: the limits that are not enforced, of those that the level needs."""

    level: str
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """`problem`: why no node could be opened to try, instead of an examination. `required`: of every job.
    `sizes`: what takes space in the home, in bytes; `free`: on its disk."""

    examination: Examination | None
    tiers: tuple[Tier, ...]
    required: str
    problem: str = ""
    sizes: tuple[tuple[str, int], ...] = ()
    free: int = 0


async def host(s: Services) -> Host:
    """This server's host, by the node that the engine tried when it was first asked."""
    required = s.settings.require_isolation
    sizes = await asyncio.to_thread(_sizes, s)
    free = shutil.disk_usage(s.settings.home).free
    try:
        limits, runtimes = await s.engine.isolation(), await s.engine.runtimes()
    except EngineError as error:
        return Host(None, (), required, str(error), sizes, free)
    found = await asyncio.to_thread(examine, limits, runtimes, s.settings.why_root)  # it tries bubblewrap
    tiers_here = tuple(Tier(level, lacking(level, limits)) for level in reversed(LEVELS))
    return Host(found, tiers_here, required, sizes=sizes, free=free)


def _sizes(s: Services) -> tuple[tuple[str, int], ...]:
    """What no row or marker knows (images, directories of nodes) is not counted: that would be a walk."""
    home = s.settings.home
    return (
        ("blobs", s.blobs.total_size()),
        (
            "databases",
            sum(path.stat().st_size for path in (*home.glob("db/*.db*"), *home.glob("blobs/index.db*"))),
        ),
        ("environments", sum(record.size for record in s.environments.list())),
        ("backups", sum(path.stat().st_size for path in home.glob("backups/*"))),
    )


def next_level(level: str, limits: Mapping[str, Limit]) -> str:
    """What the level above lacks, as a sentence; "" for the highest."""
    above = LEVELS[LEVELS.index(level) + 1 :]
    if not above:
        return ""
    return f"{above[0]} needs: {', '.join(lacking(above[0], limits))}"


def _limit(name: str, limit: Limit) -> Check:
    if limit.enforced:
        return Check(name, "ok", limit.by)
    fix = _FIXES.get(name, "")
    return Check(name, "missing", limit.why_not, "" if fix and fix in limit.why_not else fix)


def _root(why: str) -> Check:
    if why:
        return Check("root", "missing", f"the server keeps root: {why}")
    return Check("root", "ok", "a server gives root up, and leaves what takes root to a small helper")


def _bubblewrap() -> Check:
    found = tiers.sandboxing(_NOBODY if os.geteuid() == 0 else 0)
    if found.why_not:
        return Check("bubblewrap", "missing", found.why_not)
    if not found.options:
        text = f"{found.version}; it cannot forbid user namespaces by itself (0.8 can), the filter does"
        return Check("bubblewrap", "note", text)
    return Check("bubblewrap", "ok", found.version)


def _runtimes(runtimes: Mapping[str, Runtime]) -> list[Check]:
    """Beside the sandbox: nobody needs one who does not ask for it."""
    return [
        Check(name, "note", f"runs no container groups: {one.why_not}")
        if one.why_not
        else Check(name, "ok", f"{one.version}; runs container groups that ask for it")
        for name, one in runtimes.items()
    ]


def _cgroups() -> Check:
    found = cgroups.hierarchies()
    v1 = [name for name in cgroups.CONTROLLERS if name in found]
    if "v2" not in found:
        return Check("cgroup v2", "missing" if not v1 else "unproven", _UNPROVEN_V2 if v1 else "no cgroups")
    try:
        with open(f"{found['v2'].own}/cgroup.controllers") as file:
            offered = file.read().split()
    except OSError:
        offered = []
    missing = [name for name in cgroups.CONTROLLERS if name not in offered]
    if not missing:
        return Check("cgroup v2", "ok", f"offers {', '.join(cgroups.CONTROLLERS)}")
    if v1:
        return Check("cgroup v2", "unproven", _UNPROVEN_V2)
    return Check("cgroup v2", "missing", f"does not offer {', '.join(missing)} to this process")


def _programs() -> list[Check]:
    """Of what only some jobs need."""
    wanted = (
        ("mpirun", "jobs with distribution mpi", "apt install openmpi-bin"),
        ("skopeo", "images of registries", "apt install skopeo"),
        ("buildah", "Docker build contexts", "apt install buildah"),
        ("git", "packages that are installed from git", "apt install git"),
    )
    return [_program(*each) for each in wanted]


def _program(name: str, use: str, fix: str) -> Check:
    path = shutil.which(name)
    return Check(name, "ok", path) if path else Check(name, "note", f"absent: needed by {use}", fix)


def _python() -> Check:
    return Check("python", "ok", f"{sys.version.split()[0]} in {sys.base_prefix}")
