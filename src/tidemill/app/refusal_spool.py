"""What the data process refused, on its way into the activity log, which only the control process writes.

The data process appends JSON lines to a file, at most once a second, the same refusal counted; the control
process takes the file whenever it writes or reads the log. The file is taken over with the records in one
commit, which notes its digest: after a kill it is not taken twice. Until then it is a plain file of the home.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tidemill.domain.activity import Outcome, Pace, Record, more

NAME = "data.refusals"
META = "activity.refusals"
EVERY_S = 1.0
MOST_BYTES = 1 << 20  # of a file that nobody takes: more are only counted
_log = logging.getLogger("tidemill.activity")
_decode = msgspec.json.Decoder(Record).decode


class RefusalSpool:
    """The writing side, on the data process's loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: dict[tuple[object, ...], Record] = {}
        self._pace = Pace()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, record: Record) -> None:
        key = (record.actor, record.address, record.action, record.scope, record.resource, record.code)
        if key not in self._waiting and not self._pace.keeps(record):
            key, record = ("more",), more(record)
        known = self._waiting.get(key)
        self._waiting[key] = record if known is None else replace(known, count=known.count + record.count)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        lines = b"".join(msgspec.json.encode(record) + b"\n" for record in self._waiting.values())
        try:
            with _locked(self._path) as descriptor:
                if os.fstat(descriptor).st_size + len(lines) > MOST_BYTES:
                    return  # they stay, and are counted
                os.write(descriptor, lines)
                os.fdatasync(descriptor)
        except OSError as error:
            _log.error("%d refusals wait: %s", len(self._waiting), error)
            return
        self._waiting.clear()


@dataclass(frozen=True, slots=True)
class Taken:
    """What lay in a file that is ours alone now. `digest` names it."""

    path: Path
    digest: bytes
    records: tuple[Record, ...]

    def done(self) -> None:
        """They are in the log."""
        self.path.unlink(missing_ok=True)


def waits(path: Path) -> bool:
    return path.exists() or _own(path).exists()


def take(path: Path) -> Taken | None:
    """The control process's side. None where there is nothing."""
    own = _own(path)
    if not own.exists():
        try:
            with _locked(path, create=False):
                path.rename(own)
        except FileNotFoundError:
            return None
    raw = own.read_bytes()
    return Taken(own, hashlib.sha256(raw).hexdigest().encode(), tuple(_read(raw)))


def _read(raw: bytes) -> Iterator[Record]:
    for line in raw.splitlines():
        try:
            yield replace(_decode(line), seq=0, hash=b"", outcome=Outcome.REFUSED)
        except msgspec.MsgspecError:
            continue  # torn by a kill


def _own(path: Path) -> Path:
    return path.with_name(path.name + ".taken")


@contextmanager
def _locked(path: Path, *, create: bool = True) -> Generator[int]:
    """The file, open to append and locked: nobody renames it away meanwhile."""
    while True:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
