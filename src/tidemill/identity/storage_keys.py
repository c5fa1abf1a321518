"""Keys of storage accounts, derived from one secret of the home: nothing per account is stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

MASTER_BYTES = 64


class StorageKeys:
    """`key(account)` is what Azure calls the account key: base64 of 64 bytes, stable for one master."""

    def __init__(self, master: bytes) -> None:
        if len(master) < 32:
            raise ValueError(f"the master key of storage has {len(master)} bytes, not {MASTER_BYTES}")
        self._master = master

    @classmethod
    def load(cls, path: Path) -> StorageKeys:
        """Reads home/secrets/storage.key. Raises FileNotFoundError where it has not been made yet."""
        return cls(path.read_bytes())

    def key(self, account: str) -> str:
        return base64.b64encode(self.raw(account)).decode()

    def raw(self, account: str) -> bytes:
        """The 64 bytes that sign requests."""
        return hmac.digest(self._master, b"storage:" + account.encode(), hashlib.sha512)
