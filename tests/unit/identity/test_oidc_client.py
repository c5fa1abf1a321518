"""What an OpenID Connect provider says is checked: every claim, every key, its addresses."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.oidc import Provider, check_provider, person_of
from tidemill.identity.oidc import KEPT_S, KEYS_AGAIN_S, OidcClient, ProviderFailed

ISSUER = "https://login.example.org"
PROVIDER = Provider("corp", ISSUER, "tm", "s3cret", domains=("example.org",), groups={"ml": "vision"})
NOW = 1_800_000_000
NONCE = "n-1"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "tm",
    "sub": "sub-1",
    "exp": NOW + 300,
    "iat": NOW,
    "nonce": NONCE,
    "email": "Ann@example.org",
    "email_verified": True,
}


class Fake:
    """A provider over a dictionary; `asked` are the addresses in order."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
        self.asked: list[str] = []
        self.time = 0.0
        self.id_token: str | None = None
        self.user_info: dict[str, Any] = {"sub": "sub-1", "groups": ["ml"], "email": "other@evil.test"}
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": ISSUER + "/authorize",
            "token_endpoint": ISSUER + "/token",
            "jwks_uri": ISSUER + "/keys",
            "userinfo_endpoint": ISSUER + "/me",
        }
        self.client = OidcClient(self.fetch, lambda: self.time)

    def fetch(self, url: str, form: dict[str, str] | None, headers: dict[str, str]) -> Any:
        self.asked.append(url)
        if url.endswith("/keys"):
            return {"keys": [self.key.as_dict(private=False), {"kty": "oct", "k": "c2VjcmV0", "kid": "sym"}]}
        if url.endswith("/token"):
            assert form is not None
            assert form["code_verifier"] == "v"
            pair = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
            assert pair == "tm:s3cret"
            return {"id_token": self.id_token, "access_token": "at"}
        if url.endswith("/me"):
            assert headers == {"Authorization": "Bearer at"}
            return self.user_info
        return self.metadata

    def sign(self, claims: dict[str, Any], key: Any = None, **header: Any) -> str:
        alg = "RS256" if not isinstance(key, ECKey) else "ES256"
        return jwt.encode({"alg": alg, "kid": "k1", **header}, claims, key or self.key)

    def finish(self, token: str | None) -> dict[str, Any]:
        self.id_token = token
        return self.client.claims(PROVIDER, "code", "v", "https://here/cb", NONCE, NOW)


@pytest.fixture
def fake() -> Fake:
    return Fake()


def test_claims_of_both_and_the_id_token_wins(fake: Fake) -> None:
    claims = fake.finish(fake.sign(CLAIMS))
    assert (claims["email"], claims["groups"]) == ("Ann@example.org", ["ml"])
    fake.user_info = {"sub": "somebody else", "groups": ["ml"]}
    assert "groups" not in fake.finish(fake.sign(CLAIMS))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["tm", "another"]}, "authorized party"),
        ({"aud": ["another"], "azp": "tm"}, "audience"),
        ({"azp": "another"}, "authorized party"),
        ({"exp": NOW - 61}, "expired"),
        ({"exp": None}, "no exp"),
        ({"iat": NOW + 100}, "in the future"),
        ({"nonce": "n-2"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": ""}, "no subject"),
    ],
)
def test_each_claim_is_checked(fake: Fake, changes: dict[str, Any], said: str) -> None:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    with pytest.raises(Unauthenticated, match=said):
        fake.finish(fake.sign(claims))


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_signatures_of_others_of_nobody_and_of_shared_secrets(fake: Fake) -> None:
    real = fake.sign(CLAIMS)
    header, _, signature = real.split(".")
    for token in (
        fake.sign(CLAIMS, RSAKey.generate_key(2048)),
        fake.sign(CLAIMS, ECKey.generate_key("P-256")),
        f"{b64({'alg': 'none'})}.{b64(CLAIMS)}.",
        f"{header}.{b64({**CLAIMS, 'sub': 'x'})}.{signature}",
        jwt.encode({"alg": "HS256", "kid": "sym"}, CLAIMS, OctKey.import_key("secret")),
        jwt.encode({"alg": "HS256"}, CLAIMS, OctKey.import_key("s3cret")),
        "no token",
    ):
        with pytest.raises(Unauthenticated, match="signed it"):
            fake.finish(token)
    with pytest.raises(ProviderFailed, match="no ID token"):
        fake.finish(None)


def test_a_new_key_is_fetched_when_it_is_met_and_not_again_and_again(fake: Fake) -> None:
    fake.finish(fake.sign(CLAIMS))
    fake.key = RSAKey.generate_key(2048, {"kid": "k2", "use": "sig"})
    fake.time += KEYS_AGAIN_S + 1
    assert fake.finish(fake.sign(CLAIMS, kid="k2"))["sub"] == "sub-1"
    assert fake.asked.count(ISSUER + "/keys") == 2
    for _ in range(5):  # made-up tokens do not make us ask the provider each time
        with pytest.raises(Unauthenticated):
            fake.finish(fake.sign(CLAIMS, RSAKey.generate_key(2048), kid="k9"))
    assert fake.asked.count(ISSUER + "/keys") == 2
    fake.time += KEPT_S
    fake.finish(fake.sign(CLAIMS, kid="k2"))
    assert fake.asked.count(ISSUER + "/keys") == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("issuer", ISSUER + "/", "of the issuer"),
        ("token_endpoint", "http://login.example.org/token", "no https address as token_endpoint"),
        ("jwks_uri", "", "no https address as jwks_uri"),
    ],
)
def test_discovery_is_checked(fake: Fake, name: str, value: str, said: str) -> None:
    fake.metadata[name] = value
    with pytest.raises(ProviderFailed, match=said):
        fake.client.metadata(PROVIDER)


def test_where_the_browser_goes(fake: Fake) -> None:
    url = fake.client.authorize_url(PROVIDER, "https://here/cb", "st", NONCE, "ch")
    assert url.startswith(
        ISSUER + "/authorize?response_type=code&client_id=tm&redirect_uri=https%3A%2F%2Fhere"
    )
    assert "code_challenge=ch&code_challenge_method=S256" in url
    assert "s3cret" not in url


@pytest.mark.parametrize(
    ("changes", "admitted", "groups"),
    [
        ({}, True, set()),
        ({"email_verified": False}, False, set()),
        ({"email_verified": "true"}, False, set()),  # not the boolean: not believed
        ({"email": "ann@example.org.evil.test"}, False, set()),
        ({"email": "ann@sub.example.org"}, False, set()),
        ({"email": "evil.test", "email_verified": True}, False, set()),
        ({"email_verified": False, "groups": ["ml", "other"]}, True, {"vision"}),
        ({"email_verified": False, "groups": "ml"}, True, {"vision"}),
        ({"email_verified": False, "groups": {"ml": 1}}, False, set()),
    ],
)
def test_who_is_let_in(changes: dict[str, Any], admitted: bool, groups: set[str]) -> None:
    person = person_of({**CLAIMS, **changes}, PROVIDER)
    assert (person.admitted, person.groups) == (admitted, groups)


def test_a_person_without_the_claim_that_names_them() -> None:
    with pytest.raises(Unauthenticated, match="no claim 'email'"):
        person_of({"sub": "x"}, PROVIDER)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Corp"},
        {"issuer": "http://login.example.org"},
        {"issuer": "https://login.example.org?x=1"},
        {"client_id": ""},
        {"domains": (), "groups": {}},
    ],
)
def test_providers_that_cannot_be(changes: dict[str, Any]) -> None:
    from dataclasses import replace

    with pytest.raises(InvalidRequest):
        check_provider(replace(PROVIDER, **changes))
