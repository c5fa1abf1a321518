"""A private view of the files, in which a job's own uid reaches what it needs although the home is 0700.

For each needed path some ancestor may be closed to others (`/root`, the home). The topmost closed one is
covered with an empty tmpfs and only the needed paths are bound below it again, so what is not named there no
longer exists for the job. Made once per node, by the agent, before it runs anything; the host's own mounts
never change.
"""

from __future__ import annotations

import os
import stat

from tidemill.sandbox import disk, linux


class NotAllowed(Exception):
    """This host allows no private mount namespace; the text says what it refused."""


class Bind:
    """`exact`: somebody else may put a link in its place, which is not followed."""

    __slots__ = ("exact", "path", "writable")

    def __init__(self, path: str, writable: bool = False, exact: bool = False) -> None:
        self.path = path
        self.writable = writable
        self.exact = exact


def enter(binds: list[Bind]) -> None:
    """Moves this (single-threaded, root) process into the view. Raises NotAllowed where this host lets
    nobody make one (nothing has changed then), OSError where it broke half-way: the process must then end."""
    wanted = _with_real_paths(binds)
    covers = sorted({c for b in wanted if (c := closed_ancestor(b.path))})
    try:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
    except OSError as error:
        raise NotAllowed(str(error)) from None
    disk.hide_others({b.path for b in wanted})
    sources = [(b, os.open(b.path, os.O_PATH | os.O_CLOEXEC | _nofollow(b))) for b in wanted]
    umask = os.umask(0o022)
    try:
        for cover in covers:
            linux.mount("tmpfs", cover, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=256k")
        for bind, source in sources:
            if not stat.S_ISLNK(os.fstat(source).st_mode):
                _bind(bind, source)
        for cover in covers:
            linux.mount("none", cover, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)
    finally:
        os.umask(umask)
        for _, source in sources:
            os.close(source)


def lay(source: str, target: str) -> None:
    """Binds a folder of the host read-only on another one, in this process's own view."""
    linux.mount(source, target, flags=linux.MS_BIND | linux.MS_REC)
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", target, flags=flags | _kept_flags(target))


def closed_ancestor(path: str) -> str:
    """The topmost proper ancestor that others may not pass, or ""."""
    parts = path.strip("/").split("/")[:-1]
    here = "/"
    for part in parts:
        here = os.path.join(here, part)
        try:
            if not os.stat(here).st_mode & stat.S_IXOTH:
                return here
        except FileNotFoundError:
            return ""
    return ""


def _with_real_paths(binds: list[Bind]) -> list[Bind]:
    """Absent ones dropped; where a path passes a symbolic link, its real path is needed too. Shallow ones
    first."""
    modes: dict[str, Bind] = {}
    for bind in binds:
        if bind.exact:
            if os.path.lexists(bind.path) and not os.path.islink(bind.path):
                modes[bind.path] = bind
        elif os.path.exists(bind.path):
            for path in (os.path.abspath(bind.path), os.path.realpath(bind.path)):
                before = modes.get(path)
                modes[path] = Bind(path, bind.writable or (before is not None and before.writable))
    return sorted(modes.values(), key=lambda b: (b.path.count("/"), b.path))


def _nofollow(bind: Bind) -> int:
    return os.O_NOFOLLOW if bind.exact else 0


def _bind(bind: Bind, source: int) -> None:
    if not os.path.exists(bind.path):
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.makedirs(bind.path, 0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(bind.path), 0o755, exist_ok=True)
            os.close(os.open(bind.path, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.mount(f"/proc/self/fd/{source}", bind.path, flags=linux.MS_BIND | linux.MS_REC)
    if not bind.writable:
        flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
        linux.mount("none", bind.path, flags=flags | _kept_flags(bind.path))


def _kept_flags(path: str) -> int:
    """A remount must repeat the flags that the mount already has, or the kernel may refuse it."""
    have = os.statvfs(path).f_flag
    return have & (linux.MS_NOSUID | linux.MS_NODEV | 8)  # 8: noexec
