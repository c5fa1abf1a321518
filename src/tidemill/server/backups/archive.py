"""The file of a backup: a tar of the home's files between two of its own.

tidemill-backup.json   what it is, so that a newer one is refused before anything else is read
config.json, secrets/…, tls/…, db/…, blobs/…
manifest               a line "SHA-256 SIZE PATH" for each file, and before them the SHA-256 of those lines
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.server.backups.sealing import MAGIC, Opener, Sealer, Sink, Source
from tidemill.store.migrations import REVISIONS

FORMAT = 1
HEADER, MANIFEST = "tidemill-backup.json", "manifest"
_ROOMS = ("secrets", "tls", "db", "blobs")
_BUFFER = 1 << 20

Going = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Header:
    """`revision`: of the main database. `created_at`: the moment that the backup shows, microseconds.
    `size`: bytes of its files, about. `missing`: blobs whose files the home had lost before."""

    version: str
    revision: str
    created_at: int
    home: str
    jobs: int
    blobs: int
    size: int
    missing: int = 0
    format: int = FORMAT


@contextmanager
def writing(sink: IO[bytes], header: Header, passphrase: str, going: Going) -> Iterator[Writer]:
    """What is added is in the file, whole, once this is left without an error."""
    sealer = Sealer(sink, passphrase) if passphrase else None
    out: Sink = sealer or sink
    with tarfile.open(fileobj=out, mode="w|", bufsize=_BUFFER, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        writer = Writer(tar, going)
        writer.add_bytes(HEADER, json.dumps(asdict(header)).encode())
        yield writer
        writer.add_bytes(MANIFEST, writer.manifest())
    if sealer is not None:
        sealer.close()


class Writer:
    def __init__(self, tar: tarfile.TarFile, going: Going) -> None:
        self._tar, self._going = tar, going
        self._lines: list[str] = []

    def add_bytes(self, name: str, data: bytes) -> None:
        self._add(name, len(data), io.BytesIO(data))

    def add_file(self, name: str, path: Path, size: int | None = None) -> None:
        """Its first `size` bytes, or all. Raises Conflict for a file that is shorter."""
        with open(path, "rb") as file:
            wanted = os.fstat(file.fileno()).st_size if size is None else size
            try:
                self._add(name, wanted, file)
            except OSError as error:
                if error.errno is None:  # tarfile's own: the file ends too early
                    raise Conflict(
                        f"{name} is shorter than its row says ({wanted} bytes): the home's disk has lost "
                        "a part of it. No backup was made.",
                        "HomeDamaged",
                    ) from error
                raise

    def manifest(self) -> bytes:
        text = "".join(self._lines).encode()
        return hashlib.sha256(text).hexdigest().encode() + b"\n" + text

    def _add(self, name: str, size: int, file: IO[bytes]) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        reader = _Counted(file, self._going)
        self._tar.addfile(entry, reader)  # type: ignore[arg-type]
        self._lines.append(f"{reader.digest.hexdigest()} {size} {name}\n")


class _Counted:
    """A file that is read once: the digest of what was read."""

    def __init__(self, file: IO[bytes] | Source, going: Going) -> None:
        self._file, self._going = file, going
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self._going(len(data))
        return data


def is_sealed(path: Path) -> bool:
    """Raises NotFound."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"There is no backup file {path}.", "BackupNotFound", "FILE") from None


def read_header(path: Path, passphrase: str) -> Header:
    with _entries(path, passphrase) as (header, _):
        return header


def verify(path: Path, passphrase: str, going: Going = lambda count: None) -> Header:
    """Reads all of it. Raises Conflict naming the first file that is not what the manifest says, one that is
    not there, or that the backup's end is missing."""
    with _entries(path, passphrase) as (header, entries):
        lines: list[str] = [_line(HEADER, json.dumps(asdict(header)).encode())]
        manifest = b""
        for name, size, file in entries:
            reader = _Counted(file, going)
            if name == MANIFEST:
                manifest = reader.read()
                continue
            while reader.read(_BUFFER):
                pass
            lines.append(f"{reader.digest.hexdigest()} {size} {name}\n")
    _compare(path, lines, manifest)
    return header


def extract(path: Path, passphrase: str, target: Path, going: Going = lambda count: None) -> None:
    """Writes what `verify` has found good below `target`, all of it closed to others."""
    with _entries(path, passphrase) as (_, entries):
        for name, _, file in entries:
            if name == MANIFEST:
                continue
            place = target / name
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Jobs read blobs through links that other users open.
            mode = 0o644 if name.startswith("blobs/files/") else 0o600
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                reader = _Counted(file, going)
                while data := reader.read(_BUFFER):
                    out.write(data)


Entries = Iterator[tuple[str, int, IO[bytes]]]


@contextmanager
def _entries(path: Path, passphrase: str) -> Iterator[tuple[Header, Entries]]:
    sealed = is_sealed(path)
    if sealed and not passphrase:
        raise InvalidRequest(
            f"{path} is encrypted. Give its passphrase: --passphrase-file FILE.",
            "PassphraseNeeded",
            "--passphrase-file",
        )
    with open(path, "rb") as file:
        source: Source = file
        if sealed:
            file.seek(len(MAGIC))
            source = Opener(file, passphrase)
        try:
            with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER) as tar:  # type: ignore[call-overload]
                first = tar.next()
                if first is None or first.name != HEADER:
                    raise _no_backup(path)
                content = tar.extractfile(first)
                assert content is not None
                yield _header(path, content.read()), _files(path, tar)
        except tarfile.TarError as error:
            if (
                isinstance(error, tarfile.ReadError)
                and file.tell() <= _BUFFER
                and not sealed
                and _foreign(path)
            ):
                raise _no_backup(path) from error
            raise _damaged(path, f"it cannot be read on ({error})") from error


def _files(path: Path, tar: tarfile.TarFile) -> Entries:
    while (entry := tar.next()) is not None:
        parts = PurePosixPath(entry.name).parts
        known = entry.name in ("config.json", MANIFEST) or (parts[0] in _ROOMS and ".." not in parts)
        if not entry.isreg() or not known:
            raise _damaged(path, f"{entry.name!r} does not belong in a backup")
        file = tar.extractfile(entry)
        assert file is not None
        yield entry.name, entry.size, file


def _foreign(path: Path) -> bool:
    with open(path, "rb") as file:
        return not file.read(len(HEADER)).startswith(HEADER.encode())


def _header(path: Path, raw: bytes) -> Header:
    try:
        found: dict[str, Any] = json.loads(raw)
        made, revision = found["format"], found["revision"]
        if made <= FORMAT and revision in REVISIONS:
            return Header(**found)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its first file cannot be read ({error})") from error
    raise Conflict(
        f"{path} was made by Tidemill {found.get('version', '')}, which is newer than this one "
        f"(format {made}, database {revision}; this one knows up to format {FORMAT}, database "
        f"{REVISIONS[-1]}). Upgrade Tidemill, then restore it.",
        "BackupTooNew",
    )


def _compare(path: Path, lines: list[str], manifest: bytes) -> None:
    if not manifest:
        raise _damaged(path, "its end is missing")
    digest, _, text = manifest.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise _damaged(path, "its manifest was changed")
    wanted = text.decode().splitlines(keepends=True)
    for line, should in zip(lines, wanted, strict=False):
        if line != should:
            raise _damaged(path, f"{should.split(' ', 2)[2].strip()} is not what was put in")
    if len(lines) != len(wanted):
        raise _damaged(path, f"it has {len(lines)} files, {len(wanted)} were put in")


def _line(name: str, data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()} {len(data)} {name}\n"


def _damaged(path: Path, why: str) -> Conflict:
    return Conflict(
        f"The backup {path} is damaged: {why}. Nothing was restored; use another copy.",
        "BackupDamaged",
        "FILE",
    )


def _no_backup(path: Path) -> InvalidRequest:
    return InvalidRequest(f"{path} is no backup of Tidemill.", "NotABackup", "FILE")
