"""Making a backup file of a home, whether its server runs or not, and a home of a backup file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from tidemill import __version__
from tidemill.app.upkeep import restored
from tidemill.domain.errors import Conflict, InvalidRequest, OutOfSpace
from tidemill.domain.units import human_bytes
from tidemill.identity.files import write_whole
from tidemill.server import home as homes
from tidemill.server.backups import archive
from tidemill.server.backups.snapshot import Snapshot, check, taken
from tidemill.server.folders import opened

FOLDER = "backups"  # of the home
ENDING = ".tidemill-backup"
_SPARE = 16 << 20

Progress = Callable[[str, int, int], None]
"""Called with what is done, the bytes that are done, and how many there are (0: not known)."""


@dataclass(frozen=True, slots=True)
class Made:
    file: Path
    size: int
    header: archive.Header
    encrypted: bool
    seconds: float


def create(home: Path, to: Path | None, passphrase: str, progress: Progress) -> Made:
    """`to`: a new file, or a folder in which it gets a name with the time. Raises Conflict for a file that
    exists, OutOfSpace."""
    began = time.monotonic()
    where = homes.Home(Path(home).expanduser().absolute())
    check(where)
    target = _target(where, to)
    with taken(where, _counting(progress, "Reading the databases", 0)) as snapshot:
        header = _header(where, snapshot)
        _room(target.parent, header.size)
        step = _counting(progress, "Writing the backup", header.size)
        with _new_file(target, where) as file, archive.writing(file, header, passphrase, step) as writer:
            for name, data in snapshot.small.items():
                writer.add_bytes(name, data)
            for name, copy in snapshot.databases.items():
                writer.add_file(name, copy)
            for name, size, path in snapshot.blobs():
                writer.add_file(name, path, size)
    return Made(target, target.stat().st_size, header, bool(passphrase), time.monotonic() - began)


def restore(file: Path, home: Path, passphrase: str, progress: Progress) -> Made:
    """Makes `home`, which must not exist or be empty, of a backup; it is there whole or not at all. The whole
    file is verified first. Raises Conflict, InvalidRequest, NotFound, OutOfSpace."""
    began = time.monotonic()
    root = Path(home).expanduser().absolute()
    _check_empty(root)
    header = archive.read_header(file, passphrase)
    archive.verify(file, passphrase, _counting(progress, "Verifying the backup", header.size))
    root.parent.mkdir(parents=True, exist_ok=True)
    _room(root.parent, header.size)
    with _beside(root) as made:
        archive.extract(file, passphrase, made, _counting(progress, "Writing the home", header.size))
        for folder in ("envs", "images", "logs"):
            (made / folder).mkdir(mode=0o700)
        note = {"from": str(file.absolute()), "home": header.home, "created_at": header.created_at}
        write_whole(made / restored.NAME, json.dumps(note).encode())
        os.sync()
        try:
            os.rename(made, root)
        except OSError as error:
            raise Conflict(
                f"{root} cannot be replaced ({error.strerror}): it was filled meanwhile, or is the root of a "
                "file system. Give a new folder: --home DIR.",
                "HomeNotEmpty",
                "--home",
            ) from None
    return Made(root, header.size, header, archive.is_sealed(file), time.monotonic() - began)


def _header(home: homes.Home, snapshot: Snapshot) -> archive.Header:
    blobs, size = snapshot.totals()
    size += sum(copy.stat().st_size for copy in snapshot.databases.values())
    size += sum(len(data) for data in snapshot.small.values())
    with contextlib.closing(snapshot.open("db/tidemill.db")) as db:
        revision = db.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        jobs = db.execute("SELECT count(*) FROM resources WHERE type_key='jobs'").fetchone()[0]
    return archive.Header(
        version=__version__,
        revision=revision,
        created_at=snapshot.at,
        home=str(home.root),
        jobs=jobs,
        blobs=blobs,
        size=size,
        missing=len(snapshot.missing),
    )


def _target(home: homes.Home, to: Path | None) -> Path:
    folder = home.root / FOLDER if to is None else to.expanduser().absolute()
    if to is None:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            with opened(home.root, FOLDER) as made:
                _give(made, home)
    if not folder.is_dir():
        if folder.exists():
            raise Conflict(
                f"{folder} exists already: it is not overwritten. Give another --to.", "FileExists", "--to"
            )
        if not folder.parent.is_dir():
            raise InvalidRequest(
                f"There is no folder {folder.parent} for the backup: --to.", "NoFolder", "--to"
            )
        return folder
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return folder / f"{home.root.name.lstrip('.')}-{stamp}{ENDING}"


@contextlib.contextmanager
def _new_file(target: Path, home: homes.Home) -> Iterator[IO[bytes]]:
    """Written beside its place (0600), and there once it is whole and on disk."""
    part = target.with_name(f".{target.name}.part")
    _remove_left({part, *target.parent.glob(f".*{ENDING}.part")})
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            yield file
        os.fsync(descriptor)
        os.link(part, target)  # unlike a rename, this replaces nothing
        if target.parent == home.root / FOLDER:
            _give(descriptor, home)
    except FileExistsError:
        raise Conflict(f"{target} exists already: it is not overwritten.", "FileExists", "--to") from None
    finally:
        part.unlink(missing_ok=True)
        os.close(descriptor)
    with opened(target.parent) as folder:
        os.fsync(folder)


def _remove_left(parts: set[Path]) -> None:
    """What killed backups left; one that is being written is locked."""
    for part in parts:
        with contextlib.suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(descriptor)


def _give(descriptor: int, home: homes.Home) -> None:
    """What root makes in somebody's home is theirs. By its descriptor: they may put a link in its place."""
    if os.geteuid() == 0:
        owner = home.root.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _check_empty(root: Path) -> None:
    if root.is_dir() and not any(root.iterdir()):
        return
    if root.exists():
        what = "is not empty" if root.is_dir() else "is not a folder"
        raise Conflict(
            f"{root} {what}: a backup is restored into a new home only. Give another: --home DIR.",
            "HomeNotEmpty",
            "--home",
        )


@contextlib.contextmanager
def _beside(root: Path) -> Iterator[Path]:
    """A folder beside the home, locked while it is filled; what a killed restore left there goes first."""
    folder = root.with_name(f".{root.name}.restoring")
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        yield folder
    except BlockingIOError:
        raise Conflict(f"Another restore of {root} is running.", "RestoreRunning", "--home") from None
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise OutOfSpace(
            f"{human_bytes(size)} are needed in {folder}, and {human_bytes(free)} are free there. "
            "Nothing was written."
        )


def _counting(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def going(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    return going
