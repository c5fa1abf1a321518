"""Signing in: how fast passwords may be guessed, and when a session goes on, is repeated, or ends.

Pure: rows and the time in, a decision with its reason out.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

SECOND = 1_000_000
FORGET_US = 24 * 3600 * SECOND  # failures count for a day after the last one
LEEWAY_US = 10 * SECOND  # a refresh whose answer was lost may be repeated for this long
SESSION_US = 30 * 24 * 3600 * SECOND  # a sign-in lasts at most this long
IDLE_US = 14 * 24 * 3600 * SECOND  # and ends when it was not refreshed for this long


class CredentialKind(StrEnum):
    PASSWORD = "password"
    SECRET = "secret"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a principal proves to be itself with. `value`: an argon2id hash of a password, the SHA-256 of a
    secret, the PEM of a certificate."""

    id: str  # a GUID
    oid: str
    kind: CredentialKind
    value: bytes
    name: str = ""
    hint: str = ""  # a secret's first characters, a certificate's thumbprint
    created_at: int = 0
    created_by: str = ""
    expires_at: int | None = None

    def expired(self, now: int) -> bool:
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in: a family of refresh tokens, of which only the one of `generation` is good."""

    id: str
    oid: str
    client: str  # "portal", or the client id of a program that signed a person in
    how: str  # "password", "link", "oidc:NAME", …
    address: str
    salt: bytes
    generation: int
    created_at: int
    used_at: int  # the last refresh
    expires_at: int
    ended_at: int | None = None
    end_reason: str = ""
    revision: int = 1

    def lives(self, now: int) -> bool:
        return self.ended_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """A person as an OIDC provider knows them: `issuer` and `subject` never change, names and addresses
    do."""

    issuer: str
    subject: str
    oid: str
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed attempts to sign in under one key, the last one at `last_at`."""

    key: str
    count: int = 0
    last_at: int = 0


@dataclass(frozen=True, slots=True)
class _Pace:
    """After `free` failures the wait is one second, and doubles with each more, up to `longest` seconds."""

    free: int
    longest: int


# Guesses at one account from one place wait longest. A place waits for what it did to all accounts. The
# account itself never waits long: whoever guesses at it must not lock its owner out.
# Loopback is no place of its own: everybody on this machine comes from there. But for nodes with a network of
# their own: each has an address (agent/relay.py), and what its jobs guess slows nobody else.
_NODES = ipaddress.ip_network("127.64.0.0/10")
_PACES = {
    "pair": _Pace(5, 900),
    "local": _Pace(5, 30),
    "address": _Pace(20, 900),
    "account": _Pace(50, 30),
}


def throttle_keys(account: str, address: str) -> tuple[str, ...]:
    """Under which keys an attempt counts. Names are hashed: a password typed as a name is not kept. There are
    65,536 hashes: made-up names fill no disk. The loopback address is not slowed as a whole, and whoever
    guesses at a name there keeps nobody out of it."""
    place = _place(address)
    name = hashlib.sha256(account.strip().lower().encode()).hexdigest()[:4]
    if _is_loopback(address):
        return f"local:{name}", f"account:{name}"
    return f"pair:{name}:{place}", f"account:{name}", f"address:{place}"


def wait_until(held: Iterable[Failures], now: int) -> int:
    """When the next attempt may be made, in microseconds; 0: now."""
    times = (_free_again(failures) for failures in held if now - failures.last_at < FORGET_US)
    latest = max(times, default=0)
    return latest if latest > now else 0


def failed(held: Failures, now: int) -> Failures:
    """With one more failure at `now`."""
    before = 0 if now - held.last_at >= FORGET_US else held.count
    return replace(held, count=before + 1, last_at=now)


def taken_back(held: Failures) -> Failures:
    """Without the attempt that turned out to be right."""
    return replace(held, count=max(held.count - 1, 0))


def _free_again(failures: Failures) -> int:
    pace = _PACES[failures.key.partition(":")[0]]
    over = failures.count - pace.free
    if over < 0:
        return 0
    return failures.last_at + min(2 ** min(over, 20), pace.longest) * SECOND


def _place(address: str) -> str:
    """An IPv6 customer has a whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)


def _is_loopback(address: str) -> bool:
    try:
        place = ipaddress.ip_address(_place(address))
        return (place.is_loopback or ipaddress.ip_address(address).is_loopback) and place not in _NODES
    except ValueError:
        return False


class Refresh(StrEnum):
    ROTATE = "rotate"  # give the next generation
    REPEAT = "repeat"  # give the current one again: the answer before was lost
    REUSE = "reuse"  # an old token: somebody has a copy; the whole family ends
    DEAD = "dead"


def refresh(session: Session, generation: int, now: int) -> tuple[Refresh, str]:
    """What a genuine refresh token of that generation gets, and why."""
    if session.ended_at is not None:
        return Refresh.DEAD, f"This sign-in has ended: {session.end_reason}"
    if now >= session.expires_at or now - session.used_at >= IDLE_US:
        return Refresh.DEAD, "This sign-in has expired."
    if generation == session.generation:
        return Refresh.ROTATE, ""
    if generation == session.generation - 1 and now - session.used_at < LEEWAY_US:
        return Refresh.REPEAT, ""
    return Refresh.REUSE, "A refresh token was used twice: somebody else may have a copy of it."


def check_password(password: str, name: str) -> str:
    """Why a password will not do; "" when it does. Length is what counts (NIST SP 800-63B 3.1.1)."""
    if len(password) < 10:
        return f"It has {len(password)} characters; use 10 or more. A sentence is easy to keep in mind."
    if len(password) > 1024:
        return "It has more than 1024 characters."
    if name.lower() in password.lower() and len(password) - len(name) < 6:
        return "It is hardly more than the user's name."
    if len(set(password)) < 4:
        return "It repeats the same few characters."
    return ""
