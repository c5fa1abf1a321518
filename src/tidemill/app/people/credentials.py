"""What principals prove themselves with: passwords of people, secrets and certificates of programs."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import replace

from tidemill.app.people.principals import require
from tidemill.app.people.sign_in import by_password
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import InvalidRequest, NotFound, Unauthenticated
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.signin import Credential, CredentialKind, check_password
from tidemill.identity import assertions
from tidemill.store.api import Read, Tx

DAY_US = 86_400_000_000
SECRET_DAYS = 180
LONGEST_DAYS = 730
_NOBODYS = hashlib.sha256(b"nobody").digest()


async def set_password(services: Services, caller: Caller, who: str, password: str) -> Principal:
    """Sets it and ends every other session of the user. Raises InvalidRequest for a principal that is no
    user, or a password that will not do."""
    principal = await services.store.read(lambda r: require(r, who))
    if principal.kind is not PrincipalKind.USER:
        raise InvalidRequest(
            f"{principal.name!r} is a {principal.kind.value}: only users have passwords. A program signs in "
            "with a secret: tidemill access create-secret",
            target=who,
        )
    problem = check_password(password, principal.name)
    if problem:
        raise InvalidRequest(f"This password will not do. {problem}", "WeakPassword", "password")
    hashed = await services.passwords.hash(password)
    now = services.clock.now()
    made = Credential(
        _guid(services), principal.oid, CredentialKind.PASSWORD, hashed, "", "", now, caller.name
    )

    def store(tx: Tx) -> None:
        for held in tx.credentials(principal.oid, CredentialKind.PASSWORD):
            tx.delete_credential(held.id)
        tx.insert_credential(made)
        for session in tx.sessions(principal.oid):
            if session.id != caller.session:
                tx.update_session(replace(session, ended_at=now, end_reason="the password was changed"))

    await services.store.write(store)
    return principal


async def change_own_password(
    services: Services, caller: Caller, current: str, password: str, address: str
) -> Principal:
    """Raises Unauthenticated where `current` is wrong: a browser that was left open is not enough."""
    await by_password(services, caller.name, current, address)
    return await set_password(services, caller, caller.oid, password)


async def create_secret(
    services: Services, caller: Caller, who: str, name: str = "", days: int = SECRET_DAYS
) -> tuple[Principal, Credential, str]:
    """-> the program, the credential, and the secret, which is shown this once. Raises InvalidRequest for a
    principal that is no program."""
    if not 1 <= days <= LONGEST_DAYS:
        raise InvalidRequest(f"A secret lasts 1 to {LONGEST_DAYS} days, not {days}.", target="days")
    principal = await services.store.read(lambda r: _program(r, who))
    secret = "tms_" + secrets.token_urlsafe(32)
    now = services.clock.now()
    made = Credential(
        _guid(services),
        principal.oid,
        CredentialKind.SECRET,
        _digest(secret),
        name,
        secret[:7],
        now,
        caller.name,
        now + days * DAY_US,
    )
    await services.store.write(lambda tx: tx.insert_credential(made))
    return principal, made, secret


async def add_certificate(
    services: Services, caller: Caller, who: str, pem: bytes, name: str = ""
) -> tuple[Principal, Credential]:
    """It lasts as long as the certificate says. Raises InvalidRequest for what is no certificate that
    signs, or has ended."""
    principal = await services.store.read(lambda r: _program(r, who))
    thumbprint, ends = assertions.read_certificate(pem)
    now = services.clock.now()
    if ends <= now:
        raise InvalidRequest("That certificate has ended. Make a new one.", target="certificate")
    made = Credential(
        _guid(services),
        principal.oid,
        CredentialKind.CERTIFICATE,
        pem,
        name,
        thumbprint,
        now,
        caller.name,
        ends,
    )
    await services.store.write(lambda tx: tx.insert_credential(made))
    return principal, made


async def credentials_of(services: Services, who: str) -> tuple[Principal, Sequence[Credential]]:
    def look(read: Read) -> tuple[Principal, Sequence[Credential]]:
        principal = require(read, who)
        return principal, read.credentials(principal.oid)

    return await services.store.read(look)


async def delete_credential(services: Services, who: str, id: str) -> Credential:
    """A password that goes ends the sign-ins of its user: they would be renewed for weeks. Raises NotFound
    naming those that there are."""
    now = services.clock.now()

    def remove(tx: Tx) -> Credential:
        principal = require(tx, who)
        held = {credential.id: credential for credential in tx.credentials(principal.oid)}
        if id not in held:
            known = ", ".join(held) or "none"
            raise NotFound(
                f"{principal.name!r} has no credential {id!r}. It has: {known}.", "CredentialNotFound", id
            )
        tx.delete_credential(id)
        if held[id].kind is CredentialKind.PASSWORD:
            tx.end_sessions(principal.oid, now, "the password was taken away")
        return held[id]

    return await services.store.write(remove)


async def by_secret(services: Services, client_id: str, secret: str) -> Principal:
    """The program that has this client id and secret. Raises Unauthenticated, in the same words for a program
    that is not there."""

    def look(read: Read) -> tuple[Principal | None, Sequence[Credential]]:
        principal = read.principal_of_app(client_id)
        return principal, () if principal is None else read.credentials(principal.oid, CredentialKind.SECRET)

    principal, held = await services.store.read(look)
    digest, now = _digest(secret), services.clock.now()
    matching = [c for c in held if hmac.compare_digest(c.value, digest)]
    if not held:
        hmac.compare_digest(_NOBODYS, digest)
    if principal is None or not matching:
        raise Unauthenticated("The client id or the client secret is wrong.", "invalid_client")
    if all(credential.expired(now) for credential in matching):
        raise Unauthenticated(
            f"The client secret {matching[0].hint}… of {principal.name!r} has expired. Make a new one: "
            f"tidemill access create-secret {principal.name}",
            "invalid_client",
        )
    return _enabled(principal)


async def by_assertion(
    services: Services, client_id: str, assertion: str, audiences: Sequence[str]
) -> Principal:
    """The program whose certificate signed this client assertion. It is good until it ends, not once: MSAL
    uses one for every resource. Raises Unauthenticated with the check that failed."""
    asked = client_id or assertions.client_of(assertion)
    now = services.clock.now()

    def look(read: Read) -> tuple[Principal | None, list[bytes]]:
        principal = read.principal_of_app(asked)
        held = () if principal is None else read.credentials(principal.oid, CredentialKind.CERTIFICATE)
        return principal, [c.value for c in held if not c.expired(now)]

    principal, pems = await services.store.read(look)
    if principal is None or not pems:
        raise Unauthenticated(
            "The client id is wrong, or it has no certificate that is valid.", "invalid_client"
        )
    assertions.check(assertion, asked, pems, audiences, now)
    return _enabled(principal)


def _program(read: Read, who: str) -> Principal:
    principal = require(read, who)
    if principal.kind is not PrincipalKind.SERVICE_PRINCIPAL:
        raise InvalidRequest(
            f"{principal.name!r} is a {principal.kind.value}: only programs have secrets and certificates. "
            "Make one: tidemill access create-principal NAME",
            target=who,
        )
    return principal


def _enabled(principal: Principal) -> Principal:
    if principal.disabled:
        raise Unauthenticated(f"The principal {principal.name!r} is disabled.", "invalid_client")
    return principal


def _digest(secret: str) -> bytes:
    """Enough for a secret of 256 random bits: nothing is to be guessed."""
    return hashlib.sha256(secret.encode()).digest()


def _guid(services: Services) -> str:
    return str(uuid.UUID(services.ids.uid()))
