"""One moment of a home, held still while its server runs.

All databases are held against writers at once, for milliseconds: a reading transaction is opened on each, and
the small files (keys, certificates, checkpoints) are read meanwhile. The databases are then copied from those
transactions by SQLite's own backup. Blob files never change once a row names them, but are unlinked when
their blob is overwritten: they get second names first, most of them before the moment, so that uploads wait
only for what came since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.app import checkpoints, refusal_spool
from tidemill.domain.errors import Conflict, NotFound
from tidemill.server import home as homes

FOLDER = ".snapshots"
DATABASES = ("db/tidemill.db", "db/tracking.db", "blobs/index.db")
_WAIT_S = 30.0
_PAGES = 4096  # copied in one step
_NAMED = "SELECT generation, size FROM blobs UNION ALL SELECT generation, size FROM blocks"

Going = Callable[[int], None]
"""Called with the bytes that were written since the last call."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`at`: microseconds. `small`: bytes by path in the home. `databases`: copies by path in the home.
    `missing`: generations that a row names and that have no file."""

    at: int
    folder: Path
    small: dict[str, bytes]
    databases: dict[str, Path]
    missing: tuple[str, ...]

    def blobs(self) -> Iterator[tuple[str, int, Path]]:
        """(path in the home, bytes that count, file) of each blob and uncommitted block."""
        gone = set(self.missing)
        with contextlib.closing(self.open("blobs/index.db")) as db:
            for generation, size in db.execute(f"{_NAMED} ORDER BY 1"):
                if generation not in gone:
                    place = _place(generation)
                    yield f"blobs/files/{place}", size, self.folder / "files" / place

    def totals(self) -> tuple[int, int]:
        """(blobs and blocks, their bytes), without those that are missing."""
        count = total = 0
        for _, size, _ in self.blobs():
            count, total = count + 1, total + size
        return count, total

    def open(self, database: str) -> sqlite3.Connection:
        """Of one of DATABASES."""
        return sqlite3.connect(self.databases[database])


@contextlib.contextmanager
def taken(home: homes.Home, going: Going = lambda count: None) -> Iterator[Snapshot]:
    """The snapshot, in a folder of the home that is gone afterwards. The home was found good by `check`.
    Raises Conflict for one whose database is damaged."""
    with _folder(home) as folder, contextlib.ExitStack() as stack:
        linker = _Linker(home.blobs / "files", folder / "files")
        with contextlib.closing(_connect(home.root / "blobs/index.db")) as index:
            linker.link(index)
        readers = {name: _connect(home.root / name) for name in DATABASES}
        for reader in readers.values():
            stack.callback(reader.close)
        at, small = _moment(home, readers, linker)
        copies = {name: folder / name.replace("/", "-") for name in DATABASES}
        for name, reader in readers.items():
            _copy(reader, copies[name], home.root / name, going)
            reader.execute("ROLLBACK")
        yield Snapshot(at, folder, small, copies, tuple(sorted(linker.missing)))


def check(home: homes.Home) -> None:
    """Raises NotFound for no home, Conflict for one whose database lies elsewhere."""
    config = homes.read_config(home)
    if config is None or not (home.root / DATABASES[0]).exists():
        raise NotFound(
            f"{home.root} is no Tidemill home that was ever started. Give the one to back up: --home DIR.",
            "NoHome",
            "--home",
        )
    if config.database and not config.database.startswith("sqlite"):
        raise Conflict(
            f"The database of {home.root} is not in the home (config.json: database), so no file can hold "
            "both at one moment. Stop the server, back the database up by its own means (pg_dump), and copy "
            "the home.",
            "DatabaseElsewhere",
        )


def _moment(
    home: homes.Home, readers: dict[str, sqlite3.Connection], linker: _Linker
) -> tuple[int, dict[str, bytes]]:
    """Opens a transaction on each reader, all at one moment. -> that moment, and its small files."""
    with contextlib.ExitStack() as stack:
        writers: list[sqlite3.Connection] = []
        lock = os.open(home.blobs / "index.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the blob index's own writers take turns
        for name in DATABASES:
            writer = _connect(home.root / name)
            stack.callback(writer.close)
            writer.execute("BEGIN IMMEDIATE")
            writers.append(writer)
        for reader in readers.values():
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        at, small = time.time_ns() // 1000, _small(home)
        for writer in writers[:-1]:  # jobs go on; uploads wait until every blob has its second name
            writer.execute("ROLLBACK")
        linker.link(readers["blobs/index.db"], last=True)
        return at, small


def _small(home: homes.Home) -> dict[str, bytes]:
    paths = [
        home.config,
        *sorted(home.secrets.iterdir()),
        *sorted(home.tls.iterdir()),
        home.db / checkpoints.NAME,
        home.db / refusal_spool.NAME,
    ]
    # A name that begins with a dot is a file that is just being replaced.
    kept = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(home.root)): path.read_bytes() for path in kept}


@dataclass(slots=True)
class _Linker:
    """Gives blob files second names, which stay when the first are unlinked."""

    source: Path
    target: Path
    done: set[str] = field(default_factory=set[str])
    missing: set[str] = field(default_factory=set[str])
    _made: set[str] = field(default_factory=set[str])

    def link(self, index: sqlite3.Connection, last: bool = False) -> None:
        """What the index names and has none yet. A file that is not there counts as missing at the `last`
        look only: before, its blob may just have been overwritten."""
        for generation, _ in index.execute(_NAMED):
            if generation in self.done:
                continue
            place = _place(generation)
            folder = place.split("/")[0]
            if folder not in self._made:
                (self.target / folder).mkdir(parents=True, exist_ok=True)
                self._made.add(folder)
            try:
                _link_or_copy(self.source / place, self.target / place)
            except FileNotFoundError:
                if last:
                    self.missing.add(generation)
            else:
                self.done.add(generation)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without second names
        shutil.copyfile(source, target)


def _copy(reader: sqlite3.Connection, target: Path, source: Path, going: Going) -> None:
    """From the reader's transaction, whatever is written meanwhile."""
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    size = reader.execute("PRAGMA page_size").fetchone()[0]
    left = 0

    def step(status: int, remaining: int, total: int) -> None:
        nonlocal left
        going(((left or total) - remaining) * size)
        left = remaining

    try:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            reader.backup(copy, pages=_PAGES, progress=step)
            # One file, without a log beside it.
            copy.execute("PRAGMA journal_mode=DELETE")
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise _damaged(source, str(error)) from error
    if found != "ok":
        raise _damaged(source, found)


def _damaged(source: Path, why: str) -> Conflict:
    return Conflict(
        f"The database {source} is damaged, so no backup was made of it: {why}. "
        "Restore an earlier backup into another home: tidemill backup restore FILE --home DIR.",
        "DatabaseDamaged",
    )


@contextlib.contextmanager
def _folder(home: homes.Home) -> Iterator[Path]:
    """A folder of the home, locked while it is used; what a killed backup left goes first."""
    root = home.root / FOLDER
    root.mkdir(mode=0o700, exist_ok=True)
    for left in root.iterdir():
        with _held(left) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)
    folder = root / os.urandom(6).hex()
    folder.mkdir(mode=0o700)
    with _held(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # another one is being made
                root.rmdir()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """-> whether the folder's lock is ours."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _place(generation: str) -> str:
    return f"{generation[:6]}/{generation}"


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
