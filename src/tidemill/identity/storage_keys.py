"""Keys of storage accounts, derived from one secret of the home: nothing per account is stored.

A key is of one holder: whoever it was handed to, by whichever role assignment. It no longer works when the
holder has lost that assignment; nobody else's is touched.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

MASTER_BYTES = 64


class StorageKeys:
    """`key(account, holder)` is what Azure calls the account key: base64 of 64 bytes."""

    def __init__(self, master: bytes) -> None:
        if len(master) < 32:
            raise ValueError(f"the master key of storage has {len(master)} bytes, not {MASTER_BYTES}")
        self._master = master

    @classmethod
    def load(cls, path: Path) -> StorageKeys:
        """Reads home/secrets/storage.key. Raises FileNotFoundError where it has not been made yet."""
        return cls(path.read_bytes())

    def key(self, account: str, holder: str) -> str:
        return base64.b64encode(self.raw(account, holder)).decode()

    def raw(self, account: str, holder: str) -> bytes:
        """The 64 bytes that sign requests."""
        return hmac.digest(self._master, f"storage:{account}\n{holder}".encode(), hashlib.sha512)
