"""OpenID Connect providers: which there are, and people who sign in with them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from tidemill.app.codes import PendingSignIn, challenge_of
from tidemill.app.people import principals
from tidemill.app.people.sign_in import PROVIDERS
from tidemill.app.services import Services
from tidemill.domain.errors import Conflict, Forbidden, NotFound, Unauthenticated
from tidemill.domain.oidc import Person, Provider, check_provider, person_of
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.signin import CredentialKind, ExternalIdentity
from tidemill.identity.oidc import new_secret
from tidemill.identity.secrets import SecretBox, key_id_of
from tidemill.store.api import Read, Tx

_decode = msgspec.json.Decoder(list[Provider]).decode
_log = logging.getLogger("tidemill.sign_in")


def _context(name: str) -> str:
    return f"provider/{name}"


async def all_of_them(services: Services) -> Sequence[Provider]:
    """By name; the client secrets are sealed."""
    return await services.store.read(_stored)


def _stored(read: Read) -> list[Provider]:
    raw = read.meta(PROVIDERS)
    return [] if raw is None else _decode(raw)


async def get(services: Services, name: str) -> Provider:
    """With its client secret in clear. Raises NotFound."""
    for provider in await all_of_them(services):
        if provider.name == name:
            if not provider.client_secret:
                return provider
            sealed = bytes.fromhex(provider.client_secret)
            return replace(provider, client_secret=services.secrets.decrypt(sealed, _context(name)).decode())
    raise NotFound(f"There is no provider {name!r} to sign in with.", "ProviderNotFound", name)


async def put(services: Services, provider: Provider) -> Provider:
    """Adds or replaces it. Its discovery document is read first. Raises InvalidRequest, NotFound for a
    group of ours that is not there, ProviderFailed."""
    check_provider(provider)
    await asyncio.to_thread(services.oidc.metadata, provider)
    sealed = services.secrets.encrypt(provider.client_secret.encode(), _context(provider.name))
    kept = replace(provider, client_secret=sealed.hex() if provider.client_secret else "")

    def store(tx: Tx) -> None:
        for group in provider.groups.values():
            principals.require_group(tx, group)
        others = [one for one in _stored(tx) if one.name != provider.name]
        every = sorted([*others, kept], key=lambda one: one.name)
        tx.set_meta(PROVIDERS, msgspec.json.encode(every))

    await services.store.write(store)
    return provider


async def remove(services: Services, name: str) -> None:
    """People who came through it stay, with their roles; they cannot sign in with it. Raises NotFound."""

    def store(tx: Tx) -> None:
        left = [one for one in _stored(tx) if one.name != name]
        if len(left) == len(_stored(tx)):
            raise NotFound(f"There is no provider {name!r}.", "ProviderNotFound", name)
        tx.set_meta(PROVIDERS, msgspec.json.encode(left))

    await services.store.write(store)


def reseal(box: SecretBox, tx: Tx) -> int:
    """Seals the client secrets that are under an older key anew. -> how many."""
    held = _stored(tx)
    found = {p.name: bytes.fromhex(p.client_secret) for p in held if p.client_secret}
    old = {name: sealed for name, sealed in found.items() if key_id_of(sealed) != box.current}
    if old:
        anew = {
            name: box.encrypt(box.decrypt(sealed, _context(name)), _context(name)).hex()
            for name, sealed in old.items()
        }
        every = [replace(p, client_secret=anew.get(p.name, p.client_secret)) for p in held]
        tx.set_meta(PROVIDERS, msgspec.json.encode(every))
    return len(old)


async def begin(services: Services, name: str, redirect_uri: str, after: str) -> tuple[str, str]:
    """-> (where the browser goes, a value that it must bring back in a cookie)."""
    provider = await get(services, name)
    state, nonce, verifier, browser = (new_secret() for _ in range(4))
    url = await asyncio.to_thread(
        services.oidc.authorize_url, provider, redirect_uri, state, nonce, challenge_of(verifier)
    )
    pending = PendingSignIn(name, nonce, verifier, redirect_uri, after, _hash(browser))
    services.codes.await_provider(state, pending, services.clock.now())
    return url, browser


async def finish(services: Services, query: Mapping[str, str], browser: str) -> tuple[Principal, str, str]:
    """-> (who it is, where they wanted to go, the provider's name). Raises Unauthenticated: for an answer
    that was not asked for, was used, or comes to another browser; with the check of the ID token that failed;
    Forbidden for a person whom the provider's rules do not let in."""
    now = services.clock.now()
    pending = services.codes.take_provider(query.get("state", ""), now)
    if pending is None or not secrets.compare_digest(pending.browser, _hash(browser)):
        raise Unauthenticated(
            "This answer of a provider was not asked for by this browser, was used, or came too late. "
            "Sign in again.",
            "SignInExpired",
        )
    provider = await get(services, pending.provider)
    if "error" in query:
        said = query.get("error_description") or query["error"]
        raise Unauthenticated(f"{provider.shown} says: {said[:300]}", "ProviderRefused")
    if query.get("iss", provider.issuer) != provider.issuer:
        raise Unauthenticated(f"The answer is of {query['iss']!r}, another provider.", "SignInExpired")
    claims = await asyncio.to_thread(
        services.oidc.claims,
        provider,
        query.get("code", ""),
        pending.verifier,
        pending.redirect_uri,
        pending.nonce,
        now // 1_000_000,
    )
    who = await _admit(services, provider, claims)
    return who, pending.after, provider.name


async def _admit(services: Services, provider: Provider, claims: dict[str, Any]) -> Principal:
    person = person_of(claims, provider)
    now = services.clock.now()
    new = Principal(
        str(uuid.UUID(services.ids.uid())),
        PrincipalKind.USER,
        principals.check_principal_name(person.name),
        person.display_name,
        created_at=now,
        created_by=f"provider {provider.name}",
    )

    def settle(tx: Tx) -> Principal:
        known = tx.external_identity(provider.issuer, person.subject)
        if known is not None:
            held = tx.principal(known.oid)
            if held is not None:
                return held
        if not person.admitted:
            raise _not_admitted(provider, person)
        mine = _prepared(tx, person) or tx.insert_principal(new)
        tx.insert_external_identity(ExternalIdentity(provider.issuer, person.subject, mine.oid, now))
        return mine

    who = await services.store.write(settle)
    if provider.groups:
        await _follow_groups(services, provider, who, person)
    return who


def _prepared(read: Read, person: Person) -> Principal | None:
    """A user whom somebody made beforehand under the verified address, and who has no other way to sign in.
    Raises Conflict for a name that is taken: another person's roles must not come with it."""
    held = read.principal_named(person.name)
    if held is None:
        return None
    free = held.kind is PrincipalKind.USER and not held.app_id
    used = read.credentials(held.oid, CredentialKind.PASSWORD) or read.external_identities(held.oid)
    if free and person.verified and not used:
        return held
    raise Conflict(
        f"There is a principal {person.name!r} here already, and nothing shows that it is you. Somebody who "
        "administers this server can rename or remove it.",
        "PrincipalExists",
        person.name,
    )


def _not_admitted(provider: Provider, person: Person) -> Forbidden:
    return Forbidden(
        f"{provider.shown} knows you as {person.name!r}, but this server lets in only people with a verified "
        f"e-mail address of {', '.join(provider.domains) or 'no domain'}"
        + (f", or in one of the groups {', '.join(provider.groups)}" if provider.groups else "")
        + ". Ask somebody who administers it.",
        "NotAdmitted",
    )


async def _follow_groups(services: Services, provider: Provider, who: Principal, person: Person) -> None:
    """The groups that the provider maps are the provider's: joined and left as it says."""
    for group in sorted(set(provider.groups.values())):
        try:
            if group in person.groups:
                await principals.add_member(services, group, who.oid)
            else:
                await principals.remove_member(services, group, who.oid)
        except (Conflict, NotFound) as error:
            _log.warning("%s and group %s: %s", who.name, group, error.message)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
