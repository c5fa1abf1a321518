"""A stream that is encrypted under a passphrase: AES-256-GCM in chunks, the key made by scrypt.

    MAGIC, salt (16), nonce prefix (7), then chunks of CHUNK bytes, each followed by its tag (16)

The nonce of a chunk is the prefix, its number and whether it is the last one, so that chunks that were
changed, moved, left out or cut off at the end do not open. The header is bound to each.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from tidemill.domain.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"tidemill sealed backup 1\n"
CHUNK = 1 << 20
_TAG, _SALT, _PREFIX = 16, 16, 7
_N, _R, _P = 1 << 16, 8, 1  # 64 MiB and some tenths of a second for each guess


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Sealer:
    """A file to write to; `close` writes the last chunk and leaves the sink open."""

    def __init__(self, sink: Sink, passphrase: str) -> None:
        salt, self._prefix = os.urandom(_SALT), os.urandom(_PREFIX)
        self._header = MAGIC + salt + self._prefix
        self._aead = _aead(passphrase, salt)
        self._sink, self._left, self._number = sink, bytearray(), 0
        sink.write(self._header)

    def write(self, data: bytes) -> int:
        self._left += data
        while len(self._left) > CHUNK:  # one chunk at least is kept for the end
            self._seal(bytes(self._left[:CHUNK]), last=False)
            del self._left[:CHUNK]
        return len(data)

    def close(self) -> None:
        self._seal(bytes(self._left), last=True)

    def _seal(self, chunk: bytes, last: bool) -> None:
        nonce = _nonce(self._prefix, self._number, last)
        self._sink.write(self._aead.encrypt(nonce, chunk, self._header))
        self._number += 1


class Opener:
    """A file to read from. Raises InvalidRequest where the passphrase is another one, Conflict where the
    stream was changed or cut off."""

    def __init__(self, source: Source, passphrase: str) -> None:
        """`source` stands after MAGIC."""
        raw = source.read(_SALT + _PREFIX)
        if len(raw) < _SALT + _PREFIX:
            raise _cut()
        self._prefix, self._header = raw[_SALT:], MAGIC + raw
        self._aead = _aead(passphrase, raw[:_SALT])
        self._source, self._number = source, 0
        self._next = source.read(CHUNK + _TAG)
        self._plain = b""

    def read(self, size: int = -1) -> bytes:
        while self._next and (size < 0 or len(self._plain) < size):
            self._plain += self._open()
        cut = len(self._plain) if size < 0 else size
        data, self._plain = self._plain[:cut], self._plain[cut:]
        return data

    def _open(self) -> bytes:
        from cryptography.exceptions import InvalidTag

        chunk, self._next = self._next, self._source.read(CHUNK + _TAG)
        nonce = _nonce(self._prefix, self._number, last=not self._next)
        self._number += 1
        try:
            return self._aead.decrypt(nonce, chunk, self._header)
        except InvalidTag:
            if self._number > 1:
                raise _cut() from None
            raise InvalidRequest(
                "The passphrase is not the one that this backup was made with, or the backup's beginning is "
                "damaged.",
                "WrongPassphrase",
                "--passphrase-file",
            ) from None


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])


def _aead(passphrase: str, salt: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return AESGCM(Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase.encode()))


def _cut() -> Conflict:
    return Conflict("The backup is damaged, or its end is missing: it cannot be decrypted.", "BackupDamaged")
