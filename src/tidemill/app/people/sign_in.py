"""Signing in: a password proved, a session begun, refreshed and ended."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from tidemill.app.services import Services
from tidemill.domain.errors import TidemillError, Unauthenticated
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.signin import (
    FORGET_US,
    IDLE_US,
    SECOND,
    SESSION_US,
    Credential,
    CredentialKind,
    Refresh,
    Session,
    failed,
    taken_back,
    throttle_keys,
    wait_until,
)
from tidemill.domain.signin import refresh as decide_refresh
from tidemill.identity import refresh as refresh_tokens
from tidemill.store.api import Read, Tx

TOKEN_TTL_S = 3600  # access tokens of a session, and of programs
PROVIDERS = "sign-in.providers"  # the key of the OIDC providers among the store's facts
SWEEP_US = 3600 * SECOND  # how often old sign-ins are removed
PORTAL = "portal"  # the client of a browser's session, which is not refreshed
_WRONG = "The user name or the password is wrong."


class SlowDown(TidemillError):
    """429: too many failed sign-ins. `retry_after_s` is at least 1."""

    def __init__(self, wait_us: int) -> None:
        self.retry_after_s = max(-(-wait_us // SECOND), 1)
        super().__init__(
            f"Too many failed sign-ins. Try again in {self.retry_after_s} s.", "TooManyRequests", status=429
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sign-in gives: who it is, the session, and the refresh token that keeps it going."""

    principal: Principal
    session: Session
    refresh_token: str


async def by_password(services: Services, name: str, password: str, address: str) -> Principal:
    """Raises Unauthenticated in the same words and time for a wrong password, a user who is not there and one
    without a password; SlowDown where there were too many failures under the name or from the address."""
    keys = throttle_keys(name, address)
    now = services.clock.now()

    def attempt(tx: Tx) -> int:
        held = [tx.failures(key) for key in keys]
        until = wait_until(held, now)
        # Counted before the password is looked at: many attempts at once cannot outrun the count.
        if not until:
            for failures in held:
                tx.set_failures(failed(failures, now))
        return until

    until = await services.store.write(attempt)
    if until:
        raise SlowDown(until - now)
    principal, credential = await services.store.read(lambda r: _password_of(r, name))
    stored = None if credential is None else credential.value
    if not await services.passwords.verify(stored, password) or principal is None or credential is None:
        raise Unauthenticated(_WRONG, "InvalidCredentials")
    if principal.disabled:
        raise Unauthenticated(_disabled(principal), "PrincipalDisabled")
    renewed = await services.passwords.hash(password) if services.passwords.outdated(stored or b"") else None

    def right(tx: Tx) -> None:
        for key in keys:
            held = tx.failures(key)
            tx.set_failures(
                replace(held, count=0) if key.startswith(("pair:", "local:")) else taken_back(held)
            )
        if renewed is not None and tx.delete_credential(credential.id):
            tx.insert_credential(replace(credential, value=renewed))

    await services.store.write(right)
    return principal


def _password_of(read: Read, name: str) -> tuple[Principal | None, Credential | None]:
    principal = read.principal_named(name.strip())
    if principal is None or principal.kind is not PrincipalKind.USER:
        return None, None
    return principal, next(iter(read.credentials(principal.oid, CredentialKind.PASSWORD)), None)


async def begin(
    services: Services,
    oid: str,
    *,
    client: str,
    how: str,
    address: str,
    lasts_us: int = SESSION_US,
    allowed_by: str = "",
) -> Grant:
    """A new session. `allowed_by`: the sign-in that allowed it, where there was one: a code or a link that
    was not used yet ends with it. Raises Unauthenticated then, and for a principal that is gone or
    disabled."""
    if allowed_by:
        await services.sessions.check(allowed_by)
    now = services.clock.now()
    session = Session(
        services.ids.uid(), oid, client[:200], how, address, os.urandom(16), 1, now, now, now + lasts_us
    )

    def insert(tx: Tx) -> Principal | None:
        principal = tx.principal(oid)
        if principal is not None and not principal.disabled:
            tx.insert_session(session)
            if sweeps:
                tx.sweep_sign_ins(now - SESSION_US, now - FORGET_US)
        return principal

    sweeps = now >= services.live.sign_ins_swept_at + SWEEP_US
    if sweeps:  # looks at every sign-in of a month
        services.live.sign_ins_swept_at = now
    principal = await services.store.write(insert)
    if principal is None:
        raise Unauthenticated("This principal does not exist here any more.", "ExpiredAuthenticationToken")
    if principal.disabled:
        raise Unauthenticated(_disabled(principal), "PrincipalDisabled")
    return Grant(principal, session, refresh_tokens.make(_keys(services)[0], session))


async def refresh(services: Services, token: str) -> Grant:
    """The next refresh token for one that is good. Raises Unauthenticated: for a forged one, one whose
    session is over, and one that was used before, which ends the session."""
    now, keys = services.clock.now(), _keys(services)
    id = refresh_tokens.session_of(token)

    def turn(tx: Tx) -> tuple[Principal | None, Session | None, str]:
        session = None if id is None else tx.session(id)
        generation = None if session is None else _generation(keys, session, token)
        if session is None or generation is None:
            return None, None, "The refresh token is not of this server, or its sign-in is long over."
        principal = tx.principal(session.oid)
        if principal is None or principal.disabled:
            return None, None, "The principal of this sign-in is gone or disabled."
        what, why = decide_refresh(session, generation, now)
        if what is Refresh.ROTATE:
            return principal, tx.update_session(replace(session, generation=generation + 1, used_at=now)), ""
        if what is Refresh.REPEAT:
            return principal, session, ""
        if what is Refresh.REUSE:
            tx.update_session(replace(session, ended_at=now, end_reason=why))
        return None, None, why

    principal, session, why = await services.store.write(turn)
    if principal is None or session is None:
        raise Unauthenticated(f"{why} Sign in again.", "InvalidRefreshToken")
    return Grant(principal, session, refresh_tokens.make(keys[0], session))


async def end(services: Services, id: str, reason: str) -> bool:
    """False where it was over already."""
    now = services.clock.now()

    def close(tx: Tx) -> bool:
        session = tx.session(id)
        if session is None or session.ended_at is not None:
            return False
        tx.update_session(replace(session, ended_at=now, end_reason=reason))
        return True

    return await services.store.write(close)


async def end_by_token(services: Services, token: str) -> None:
    """Revocation (RFC 7009): what is no token of ours is no error."""
    id = refresh_tokens.session_of(token)
    session = None if id is None else await services.store.read(lambda r: r.session(id))
    if session is not None and _generation(_keys(services), session, token) is not None:
        await end(services, session.id, "signed out")


async def end_all(services: Services, oid: str, reason: str) -> int:
    """-> how many sessions ended."""
    now = services.clock.now()
    return await services.store.write(lambda tx: tx.end_sessions(oid, now, reason))


async def sessions_of(services: Services, oid: str) -> list[Session]:
    """Those that live, the newest first."""
    now = services.clock.now()
    found = await services.store.read(lambda r: r.sessions(oid))
    return [s for s in reversed(found) if s.lives(now) and (s.client == PORTAL or now - s.used_at < IDLE_US)]


def somebody_can(read: Read) -> bool:
    """Whether anybody has a way to sign in besides the home owner's local secret: a user with a password, a
    program with a secret or certificate, or a provider of identities."""
    if (read.meta(PROVIDERS) or b"[]") != b"[]":
        return True
    holders = (oid for kind in CredentialKind for oid in read.holders(kind))
    return any((who := read.principal(oid)) is not None and not who.disabled for oid in holders)


def access_token(services: Services, grant: Grant, audience: str) -> str:
    """Raises InvalidRequest for an audience that this server gives no tokens for."""
    return services.tokens.issue_to(grant.principal, audience, TOKEN_TTL_S, session=grant.session.id)


def _disabled(principal: Principal) -> str:
    return f"The principal {principal.name!r} is disabled. An owner can enable it again."


def _keys(services: Services) -> tuple[bytes, ...]:
    """The first one signs refresh tokens; those of before a rotation verify, too."""
    return services.tokens.derived_keys("refresh tokens")


def _generation(keys: tuple[bytes, ...], session: Session, token: str) -> int | None:
    found = (refresh_tokens.generation_of(key, session, token) for key in keys)
    return next((generation for generation in found if generation is not None), None)
