"""Passwords as argon2id hashes (argon2-cffi's parameters: RFC 9106's second choice, 64 MiB)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argon2 import PasswordHasher

_AT_ONCE = 2  # each takes 64 MiB and some 50 ms of a few cores


class Passwords:
    """Hashes and verifies in threads, a few at once: who guesses a lot waits for others who guess a lot."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._made = hasher
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._nobodys = b""

    async def hash(self, password: str) -> bytes:
        async with self._turn:
            return (await asyncio.to_thread(self._hasher().hash, password)).encode()

    async def verify(self, stored: bytes | None, password: str) -> bool:
        """`stored` None, for a user who is not there, takes as long as a wrong password and is False."""
        if stored is None and not self._nobodys:
            self._nobodys = await self.hash("nobody has this password")
        async with self._turn:
            right = await asyncio.to_thread(self._verify, stored or self._nobodys, password)
        return right and stored is not None

    def outdated(self, stored: bytes) -> bool:
        """Whether it was made with weaker parameters than are used now."""
        return self._hasher().check_needs_rehash(stored.decode())

    def _verify(self, stored: bytes, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return self._hasher().verify(stored.decode(), password)
        except (VerificationError, InvalidHashError):
            return False

    def _hasher(self) -> PasswordHasher:
        if self._made is None:
            from argon2 import PasswordHasher

            self._made = PasswordHasher()
        return self._made
