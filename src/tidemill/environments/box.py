"""Where the tools of a build run: a sandbox with the build's own folder and nothing else of this server.

A box begins trusted: only uv runs, among the host's files, with the cache that all builds share. Once other
people's code is to run (a package built from source; whatever runs among an image's files), it is `foreign`,
for good: a private cache, a network with a proxy as its only way out, limits, and a user id of its own where
the server is root or has a helper that is. What is in its folder afterwards is somebody else's word.

    folder/in/          what it is given, read-only         folder/etc/   its /etc
    folder/tree/        the environment                     folder/tmp/   TMPDIR
    folder/cache/       uv's, of this build alone           folder/lock.txt
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.environments import helped, index, lock, tree
from tidemill.environments.helped import BuildHelper
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.environments.process import run, uv_program
from tidemill.environments.shared import LogLine
from tidemill.helper import boxstart
from tidemill.helper.builds import GROUPS
from tidemill.sandbox import bwrap, cgroups, etc, shown, tiers, uids

_WATCH_S = 1.0
_DYING_S = 10.0
_RESERVE = 1 << 30  # of the home's disk: a build does not take the last of it
_WHO = ["--uid", "65534", "--gid", "65534"]
PROXY = "http://127.0.0.1:3128"


@dataclass(frozen=True, slots=True)
class Confinement:
    """`sandbox`: False as on a host that has none; else what this host has is used. `unconfined`: packages
    may be built from source without one. `egress`: what such builds reach besides the server's own indexes
    (sandbox/egress.py). `helper`: what gives them users of their own where the server is not root."""

    sandbox: bool = True
    unconfined: bool = False
    egress: str = "internet"
    helper: BuildHelper | None = None

    def sandboxing(self) -> tiers.Sandboxing:
        return _sandboxing() if self.sandbox else tiers.Sandboxing(why_not="this server runs without one")


@cache
def _sandboxing() -> tiers.Sandboxing:
    return tiers.sandboxing(0)


class Box:
    """`shared`: the cache of builds that run nobody's code. `reads`: what tools need besides /usr."""

    keeps_owners = False  # what is in the folder has owners, from one tool to the next
    most_bytes = 0  # of everything that a build may have on disk at a time; 0: any

    def __init__(
        self,
        folder: Path,
        rules: Confinement,
        settings: index.Settings,
        shared: Path,
        reads: Sequence[Path],
        image: UnpackedImage | None,
    ) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.foreign = image is not None
        self._rules = rules
        self._made = rules.sandboxing()
        self._settings = settings
        self._shared = shared
        self._reads = reads
        self._image = image
        self._ids: uids.Range | None = None
        self._groups: cgroups.Groups | None = None

    def make(self) -> None:
        self.folder.mkdir(0o700)
        for name in ("in", "tmp", "cache"):
            (self.folder / name).mkdir()
        self._shared.mkdir(parents=True, exist_ok=True)
        if self._made.program:
            etc.make(str(self.folder / "etc"), "localhost", 65534, 65534)

    @property
    def why_not(self) -> str:
        """Why there is no sandbox here, or ""."""
        return self._made.why_not

    def refuse_source(self, what: str) -> None:
        """Raises InvalidRequest where nothing may be built from source."""
        if self._made.program or self._rules.unconfined:
            return
        raise InvalidRequest(
            f"{what} and building it from source runs its code, for which this server has no sandbox "
            f"({self._made.why_not}). Ask for a version that has a wheel. Or install bubblewrap on its "
            'host; "unconfined_builds": true in its config.json builds without a sandbox, as its user.',
            "SourceBuildRefused",
            "properties.condaFile",
        )

    async def run(self, argv: Sequence[str], log: LogLine, held: Sequence[int]) -> tuple[int, str]:
        """Exit code and output. Cancelled: every process of it is gone before this leaves. Raises
        OutOfSpace, or InvalidRequest where it was ended for its memory."""
        if not self._made.program:
            return await run(argv, env=self._environment(), cwd=self.folder, log=log, held=held)
        if self.foreign and self._rules.helper is not None:
            return await self._run_helped(self._rules.helper, self._order(argv), log)
        if self.foreign:
            await asyncio.to_thread(self._prepare_for_others)
        order = self._order(argv)
        command = [sys.executable, "-I", "-S", boxstart.__file__]
        env = {"PATH": tiers.PATH}
        work = asyncio.ensure_future(
            run(command, env=env, cwd=self.folder, log=log, held=held, stdin=index.encode(order))
        )
        try:
            while not (await asyncio.wait({work}, timeout=_WATCH_S))[0]:
                if self.foreign:
                    await self._check_disk()
            code, output = work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            self._end_groups()
        if code != 0:
            self._check_memory()
        return code, output

    async def _run_helped(
        self, helper: BuildHelper, order: Mapping[str, object], log: LogLine
    ) -> tuple[int, str]:
        names = ("argv", "env", "egress", "own", "memory", "builds")
        asked = {
            **{name: order[name] for name in names},
            "place": self.folder.parent.name,
            "name": self.folder.name,
            "image": self._image.root.parent.name if self._image else "",
            "keeps": self.keeps_owners,
            "most_bytes": self.most_bytes,
        }
        work = asyncio.ensure_future(helped.run(helper, asked, log))
        try:
            while not (await asyncio.wait({work}, timeout=_WATCH_S))[0]:
                await self._check_disk()
            ended, output = work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if ended["full"]:
            raise self._out_of_disk()
        if ended["oom"] and ended["code"] != 0:
            raise self._out_of_memory(_memory() >> 30)
        return ended["code"], output

    def uv(self) -> str:
        return uv_program()

    def close(self) -> None:
        """Everything of it is removed but its folder, which is the server's. Blocks while what was killed is
        dying."""
        if self._rules.helper is not None:
            return helped.end(self._rules.helper, self.folder)
        _remove(self._groups.directories() if self._groups else ())

    # what it runs in

    def _environment(self) -> dict[str, str]:
        place = self.folder / "cache" if self.foreign else self._shared
        given = {"UV_CACHE_DIR": str(place), "TMPDIR": str(self.folder / "tmp")}
        if not self._made.program:
            return {**self._settings.whole, **given}
        given |= {"HOME": str(self.folder / "tmp"), "PATH": tiers.PATH}
        if not self.foreign:
            return {**self._settings.uv, **self._settings.proxies, **given}
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), PROXY)
        proxies |= {name.upper(): value for name, value in proxies.items()}
        return {**self._settings.uv, **proxies, **given}

    def _order(self, argv: Sequence[str]) -> dict[str, object]:
        folder, image = str(self.folder), self._image
        reads = [uv_program(), *self._settings.files, *map(str, self._reads)]
        reads = [path for path in reads if os.path.exists(path)]
        own = [f"{folder}/in", f"{folder}/etc"]
        job = shown.Job(
            folder,
            folder,
            str(image.root) if image else "",
            [*reads, *own],
            writable=[] if self.foreign else [str(self._shared)],
        )
        env, inside = bwrap.apart(self._environment())
        if image is not None:
            theirs = {**dict(image.env), "PATH": image.path, "HOME": "/tmp"}
            inside |= {
                name: value for name, value in theirs.items() if name not in env or name in ("PATH", "HOME")
            }
        options = [*self._made.options, *_WHO]
        box = bwrap.Sandbox(self._made.program, options, f"{folder}/etc", "localhost")
        binds = [(folder, True, False), *((path, False, False) for path in reads)]
        binds += [(str(image.root), False, False)] if image else []
        return {"argv": box.command(list(argv), job, inside), "env": env, **self._around(binds)}

    def _around(self, binds: Sequence[tuple[str, bool, bool]], builds: bool = False) -> dict[str, object]:
        """Of an order: what the tool runs under."""
        ids = self._ids
        return {
            "foreign": self.foreign,
            "egress": self._rules.egress,
            "own": self._settings.hosts,
            "uid": ids.first if ids else 0,
            "count": ids.count if ids else 1,
            "relay_uid": ids.relay if ids else 0,
            "builds": builds,
            "binds": binds,
            "groups": self._groups.directories() if self._groups else [],
            "memory": _memory(),
        }

    def _prepare_for_others(self) -> None:
        """Control groups where this host gives them; as root a user id of its own, which owns the folder."""
        if self._groups is None:
            self._groups, missing = cgroups.create(f"{GROUPS}{self.folder.name.removeprefix('.tmp-')}")
            cgroups.limit(self._groups, 0, _memory(), missing)
        if os.geteuid() == 0 and self._ids is None:
            self._ids = uids.claim(str(self.folder))
            tree.give(self.folder, self._ids.first, but=("in", "etc"))

    def _end_groups(self) -> None:
        for directory in self._groups.directories() if self._groups else ():
            cgroups.kill(directory)

    async def _check_disk(self) -> None:
        """Now and then while other people's code runs. Raises OutOfSpace."""
        if shutil.disk_usage(self.folder).free < _RESERVE:
            raise lock.out_of_space()

    def _check_memory(self) -> None:
        place = self._groups.paths.get("memory") if self._groups else None
        if place is None:
            return
        meter = cgroups.MemoryMeter(place)
        try:
            killed = meter.oom_kills()
        finally:
            meter.close()
        if killed:
            raise self._out_of_memory(_memory() >> 30)

    def _out_of_disk(self) -> TidemillError:
        return lock.out_of_space()

    def _out_of_memory(self, gib: int) -> InvalidRequest:
        return InvalidRequest(
            f"A package that is built from source took more than the {gib} GiB of memory "
            "that a build may have. Ask for a version that has a wheel.",
            "BuildOutOfMemory",
            "properties.condaFile",
        )


def clear(folder: Path, rules: Confinement) -> None:
    """What a killed build left, its processes included. Blocks."""
    if rules.helper is not None:
        helped.end(rules.helper, folder)
    else:
        _remove(cgroups.named(f"{GROUPS}{folder.name.removeprefix('.tmp-')}"))
    tree.remove_tree(folder)


def _remove(groups: Iterable[str]) -> None:
    """With everything in them, which takes a while to die."""
    end = time.monotonic() + _DYING_S
    for directory in groups:
        cgroups.kill(directory)
        while not cgroups.remove(directory) and time.monotonic() < end:
            time.sleep(0.01)
            cgroups.kill(directory)


@cache
def _memory() -> int:
    """Bytes that a build may have: half of what the host has, at least 2 GiB."""
    return max(2 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
