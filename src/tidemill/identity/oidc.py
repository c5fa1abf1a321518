"""An OpenID Connect provider over HTTP: discovery, keys that change, the code's exchange, the ID token."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from tidemill.domain.errors import TidemillError, Unauthenticated
from tidemill.domain.oidc import Provider, check_claims, is_secure

if TYPE_CHECKING:
    from urllib.error import HTTPError

KEPT_S = 3600.0  # discovery and keys
KEYS_AGAIN_S = 10.0  # an unknown key makes us look again, but not more often
_MOST = 1 << 20
_TIMEOUT_S = 10.0
# What a provider signs with a key of its own: never "none", never HMAC with a secret that we have, too.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

# (url, form or None, headers) -> the JSON answer; raises ProviderFailed
Fetch = Callable[[str, dict[str, str] | None, dict[str, str]], Any]


class ProviderFailed(TidemillError):
    """502: the provider did not do its part."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "ProviderFailed", status=502)


class OidcClient:
    """What is known of providers, by issuer. Its methods block on the network: to be called in threads."""

    def __init__(self, fetch: Fetch | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch or fetch_json
        self._monotonic = monotonic
        self._metadata: dict[str, tuple[float, dict[str, Any]]] = {}
        self._keys: dict[str, tuple[float, dict[str, Any]]] = {}

    def metadata(self, provider: Provider) -> dict[str, Any]:
        """The discovery document. Raises ProviderFailed for one of another issuer or with plain http in
        it."""
        held = self._metadata.get(provider.issuer)
        if held is not None and self._monotonic() - held[0] < KEPT_S:
            return held[1]
        url = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
        found = self._fetch(url, None, {})
        if not isinstance(found, dict) or found.get("issuer") != provider.issuer:
            said = found.get("issuer") if isinstance(found, dict) else None
            raise ProviderFailed(
                f"{url} is of the issuer {said!r}, not {provider.issuer!r}: correct --issuer."
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not is_secure(str(found.get(name, ""))):
                raise ProviderFailed(f"{url} has no https address as {name}.")
        self._metadata[provider.issuer] = self._monotonic(), found
        return found

    def authorize_url(
        self, provider: Provider, redirect_uri: str, state: str, nonce: str, challenge: str
    ) -> str:
        """Where the browser goes."""
        base = self.metadata(provider)["authorization_endpoint"]
        query = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(provider.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{base}{'&' if '?' in base else '?'}{urlencode(query)}"

    def claims(
        self, provider: Provider, code: str, verifier: str, redirect_uri: str, nonce: str, now_s: int
    ) -> dict[str, Any]:
        """The code turned into the person's claims: the ID token's, and the user info's where there is one.
        Raises Unauthenticated with the check that failed, ProviderFailed."""
        metadata = self.metadata(provider)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "client_id": provider.client_id,
        }
        headers = _client_authentication(provider, metadata, form)
        answer = self._fetch(metadata["token_endpoint"], form, headers)
        token = answer.get("id_token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise ProviderFailed(f"{provider.shown} gave no ID token for its code.")
        claims = self.verified(provider, token)
        check_claims(claims, provider, nonce, now_s)
        return {**self._user_info(metadata, answer, claims["sub"]), **claims}

    def verified(self, provider: Provider, id_token: str) -> dict[str, Any]:
        """The claims of an ID token whose signature holds. Keys are fetched again for one that is not
        known."""
        for again in (False, True):
            found = self._decode(id_token, self._key_set(provider, again))
            if found is not None:
                return found
        raise Unauthenticated(
            f"The provider's ID token is refused: no key of {provider.shown} signed it.", "IdTokenRefused"
        )

    def _decode(self, token: str, keys: dict[str, Any]) -> dict[str, Any] | None:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        try:
            return jwt.decode(token, KeySet.import_key_set(keys), algorithms=_ALGORITHMS).claims  # type: ignore[arg-type]
        except (JoseError, ValueError, KeyError):
            return None

    def _key_set(self, provider: Provider, again: bool) -> dict[str, Any]:
        held = self._keys.get(provider.issuer)
        age = KEPT_S if held is None else self._monotonic() - held[0]
        if held is not None and age < (KEYS_AGAIN_S if again else KEPT_S):
            return held[1]
        found = self._fetch(self.metadata(provider)["jwks_uri"], None, {})
        if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
            raise ProviderFailed(f"{provider.shown} has no keys at its jwks_uri.")
        public = [key for key in found["keys"] if key.get("kty") != "oct" and key.get("use") in (None, "sig")]
        self._keys[provider.issuer] = self._monotonic(), {"keys": public}
        return {"keys": public}

    def _user_info(self, metadata: Mapping[str, Any], answer: Any, subject: str) -> dict[str, Any]:
        """Many providers put e-mail and groups only there."""
        url, token = str(metadata.get("userinfo_endpoint", "")), answer.get("access_token")
        if not token or not is_secure(url):
            return {}
        found = self._fetch(url, None, {"Authorization": f"Bearer {token}"})
        # Another subject's claims must not be mixed in (OpenID Connect Core 5.3.2).
        return found if isinstance(found, dict) and found.get("sub") == subject else {}


def _client_authentication(
    provider: Provider, metadata: Mapping[str, Any], form: dict[str, str]
) -> dict[str, str]:
    if not provider.client_secret:
        return {}
    methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    if "client_secret_basic" not in methods:
        form["client_secret"] = provider.client_secret
        return {}
    pair = f"{quote(provider.client_id, safe='')}:{quote(provider.client_secret, safe='')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def fetch_json(url: str, form: dict[str, str] | None, headers: dict[str, str]) -> Any:
    """Raises ProviderFailed. Redirects are not followed: what was checked is what is asked."""
    import urllib.error
    import urllib.request

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
        ) -> urllib.request.Request | None:
            return None

    body = None if form is None else urlencode(form).encode()
    request = urllib.request.Request(url, body, {"Accept": "application/json", **headers})
    try:
        with urllib.request.build_opener(NoRedirects).open(request, timeout=_TIMEOUT_S) as reply:
            return json.loads(reply.read(_MOST))
    except urllib.error.HTTPError as error:
        raise ProviderFailed(f"{url} answered {error.code}: {_reason(error)}") from None
    except (OSError, ValueError) as error:
        raise ProviderFailed(f"{url} could not be read: {error}") from None


def _reason(error: HTTPError) -> str:
    try:
        found = json.loads(error.read(_MOST))
        return str(found.get("error_description") or found.get("error"))
    except (OSError, ValueError, AttributeError):
        return str(error.reason)


def new_secret() -> str:
    """A state, nonce or verifier."""
    return secrets.token_urlsafe(32)
