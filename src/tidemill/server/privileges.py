"""A server that was started as root and gives it up: it becomes the home's own user, without capabilities, in
a mount namespace of its own, and leaves to the helper (`helper/`) what takes root on the host.

Whoever takes such a server over can write to the home. So what root does there, at this start and the next,
follows no link of the server's: the home and its folders stay root's, their group is the server's, and the
home is sticky, so that the server can neither move nor replace them.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tidemill.domain.errors import Forbidden, InvalidRequest
from tidemill.helper.nodedir import give, hand_over_all_in, home_id
from tidemill.sandbox import cgroups, disk, idmap, linux, uids, view
from tidemill.server import helper_process, seen, side
from tidemill.server import home as homes
from tidemill.server.folders import opened
from tidemill.server.lock import holder, in_use

# Folders of the home: their mode, and whether what is in them is looked through at each start (else once,
# when they become the server's: they may hold a great many files).
_FOLDERS = {
    "secrets": (0o770, True),
    "tls": (0o770, True),
    "db": (0o770, True),
    "logs": (0o770, True),
    "backups": (0o770, False),
    "serving": (0o770, True),
    "blobs": (0o770, False),
    "envs": (0o775, False),  # jobs read these two, as users of their own
    "images": (0o775, False),
}
_ROOTS = {"nodes": 0o751, "helper": 0o750}
_HOME_MODE = 0o1770


@dataclass(frozen=True, slots=True)
class Standing:
    """What a server runs as. `why_root`: why it keeps root, where it does; `helped`: it has a helper."""

    helped: bool = False
    why_root: str = ""


def drop(root: Path, typed: Sequence[str] = (), keep: bool = False) -> Standing:
    """Gives root up, where this process has it and this host can do without. Before any thread is started.
    `typed`: files that were named to this start; `keep`: root is kept, by its owner's word. Raises
    TidemillError: for a home that is in use or is not root's, when the helper does not start."""
    if os.geteuid() != 0:
        return Standing()
    root = root.expanduser().absolute()
    lay_home(root)
    homes.check_content(homes.Home(root))
    home = root.resolve()
    _check_free(home)
    why = "asked for (--keep-root)" if keep else why_not(home)
    if why:
        helper_process.stop(home)
        _end_those_of_another(home, 0)
        _take_back(home)
        return Standing(why_root=why)
    try:
        user = uids.claim(str(home)).first
    except (OSError, uids.Full) as error:
        return Standing(why_root=f"its home gets no user of its own: {error}")
    _end_those_of_another(home, user)
    _keep(home, user)
    shown = seen.to_be_seen(home, typed)  # while one can tell what root wrote there
    _give(home, user)
    helper_process.start(home, user)
    _settle_environment(home)
    view.enter(shown)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)  # the host's later mounts stay out
    cgroups.delegate(server_group(home), user)  # for the limits of builds
    linux.drop_bounding_set()
    os.setgroups([user + 1])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    linux.no_new_privileges()
    linux.be_dumpable()
    for name in ("TMPDIR", "UV_CACHE_DIR"):
        if name in os.environ and not os.access(os.environ[name], os.W_OK):
            del os.environ[name]
    return Standing(helped=True)


def server_group(home: Path) -> str:
    return f"tidemill-server-{home_id(home)}"


def lay_home(root: Path) -> None:
    """Makes the directory of the home and of its logs. Raises TidemillError for one that is not root's."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidRequest(f"{root} is not a directory. Give one: --home DIR.", target="--home") from None
    if root.stat().st_uid != 0:
        raise Forbidden(
            f"{root} belongs to another user. Give a home of your own: --home DIR.", target="--home"
        )


def _check_free(home: Path) -> None:
    """The helper of a server that runs is not to be replaced. (Who wins the lock is decided later.)"""
    pid = holder(home / "lock")
    if pid is not None:
        raise in_use(home / "lock", str(pid))


def why_not(home: Path) -> str:
    """Why nodes could not be shown to a server without root here; "" where they can."""
    (home / "nodes").mkdir(mode=0o711, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        return "this host allows no mount namespaces"
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=home / "nodes") as folder:
        work = f"{folder}/work"
        os.mkdir(work)
        with suppress(disk.NotAvailable):  # then nodes lie on the home's own disk
            disk.attach(f"{folder}/disk.img", work, disk.SMALLEST)
        directory = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(idmap.clone(directory, [(uids.FIRST, uids.FIRST + 1)]))
        except OSError as error:
            return f"this host has no idmapped mounts (Linux 5.12 and a file system that knows them): {error}"
        finally:
            os.close(directory)
            disk.detach(work)
    return ""


def _keep(home: Path, user: int) -> None:
    """What stays root's: the home itself, and two of its folders."""
    with opened(home) as top:
        os.fchown(top, 0, user)
        os.fchmod(top, _HOME_MODE)
        for name, mode in _ROOTS.items():
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
            with opened(home, name) as folder:
                os.fchown(folder, 0, user)
                os.fchmod(folder, mode)


def _give(home: Path, user: int) -> None:
    """The other folders, and what is in them."""
    with opened(home) as top:
        for name, (mode, always) in _FOLDERS.items():
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
            with opened(home, name) as folder:
                if always or os.fstat(folder).st_gid != user:
                    hand_over_all_in(folder, user)
                os.fchown(folder, 0, user)
                os.fchmod(folder, mode)
        _give_files(top, user)


def _give_files(top: int, user: int) -> None:
    """Those of the home itself."""
    for name in os.listdir(top):
        with suppress(FileNotFoundError):
            if stat.S_ISREG(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
                give(name, user, top)


def _take_back(home: Path) -> None:
    """Of a home whose server gave root up before: it is looked through again when it does the next time."""
    for name in _FOLDERS:
        with suppress(FileNotFoundError), opened(home, name) as folder:
            os.fchown(folder, 0, 0)
    with opened(home) as top:
        os.fchown(top, 0, 0)
        os.fchmod(top, 0o700)
        _give_files(top, 0)


def _end_those_of_another(home: Path, user: int) -> None:
    """Data process and gateway that a killed server left are adopted, but for those of another user. Which
    process it is says a file that its user owns."""
    where = homes.Home(home)
    for kind in side.KINDS if where.config.exists() else ():
        found = side.find(where, kind)
        owner = user if found is None else side.user_of(found["pid"])
        if found and owner not in (user, None) and (home / kind.state).lstat().st_uid == owner:
            side.terminate(found["pid"], side.STOP_S)


def _settle_environment(home: Path) -> None:
    """The user's own folder is the home; the name is still that of whoever started it."""
    import getpass

    with suppress(KeyError, OSError):
        os.environ["LOGNAME"] = getpass.getuser()
    for name, value in seen.uv_settings_variable().items():
        os.environ.setdefault(name, value)
    os.environ["HOME"] = str(home)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        os.environ.pop(name, None)
