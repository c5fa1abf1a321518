"""Secrets at rest: AES-256-GCM, each value naming the key that encrypted it, so that keys can be rotated."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = 1
_ID_BYTES = 4
_NONCE_BYTES = 12


class SecretBox:
    """`keys` maps ids (8 hex digits) to 32-byte keys; the first one encrypts."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        if not keys:
            raise ValueError("a secret box needs a key")
        self._keys = keys
        self._current = next(iter(keys))
        self._listener: Callable[[], None] | None = None

    @property
    def current(self) -> str:
        """Id of the key that encrypts."""
        return self._current

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The newest first."""
        return tuple(self._keys)

    def take(self, keys: dict[str, bytes]) -> None:
        """Other keys from now on (a rotation): the first one encrypts."""
        self._keys, self._current = keys, next(iter(keys))
        if self._listener is not None:
            self._listener()

    def on_take(self, listener: Callable[[], None]) -> None:
        """Called after each `take`."""
        self._listener = listener

    def encrypt(self, plain: bytes, context: str = "") -> bytes:
        """`context` (for example the row's id) is bound in: the value does not decrypt anywhere else."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = _aead(self._keys[self._current]).encrypt(nonce, plain, context.encode())
        return bytes([_VERSION]) + bytes.fromhex(self._current) + nonce + sealed

    def decrypt(self, sealed: bytes, context: str = "") -> bytes:
        """Raises ValueError when the value was changed, moved to another context, or its key is not here."""
        from cryptography.exceptions import InvalidTag

        header = 1 + _ID_BYTES + _NONCE_BYTES
        if len(sealed) < header or sealed[0] != _VERSION:
            raise ValueError("not a sealed value of this version")
        key = self._keys.get(key_id_of(sealed))
        if key is None:
            raise ValueError("the key that sealed this value is not in this home")
        try:
            return _aead(key).decrypt(sealed[1 + _ID_BYTES : header], sealed[header:], context.encode())
        except InvalidTag as error:
            raise ValueError("the sealed value was changed, or belongs to something else") from error


def key_id_of(sealed: bytes) -> str:
    """Id of the key that sealed the value."""
    return sealed[1 : 1 + _ID_BYTES].hex()


def _aead(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
