"""Rotation of the keys that sign: what still verifies, what does not, and a kill between two writes."""

from __future__ import annotations

import time as clock
from pathlib import Path

import pytest

from tidemill.domain.errors import Unauthenticated
from tidemill.domain.model import Scope
from tidemill.identity import files
from tidemill.identity import keys as key_files
from tidemill.identity.signing import KEPT_US, SigningKeys
from tidemill.identity.tokens import HomeOwner, TokenIssuer

HERE = "https://localhost:8443"
START = 1_800_000_000_000_000
HOUR = 3600 * 1_000_000


class Now:
    def __init__(self) -> None:
        self.us = START

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def now() -> Now:
    return Now()


def issuer(directory: Path, now: Now) -> TokenIssuer:
    keys = key_files.load_or_create(directory)
    owner = HomeOwner("oid-1", "client-1", "ann", keys.identity_header, keys.client_secret)
    return TokenIssuer(
        signing=SigningKeys(directory),
        links=keys.links,
        tenant="t",
        owner=owner,
        audiences=(HERE,),
        now=now,
    )


def test_tokens_from_before_count_until_they_expire(tmp_path: Path, now: Now) -> None:
    tokens = issuer(tmp_path, now)
    old = tokens.issue_owner(HERE, ttl_s=3 * 3600)
    job = tokens.issue_job(uid="j", name="j", scope=Scope("s", "g", "w"), audience=HERE, ttl_s=7 * 24 * 3600)
    before = tokens.key_id
    now.us += HOUR
    tokens.signing.rotate(now.us, at_once=False)
    assert tokens.key_id != before
    assert [key["kid"] for key in tokens.jwks()["keys"]] == [tokens.key_id, before]
    assert tokens.verify(old).oid == "oid-1"
    assert tokens.verify(tokens.issue_owner(HERE)).oid == "oid-1"
    now.us += 3 * HOUR
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.verify(old)
    assert tokens.verify(job).job == "j"
    now.us += KEPT_US
    assert [key["kid"] for key in tokens.jwks()["keys"]] == [tokens.key_id]


def test_a_stolen_key_signs_nothing_new_after_its_retirement(tmp_path: Path, now: Now) -> None:
    tokens = issuer(tmp_path, now)
    stolen = (tmp_path / "signing.pem").read_bytes()
    thief = tmp_path / "thief"
    thief.mkdir()
    (thief / "signing.pem").write_bytes(stolen)
    tokens.signing.rotate(now.us, at_once=False)
    now.us += HOUR
    forged = issuer(thief, now)
    with pytest.raises(Unauthenticated, match="does not count any more"):
        tokens.verify(forged.issue_owner(HERE))


def test_at_once_ends_every_token_from_before(tmp_path: Path, now: Now) -> None:
    tokens = issuer(tmp_path, now)
    first = tokens.issue_owner(HERE)
    tokens.signing.rotate(now.us, at_once=False)
    second = tokens.issue_owner(HERE)
    assert tokens.verify(first).oid == tokens.verify(second).oid
    tokens.signing.rotate(now.us, at_once=True)
    for token in (first, second):
        with pytest.raises(Unauthenticated):
            tokens.verify(token)
    assert len(tokens.jwks()["keys"]) == 1
    assert tokens.verify(tokens.issue_owner(HERE)).oid == "oid-1"


def test_another_process_sees_it(tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    control, data = issuer(tmp_path, now), issuer(tmp_path, now)
    old = control.issue_owner(HERE)
    assert data.verify(old).oid == "oid-1"
    control.signing.rotate(now.us, at_once=True)
    # A new key is looked for at once, a revoked one within a second.
    assert data.verify(control.issue_owner(HERE)).oid == "oid-1"
    ahead = clock.monotonic() + 2
    monkeypatch.setattr("tidemill.identity.signing.time.monotonic", lambda: ahead)
    with pytest.raises(Unauthenticated):
        data.verify(old)


def test_a_kill_between_the_two_writes_loses_nothing(
    tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = issuer(tmp_path, now)
    old = tokens.issue_owner(HERE)

    def killed(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.name == "signing.pem":
            raise KeyboardInterrupt
        files.write_whole(path, data, mode)

    monkeypatch.setattr("tidemill.identity.signing.write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        tokens.signing.rotate(now.us, at_once=True)
    monkeypatch.undo()
    again = issuer(tmp_path, now)
    assert again.verify(old).oid == "oid-1"
    again.signing.rotate(now.us, at_once=False)
    assert again.verify(old).oid == "oid-1"


def test_links_from_before_stay_good_unless_at_once(tmp_path: Path, now: Now) -> None:
    tokens = issuer(tmp_path, now)
    query = tokens.sign_path("/a", now.us + HOUR)
    tokens.take_links(key_files.rotate_links(tmp_path, at_once=False))
    tokens.check_path("/a", query)
    newer = tokens.sign_path("/a", now.us + HOUR)
    again = issuer(tmp_path, now)
    again.check_path("/a", query)
    again.check_path("/a", newer)
    again.take_links(key_files.rotate_links(tmp_path, at_once=True))
    for text in (query, newer):
        with pytest.raises(Unauthenticated):
            again.check_path("/a", text)
    for _ in range(3):
        key_files.rotate_links(tmp_path, at_once=False)
    assert issuer(tmp_path, now).link_keys == 2
