"""Keys of storage accounts, derived from one secret of the home: nothing per account is stored.

A key is of one holder: whoever it was handed to, by whichever role assignment. It no longer works when the
holder has lost that assignment; nobody else's is touched. After a rotation there are two secrets, like key1
and key2 of an account: keys of both work, new ones are of the first."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

from tidemill.identity.files import write_whole

MASTER_BYTES = 64


class StorageKeys:
    """`key(account, holder)` is what Azure calls the account key: base64 of 64 bytes. `masters`: 64 bytes
    each, the newest first."""

    def __init__(self, masters: bytes, path: Path | None = None) -> None:
        if len(masters) < 32:
            raise ValueError(f"the master key of storage has {len(masters)} bytes, not {MASTER_BYTES}")
        self._path = path
        self._stamp = _stamp(path)
        self.take(masters)

    @classmethod
    def load(cls, path: Path) -> StorageKeys:
        """Reads home/secrets/storage.key, and again when it has changed. Raises FileNotFoundError where it
        has not been made yet."""
        return cls(path.read_bytes(), path)

    def take(self, masters: bytes) -> None:
        self._masters = tuple(masters[at : at + MASTER_BYTES] for at in range(0, len(masters), MASTER_BYTES))

    @property
    def count(self) -> int:
        return len(self._masters)

    @property
    def generation(self) -> object:
        """Another one after each change: keys that were derived before may not count any more."""
        if self._path is not None:
            stamp = _stamp(self._path)  # a microsecond: a new key works in the other process at once
            if stamp is not None and stamp != self._stamp:
                self._stamp = stamp
                self.take(self._path.read_bytes())
        return self._masters

    def key(self, account: str, holder: str) -> str:
        return base64.b64encode(self.raw(account, holder)[0]).decode()

    def raw(self, account: str, holder: str) -> tuple[bytes, ...]:
        """The 64 bytes that sign requests: of the newest master, then of the one before."""
        text = f"storage:{account}\n{holder}".encode()
        return tuple(hmac.digest(master, text, hashlib.sha512) for master in self._masters)


def rotate(path: Path, *, at_once: bool) -> bytes:
    """Puts a new master in front; the one before still works, unless `at_once`. -> the masters."""
    masters = os.urandom(MASTER_BYTES) + (b"" if at_once else path.read_bytes()[:MASTER_BYTES])
    write_whole(path, masters)
    return masters


def _stamp(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns
