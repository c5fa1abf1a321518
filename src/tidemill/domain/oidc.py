"""People of an OpenID Connect provider: which endpoints are taken, and who is let in as whom. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.listening import LOCAL_NAMES

SKEW_S = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Provider:
    """`name` is in addresses, `label` on the button. A person is let in by the domain of a verified e-mail
    address (`domains`), by a group that `groups` maps to one of ours, or because somebody was in before."""

    name: str
    issuer: str
    client_id: str
    client_secret: str = ""
    label: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    user_claim: str = "email"  # what users are called here
    domains: tuple[str, ...] = ()
    groups_claim: str = "groups"
    groups: Mapping[str, str] = field(default_factory=dict[str, str])  # theirs -> ours

    @property
    def shown(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, slots=True)
class Person:
    """`groups` are ours, by the provider's mapping. `admitted`: the provider's rules let a newcomer in."""

    subject: str
    name: str
    display_name: str
    groups: frozenset[str]
    admitted: bool
    verified: bool  # the name is an e-mail address that the provider has verified


def check_provider(provider: Provider) -> Provider:
    """Raises InvalidRequest naming what is wrong with it."""
    if not _NAME.fullmatch(provider.name):
        raise InvalidRequest(
            f"{provider.name!r} is no name of a provider: small letters, digits and hyphens.", target="name"
        )
    if not is_secure(provider.issuer) or urlsplit(provider.issuer).query:
        raise InvalidRequest(
            f"issuer {provider.issuer!r} must be an https address, as in the provider's "
            "/.well-known/openid-configuration (http on loopback only).",
            target="issuer",
        )
    if not provider.client_id:
        raise InvalidRequest(
            "The client id that the provider gave this server is missing.", target="client_id"
        )
    if not provider.domains and not provider.groups:
        raise InvalidRequest(
            "Nobody could sign in: give a domain of e-mail addresses (--domain), or map a group (--group).",
            target="domains",
        )
    return provider


def is_secure(url: str) -> bool:
    """https, or http to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL_NAMES)


def check_claims(claims: Mapping[str, Any], provider: Provider, nonce: str, now_s: int) -> None:
    """An ID token's claims, its signature being good (OpenID Connect Core 3.1.3.7). Raises Unauthenticated
    with the check that failed."""
    if claims.get("iss") != provider.issuer:
        raise _refused(f"it is of the issuer {claims.get('iss')!r}, not {provider.issuer!r}")
    audience: Any = claims.get("aud")
    audiences = _texts(audience)
    if provider.client_id not in audiences:
        raise _refused(f"it is for the audience {audience!r}, not {provider.client_id!r}")
    if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != provider.client_id:
        raise _refused(f"its authorized party is {claims.get('azp')!r}, not {provider.client_id!r}")
    ends, made = claims.get("exp"), claims.get("iat")
    if not isinstance(ends, int | float) or not isinstance(made, int | float):
        raise _refused("it has no exp or no iat")
    if now_s >= ends + SKEW_S:
        raise _refused("it has expired")
    if made > now_s + SKEW_S:
        raise _refused("it was made in the future: compare the clocks")
    if claims.get("nonce") != nonce:
        raise _refused("its nonce is not the one of this sign-in")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise _refused("it has no subject")


def person_of(claims: Mapping[str, Any], provider: Provider) -> Person:
    """Who the claims say it is. Raises Unauthenticated where the claim with the name is missing."""
    name = str(claims.get(provider.user_claim) or "").strip()
    if not name:
        known = ", ".join(sorted(claims))
        raise _refused(f"it has no claim {provider.user_claim!r} to call the user by; it has: {known}")
    theirs = _texts(claims.get(provider.groups_claim))
    groups = frozenset(provider.groups[group] for group in theirs if group in provider.groups)
    email = str(claims.get("email") or "")
    verified = claims.get("email_verified") is True
    domain = email.rpartition("@")[2].lower()
    admitted = bool(groups) or (verified and bool(domain) and domain in provider.domains)
    display = str(claims.get("name") or "")
    return Person(
        str(claims["sub"]), name, display, groups, admitted, verified and name.lower() == email.lower()
    )


def _texts(value: object) -> list[str]:
    """A claim that may be one text or several."""
    if isinstance(value, list):
        return [str(one) for one in cast("list[object]", value)]
    return [value] if isinstance(value, str) else []


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"The provider's ID token is refused: {why}.", "IdTokenRefused")
