"""Codes that are good once and for minutes: OAuth's authorization and device codes, sign-ins at a provider.

In memory: they end with the server, which refuses the rest of a sign-in that a restart cut in two.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from typing import Any

from tidemill.domain.errors import InvalidRequest, NotFound, TidemillError
from tidemill.domain.signin import SECOND

AUTHORIZATION_US = 120 * SECOND
DEVICE_US = 900 * SECOND
INTERVAL_S = 2  # between two polls of a device
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels, no words (RFC 8628 6.1)
_MOST = 10_000  # pending at once; the oldest go first
_MOST_DEVICES = 100  # of one address: nobody needs a sign-in to begin one


@dataclass(frozen=True, slots=True)
class Authorization:
    """Given to a browser for the program at `redirect_uri`, which proves with the verifier of `challenge`
    that it asked."""

    oid: str
    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str
    scope: str  # what was asked for with it
    allowed_by: str = ""  # the sign-in that allowed it; "": a token without one did
    expires_at: int = 0
    session: str = ""  # begun with it, once it was used


@dataclass(frozen=True, slots=True)
class Device:
    """A program without a browser waits with `code` until a person typed `user_code`."""

    code: str
    user_code: str
    client_id: str
    address: str
    scope: str  # what was asked for with it
    expires_at: int
    oid: str = ""  # who allowed it
    allowed_by: str = ""  # the sign-in that did; "": a token without one
    denied: bool = False
    polled_at: int = 0


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """A browser that was sent to a provider. `browser`: the hash of a value in its cookie."""

    provider: str
    nonce: str
    verifier: str
    redirect_uri: str
    after: str
    browser: str
    expires_at: int = 0


class DevicePending(TidemillError):
    """400 of RFC 8628: authorization_pending, slow_down, access_denied, expired_token."""


class CodeBook:
    """Times are microseconds and passed in."""

    def __init__(self) -> None:
        self._authorizations: dict[str, Authorization] = {}
        self._devices: dict[str, Device] = {}
        self._providers: dict[str, PendingSignIn] = {}

    def authorize(self, asked: Authorization, now: int) -> str:
        """-> the code."""
        _trim(self._authorizations, now)
        code = secrets.token_urlsafe(32)
        self._authorizations[code] = replace(asked, expires_at=now + AUTHORIZATION_US)
        return code

    def redeem(
        self, code: str, client_id: str, redirect_uri: str, verifier: str, now: int
    ) -> tuple[Authorization, bool]:
        """-> (what it was given for, whether it was used before: then what came of it must end). Raises
        InvalidRequest with the check that failed."""
        held = self._authorizations.get(code)
        if held is None or now >= held.expires_at:
            raise InvalidRequest("The code is not known, or has expired. Sign in again.", "invalid_grant")
        if held.session:
            return held, True
        problem = ""
        if held.client_id != client_id or held.redirect_uri != redirect_uri:
            problem = "The code was given to another client_id or redirect_uri."
        elif not secrets.compare_digest(held.challenge, challenge_of(verifier)):
            problem = "The code_verifier is not the one of the code_challenge."
        if problem:
            del self._authorizations[code]  # one guess only
            raise InvalidRequest(problem, "invalid_grant")
        self._authorizations[code] = replace(held, session="used")
        return held, False

    def note_session(self, code: str, session: str) -> None:
        self._authorizations[code] = replace(self._authorizations[code], session=session)

    def await_provider(self, state: str, pending: PendingSignIn, now: int) -> None:
        _trim(self._providers, now)
        self._providers[state] = replace(pending, expires_at=now + DEVICE_US)

    def take_provider(self, state: str, now: int) -> PendingSignIn | None:
        """Once; None for a state that is not known, was taken, or is too old."""
        held = self._providers.pop(state, None)
        return held if held is not None and now < held.expires_at else None

    def device(self, client_id: str, address: str, scope: str, now: int) -> Device:
        _trim(self._devices, now)
        mine = [code for code, held in self._devices.items() if held.address == address]
        for old in mine[: max(0, len(mine) - _MOST_DEVICES + 1)]:
            del self._devices[old]
        letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
        made = Device(
            secrets.token_urlsafe(32),
            f"{letters[:4]}-{letters[4:]}",
            client_id,
            address,
            scope,
            now + DEVICE_US,
        )
        self._devices[made.code] = made
        return made

    def waiting(self, user_code: str, now: int) -> Device:
        """By what a person typed. Raises NotFound."""
        wanted = "".join(c for c in user_code.upper() if c.isalpha())
        for device in self._devices.values():
            pending = not device.oid and not device.denied and now < device.expires_at
            if pending and secrets.compare_digest(device.user_code.replace("-", ""), wanted):
                return device
        raise NotFound(
            f"No program waits with the code {user_code[:20]!r}. Codes are good for "
            f"{DEVICE_US // SECOND // 60} minutes and once; start the program's sign-in again.",
            "DeviceCodeNotFound",
        )

    def allow(self, device: Device, oid: str, session: str) -> None:
        self._devices[device.code] = replace(device, oid=oid, allowed_by=session)

    def deny(self, device: Device) -> None:
        self._devices[device.code] = replace(device, denied=True)

    def poll(self, code: str, client_id: str, now: int) -> Device:
        """The device once a person allowed it, once. Raises DevicePending with OAuth's word."""
        held = self._devices.get(code)
        if held is None or held.client_id != client_id or now >= held.expires_at:
            raise DevicePending("The device code is not known, was used, or has expired.", "expired_token")
        if held.denied:
            del self._devices[code]
            raise DevicePending("The sign-in was refused.", "access_denied")
        if held.oid:
            del self._devices[code]
            return held
        self._devices[code] = replace(held, polled_at=now)
        if now - held.polled_at < INTERVAL_S * SECOND // 2:
            raise DevicePending(f"Ask every {INTERVAL_S} s.", "slow_down")
        raise DevicePending("Nobody has typed the code yet.", "authorization_pending")


def challenge_of(verifier: str) -> str:
    """S256 of RFC 7636."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _trim(pending: dict[str, Any], now: int) -> None:
    for code in [code for code, held in pending.items() if held.expires_at <= now]:
        del pending[code]
    while len(pending) >= _MOST:
        del pending[next(iter(pending))]
