"""Tokens: what is accepted, and each way of being refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.model import Scope
from tidemill.identity import keys as key_files
from tidemill.identity.signing import SigningKeys
from tidemill.identity.tokens import CACHED_TOKENS, HomeOwner, TokenIssuer

HERE = "https://localhost:8443/"


class FakeTime:
    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.us


def make(keys: key_files.Keys, time: FakeTime, tenant: str = "t-1") -> TokenIssuer:
    return TokenIssuer(
        signing=SigningKeys(keys.directory),
        links=keys.links,
        tenant=tenant,
        owner=HomeOwner("oid-1", "client-1", "ann", keys.identity_header, keys.client_secret),
        audiences=(HERE,),
        now=time,
    )


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def keys(tmp_path):
    return key_files.load_or_create(tmp_path / "secrets")


@pytest.fixture
def issuer(keys, time):
    return make(keys, time)


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict, dict]:
    header, body, _ = token.split(".")
    pad = lambda text: text + "=" * (-len(text) % 4)  # noqa: E731
    return json.loads(base64.urlsafe_b64decode(pad(header))), json.loads(base64.urlsafe_b64decode(pad(body)))


@pytest.mark.parametrize(
    "audience",
    [
        HERE,
        HERE.rstrip("/"),
        "https://ml.azure.localhost",
        "https://management.azure.com//",
        "https://storage.azure.com/",
    ],
)
def test_owner_token_is_accepted_and_echoes_the_audience(issuer, audience):
    token = issuer.issue_owner(audience)
    caller = issuer.verify(token)
    assert (caller.oid, caller.kind, caller.scope, caller.job) == ("oid-1", "User", None, "")
    _, claims = parts(token)
    assert claims["aud"] == audience
    assert claims["tid"] == "t-1"


def test_job_token_carries_its_workspace(issuer):
    scope = Scope("s", "g", "w")
    token = issuer.issue_job(uid="j", name="job-1", scope=scope, audience=HERE, ttl_s=60, acts_as="oid-2")
    caller = issuer.verify(token)
    assert (caller.kind, caller.scope, caller.job) == ("job", scope, "job-1")
    assert (caller.oid, caller.acts_as) == ("j", "oid-2")


def test_expired_token_is_refused_even_when_it_was_cached(issuer, time):
    token = issuer.issue_owner(HERE, ttl_s=10)
    issuer.verify(token)
    time.us += 10_000_000
    with pytest.raises(Unauthenticated, match="expired") as caught:
        issuer.verify(token)
    assert caught.value.code == "ExpiredAuthenticationToken"


def test_token_from_the_future_is_refused(issuer, time):
    token = issuer.issue_owner(HERE)
    time.us -= 120_000_000
    with pytest.raises(Unauthenticated, match="not valid yet"):
        issuer.verify(token)


def test_foreign_key_is_refused(issuer, time, tmp_path):
    other = make(key_files.load_or_create(tmp_path / "other"), time)
    with pytest.raises(Unauthenticated, match="not signed by this server"):
        issuer.verify(other.issue_owner(HERE))


def test_foreign_key_under_our_key_id_is_refused(issuer, time, tmp_path):
    other = make(key_files.load_or_create(tmp_path / "other"), time)
    other.signing._keys = replace(other.signing._keys, kid=issuer.key_id)
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        issuer.verify(other.issue_owner(HERE))


def test_other_issuer_with_the_same_key_is_refused(issuer, keys, time):
    with pytest.raises(Unauthenticated, match="wrong issuer"):
        issuer.verify(make(keys, time, tenant="t-2").issue_owner(HERE))


def test_alg_none_and_changed_claims_are_refused(issuer):
    header, claims = parts(issuer.issue_owner(HERE))
    signature = issuer.issue_owner(HERE).split(".")[2]
    for alg in ("none", "None", "HS256"):
        with pytest.raises(Unauthenticated):
            issuer.verify(f"{b64({**header, 'alg': alg})}.{b64(claims)}.{signature}")
        with pytest.raises(Unauthenticated):
            issuer.verify(f"{b64({**header, 'alg': alg})}.{b64(claims)}.")
    with pytest.raises(Unauthenticated, match="signature does not hold"):
        issuer.verify(f"{b64(header)}.{b64({**claims, 'tm_kind': 'owner', 'exp': 9e9})}.{signature}")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.b", "...", "é.b.c", "a" * 20_000])
def test_rubbish_is_refused(issuer, token):
    with pytest.raises(Unauthenticated):
        issuer.verify(token)


def test_no_token_for_a_foreign_resource(issuer):
    with pytest.raises(InvalidRequest, match="graph"):
        issuer.issue_owner("https://graph.microsoft.com/")


def test_token_of_another_port_is_refused_by_audience(keys, time):
    with_port = make(keys, time)
    other = TokenIssuer(
        signing=SigningKeys(keys.directory),
        links=keys.links,
        tenant="t-1",
        owner=with_port.owner,
        audiences=("https://localhost:9999/",),
        now=time,
    )
    with pytest.raises(Unauthenticated, match="audience"):
        with_port.verify(other.issue_owner("https://localhost:9999/"))


def test_cache_is_bounded(issuer):
    token = issuer.issue_owner(HERE)
    caller = issuer.verify(token)
    issuer._verified.update({f"x{n}": (1, caller) for n in range(CACHED_TOKENS)})
    issuer.verify(issuer.issue_owner(HERE))
    assert len(issuer._verified) <= CACHED_TOKENS


def test_an_endpoints_token_opens_nothing_else(issuer, time):
    token, expires = issuer.issue_for_endpoint("endpoint-uid", "oid-2", "bob")
    _, claims = parts(token)
    assert (claims["aud"], claims["oid"], claims["exp"]) == ("endpoint-uid", "oid-2", expires)
    assert expires == time.us // 1_000_000 + 3600
    with pytest.raises(Unauthenticated, match="audience 'endpoint-uid', not for this server"):
        issuer.verify(token)


def test_signed_links(issuer, time):
    query = issuer.sign_path("/a/b", time.us + 5_000_000)
    issuer.check_path("/a/b", query)
    for path, text in (("/a/c", query), ("/a/b", query + "x"), ("/a/b", ""), ("/a/b", "se=9999999999&sig=x")):
        with pytest.raises(Unauthenticated):
            issuer.check_path(path, text)
    time.us += 5_000_000
    with pytest.raises(Unauthenticated, match="expired"):
        issuer.check_path("/a/b", query)


def test_identity_header_and_client(issuer, keys):
    assert issuer.is_identity_header(keys.identity_header)
    assert not issuer.is_identity_header("")
    assert issuer.is_client("CLIENT-1", keys.client_secret)
    assert not issuer.is_client("client-2", keys.client_secret)
    assert not issuer.is_client("client-1", keys.client_secret + "x")


def test_published_key_verifies_a_token_in_another_library(issuer):
    from joserfc import jwt
    from joserfc.jwk import KeySet

    decoded = jwt.decode(issuer.issue_owner(HERE), KeySet.import_key_set(issuer.jwks()), algorithms=["ES256"])
    assert decoded.claims["oid"] == "oid-1"
