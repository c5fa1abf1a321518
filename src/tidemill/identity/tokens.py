"""Bearer tokens (JWT, ES256) and signed links.

One algorithm, one issuer per home: whatever else a token's header asks for is refused, so there is nothing
to confuse. The issuer has no port in it: a running job's token outlives a restart on other ports.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec

from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.model import Caller, Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.identity.keys import LINK_KEY_BYTES
from tidemill.identity.signing import SigningKeys, b64, unb64

ML_AUDIENCE = "https://ml.azure.localhost"  # what the SDK derives from our portal address
VAULT_AUDIENCE = "https://vault.azure.net"
KNOWN_AUDIENCES = (
    ML_AUDIENCE,
    "https://ml.azure.com",
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://storage.azure.com",
    VAULT_AUDIENCE,
)
PRINCIPAL_TTL_S = 24 * 3600
ID_TOKEN_TTL_S = 3600
ENDPOINT_TTL_S = 3600
CACHED_TOKENS = 4096
_CLOCK_SKEW_S = 60
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class HomeOwner:
    """The principal that the home was made for, and the two secrets that prove to be it."""

    oid: str
    client_id: str
    name: str
    identity_header: str
    client_secret: str


class TokenIssuer:
    """Signs and verifies the tokens of one home.

    `now` gives microseconds. `audiences` are accepted beside KNOWN_AUDIENCES (this server's own addresses).
    """

    def __init__(
        self,
        *,
        signing: SigningKeys,
        links: bytes,
        tenant: str,
        owner: HomeOwner,
        audiences: Iterable[str],
        now: Callable[[], int],
    ) -> None:
        self.signing = signing
        self.take_links(links)
        self._now = now
        self._accepted = frozenset(a.rstrip("/") for a in (*KNOWN_AUDIENCES, *audiences))
        self._verified: dict[str, tuple[int, Caller]] = {}
        self._generation = signing.generation
        self.tenant = tenant
        self.owner = owner
        self.issuer = f"https://localhost/{tenant}/"

    @property
    def key_id(self) -> str:
        return self.signing.key_id

    @property
    def link_keys(self) -> int:
        return len(self._links)

    def take_links(self, keys: bytes) -> None:
        """Keys of links, 32 bytes each: the first one signs, all of them verify."""
        self._links = tuple(keys[at : at + LINK_KEY_BYTES] for at in range(0, len(keys), LINK_KEY_BYTES))

    def issue_to(
        self, principal: Principal, audience: str, ttl_s: float = PRINCIPAL_TTL_S, *, session: str = ""
    ) -> str:
        """A JWT that speaks for `principal`, valid for `ttl_s` seconds from now and as long as the session,
        where there is one, lives. Raises InvalidRequest for an audience that this server would not accept
        back."""
        more = {"sid": session} if session else {}
        return self._issue(
            audience,
            ttl_s,
            oid=principal.oid,
            name=principal.name,
            kind=principal.kind.value,
            app_id=principal.app_id,
            **more,
        )

    def issue_job(
        self, *, uid: str, name: str, scope: Scope, audience: str, ttl_s: float, acts_as: str = ""
    ) -> str:
        """A running job's own token. `acts_as`: the oid of the principal whose roles it has besides."""
        more = {"tm_scope": [scope.subscription, scope.group, scope.workspace], "tm_job": name}
        if acts_as:
            more["tm_as"] = acts_as
        return self._issue(audience, ttl_s, oid=uid, name=name, kind="job", **more)

    def issue_owner(self, audience: str, ttl_s: float = PRINCIPAL_TTL_S) -> str:
        """For whoever proved to be the home's owner."""
        who = self.owner
        return self.issue_to(
            Principal(who.oid, PrincipalKind.USER, who.name, app_id=who.client_id), audience, ttl_s
        )

    def _issue(
        self,
        audience: str,
        ttl_s: float,
        *,
        oid: str,
        name: str,
        kind: str,
        app_id: str = "",
        **more: Any,
    ) -> str:
        self.check_audience(audience)
        now = self._now() // 1_000_000
        claims: dict[str, Any] = {
            "aud": audience,
            "iss": self.issuer,
            "iat": now,
            "nbf": now,
            "exp": now + int(ttl_s),
            "oid": oid,
            "sub": oid,
            "tid": self.tenant,
            "appid": app_id or self.owner.client_id,
            "idtyp": "user" if kind == PrincipalKind.USER else "app",
            "name": name,
            "upn": name,
            "uti": uuid.uuid4().hex,
            "ver": "1.0",
            "tm_kind": kind,
            **more,
        }
        return self._sign(claims)

    def check_audience(self, audience: str) -> None:
        if audience.rstrip("/") not in self._accepted:
            known = ", ".join(sorted(self._accepted))
            raise InvalidRequest(
                f"This server gives no tokens for the resource {audience!r}. It has: {known}.",
                "invalid_resource",
                "resource",
            )

    def verify(self, token: str) -> Caller:
        """Who the token speaks for. Raises Unauthenticated saying which check failed."""
        now = self._now()
        if self.signing.generation is not self._generation:
            self._generation = self.signing.generation
            self._verified.clear()
        cached = self._verified.get(token)
        if cached is not None and now < cached[0]:
            return cached[1]
        claims, expires = self._valid(token, now)
        audience = claims.get("aud")
        if not isinstance(audience, str) or audience.rstrip("/") not in self._accepted:
            raise Unauthenticated(
                f"The access token is for the audience {audience!r}, not for this server.",
                "InvalidAuthenticationTokenAudience",
            )
        caller = _caller(claims)
        if len(self._verified) >= CACHED_TOKENS:
            self._verified.clear()
        self._verified[token] = (expires, caller)
        return caller

    def verify_for_endpoint(self, token: str, endpoint_uid: str) -> str:
        """The oid of whom a token of `issue_for_endpoint` was given to. Raises Unauthenticated saying which
        check failed."""
        claims, _ = self._valid(token, self._now())
        audience = claims.get("aud")
        if audience != endpoint_uid:
            raise Unauthenticated(
                f"The access token is for the audience {audience!r}, not for this endpoint. Get its own: "
                "tidemill endpoint token.",
                "InvalidAuthenticationTokenAudience",
            )
        return str(claims.get("oid", ""))

    def _valid(self, token: str, now: int) -> tuple[dict[str, Any], int]:
        """-> (claims, when it ends) of a token of this server's that holds now, for whatever audience."""
        kid, claims = self._claims(token)
        expires = _seconds(claims, "exp")
        if now >= expires:
            self._verified.pop(token, None)
            raise Unauthenticated(
                "The access token has expired. Get a new one.", "ExpiredAuthenticationToken"
            )
        if not self.signing.counts(kid, _seconds(claims, "iat"), now):
            raise Unauthenticated(
                "The access token was signed by a key that does not count any more. Get a new one.",
                "ExpiredAuthenticationToken",
            )
        if now < _seconds(claims, "nbf") - _CLOCK_SKEW_S * 1_000_000:
            raise Unauthenticated("The access token is not valid yet.", "InvalidAuthenticationToken")
        if claims.get("iss") != self.issuer:
            raise Unauthenticated(
                f"The access token is from the wrong issuer: {claims.get('iss')!r} is not {self.issuer!r}.",
                "InvalidAuthenticationTokenTenant",
            )
        return claims, expires

    def issue_id_token(self, principal: Principal, client_id: str, nonce: str, issuer: str) -> str:
        """Who signed in, for the program that asked (OpenID Connect). Its audience is the program: it opens
        nothing here."""
        now = self._now() // 1_000_000
        claims: dict[str, Any] = {
            "aud": client_id,
            "iss": issuer,
            "iat": now,
            "nbf": now,
            "exp": now + ID_TOKEN_TTL_S,
            "sub": principal.oid,
            "oid": principal.oid,
            "tid": self.tenant,
            "upn": principal.name,
            "preferred_username": principal.name,
            "name": principal.shown,
        }
        return self._sign({**claims, "nonce": nonce} if nonce else claims)

    def issue_for_endpoint(self, endpoint_uid: str, oid: str, name: str) -> tuple[str, int]:
        """-> (a JWT that opens one online endpoint and nothing else, when it expires in seconds since the
        epoch). `oid`, `name`: who asked for it."""
        now = self._now() // 1_000_000
        expires = now + ENDPOINT_TTL_S
        claims: dict[str, Any] = {
            "aud": endpoint_uid,
            "iss": self.issuer,
            "iat": now,
            "nbf": now,
            "exp": expires,
            "oid": oid,
            "sub": oid,
            "tid": self.tenant,
            "name": name,
            "uti": uuid.uuid4().hex,
        }
        return self._sign(claims), expires

    def derived_keys(self, purpose: str) -> tuple[bytes, ...]:
        """32 bytes for one purpose from each key of links: the first one signs, all of them verify."""
        return tuple(hmac.digest(key, f"derived:{purpose}".encode(), hashlib.sha256) for key in self._links)

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set: of tokens from before a rotation, too."""
        return self.signing.jwks(self._now())

    def is_identity_header(self, value: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(value.encode(), self.owner.identity_header.encode())

    def is_client(self, client_id: str, secret: str) -> bool:
        same_id = hmac.compare_digest(client_id.lower().encode(), self.owner.client_id.lower().encode())
        return hmac.compare_digest(secret.encode(), self.owner.client_secret.encode()) and same_id

    def sign_path(self, path: str, expires_at: int) -> str:
        """A query string that lets whoever has it read `path` until `expires_at` (microseconds)."""
        seconds = expires_at // 1_000_000
        return f"se={seconds}&sig={quote(self._link_signature(self._links[0], path, str(seconds)))}"

    def check_path(self, path: str, query: Mapping[str, str] | str) -> None:
        """Raises Unauthenticated unless `query` carries a signature of `path` that has not expired."""
        values = dict(parse_qsl(query)) if isinstance(query, str) else query
        seconds, signature = values.get("se", ""), values.get("sig", "")
        expected = [self._link_signature(key, path, seconds) for key in self._links]
        if not any(hmac.compare_digest(signature.encode(), text.encode()) for text in expected):
            raise Unauthenticated("The link is not signed by this server, or it was changed.")
        if self._now() >= int(seconds) * 1_000_000:
            raise Unauthenticated("The link has expired. Open the page again for a new one.")

    def _link_signature(self, key: bytes, path: str, seconds: str) -> str:
        return b64(hmac.digest(key, f"{path}\n{seconds}".encode(), hashlib.sha256))

    def _sign(self, claims: dict[str, Any]) -> str:
        header = b64(_encode({"alg": "ES256", "typ": "JWT", "kid": self.signing.key_id}))
        signed = f"{header}.{b64(_encode(claims))}"
        return f"{signed}.{b64(self.signing.sign(signed.encode()))}"

    def _claims(self, token: str) -> tuple[str, dict[str, Any]]:
        """The key's id and the claims of a token whose signature holds."""
        if len(token) > 16_384 or not _JWT.fullmatch(token):
            raise Unauthenticated("The access token is not a signed JWT.", "InvalidAuthenticationToken")
        header_text, body_text, signature_text = token.split(".")
        try:
            header, signature = _decode(unb64(header_text)), unb64(signature_text)
            kid = header.get("kid")
            if header.get("alg") != "ES256" or not isinstance(kid, str) or not self.signing.knows(kid):
                raise Unauthenticated(
                    'The access token was not signed by this server. Run: eval "$(tidemill env)"',
                    "InvalidAuthenticationToken",
                )
            if self.signing.verify(kid, f"{header_text}.{body_text}".encode(), signature):
                return kid, _decode(unb64(body_text))
        except (binascii.Error, msgspec.MsgspecError, ValueError):
            pass
        raise Unauthenticated("The access token's signature does not hold.", "InvalidAuthenticationToken")


def _caller(claims: dict[str, Any]) -> Caller:
    scope = claims.get("tm_scope")
    return Caller(
        oid=str(claims.get("oid", "")),
        name=str(claims.get("name", "")),
        kind=str(claims.get("tm_kind", "")),
        scope=Scope(*scope) if scope else None,
        job=str(claims.get("tm_job", "")),
        acts_as=str(claims.get("tm_as", "")),
        session=str(claims.get("sid", "")),
    )


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int):
        raise Unauthenticated(f"The access token has no {name!r} claim.", "InvalidAuthenticationToken")
    return value * 1_000_000
