"""Credentials, sessions, failed sign-ins and people of other providers, in every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidemill.domain.model import Touched
from tidemill.domain.signin import Credential, CredentialKind, ExternalIdentity, Failures, Session
from tidemill.store.api import AlreadyExists, StaleRevision, Store, Tx

PASSWORD, SECRET = CredentialKind.PASSWORD, CredentialKind.SECRET


def credential(number: int, oid: str = "ann", kind: CredentialKind = SECRET) -> Credential:
    ends = None if number % 2 else 99
    return Credential(f"c{number}", oid, kind, b"\x00\xff", "ci", "abc", number, "root", ends)


def session(number: int, oid: str = "ann") -> Session:
    return Session(f"s{number}", oid, "cli", "password", "::1", b"\x00s", 1, number, number, 1000)


async def test_credentials_come_back_as_they_were_stored(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for one in (credential(2), credential(1), credential(3, "bob", PASSWORD)):
            tx.insert_credential(one)

    await store.write(fill)
    assert await store.read(lambda r: r.credential("c1")) == credential(1)
    assert await store.read(lambda r: r.credentials("ann")) == (credential(1), credential(2))
    assert await store.read(lambda r: r.credentials("ann", PASSWORD)) == ()
    assert await store.read(lambda r: (r.holders(PASSWORD), r.holders(SECRET))) == (("bob",), ("ann",))
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.insert_credential(credential(1, "eve")))
    assert await store.write(lambda tx: tx.delete_credential("c1"))
    assert not await store.write(lambda tx: tx.delete_credential("c1"))
    assert await store.read(lambda r: r.credential("c1")) is None


async def test_sessions_compare_and_set_and_say_what_they_touched(store: Store) -> None:
    heard: list[Touched] = []
    store.on_commit(lambda touched: heard.extend(t for t in touched if t.kind == "session"))
    await store.write(lambda tx: tx.insert_session(session(1)))
    wanted = replace(session(1), generation=2, used_at=7)
    assert await store.write(lambda tx: tx.update_session(wanted)) == replace(wanted, revision=2)
    with pytest.raises(StaleRevision):
        await store.write(lambda tx: tx.update_session(wanted))
    assert await store.read(lambda r: r.session("s1")) == replace(wanted, revision=2)
    assert heard == [Touched("session", "s1")] * 2


async def test_ending_all_sessions_of_one(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for one in (session(2), session(1), session(3, "bob")):
            tx.insert_session(one)
        tx.update_session(replace(session(1), ended_at=5, end_reason="logout"))

    await store.write(fill)
    heard: list[Touched] = []
    store.on_commit(lambda touched: heard.extend(touched))
    assert await store.write(lambda tx: tx.end_sessions("ann", 9, "everywhere")) == 1
    assert heard == [Touched("session", "s2")]
    first, second = await store.read(lambda r: (r.session("s1"), r.session("s2")))
    assert first is not None
    assert second is not None
    assert (first.ended_at, first.end_reason) == (5, "logout")
    assert (second.ended_at, second.end_reason, second.revision) == (9, "everywhere", 2)
    assert await store.read(lambda r: (r.sessions("ann"), r.sessions("bob"))) == ((), (session(3, "bob"),))


async def test_failures_are_set_and_removed(store: Store) -> None:
    assert await store.read(lambda r: r.failures("k")) == Failures("k")
    await store.write(lambda tx: tx.set_failures(Failures("k", 1, 5)))
    await store.write(lambda tx: tx.set_failures(Failures("k", 2, 6)))
    assert await store.read(lambda r: r.failures("k")) == Failures("k", 2, 6)
    await store.write(lambda tx: tx.set_failures(Failures("k", 0, 6)))
    await store.write(lambda tx: tx.set_failures(Failures("never", 0, 6)))
    assert await store.read(lambda r: r.failures("k")) == Failures("k")


async def test_external_identities(store: Store) -> None:
    ann = ExternalIdentity("https://idp", "sub-1", "ann", 5)
    await store.write(lambda tx: tx.insert_external_identity(ann))
    assert await store.read(lambda r: r.external_identity("https://idp", "sub-1")) == ann
    assert await store.read(lambda r: r.external_identity("https://other", "sub-1")) is None
    with pytest.raises(AlreadyExists):
        await store.write(lambda tx: tx.insert_external_identity(replace(ann, oid="eve")))
    earlier = ExternalIdentity("https://other", "sub-9", "ann", 4)
    await store.write(lambda tx: tx.insert_external_identity(earlier))
    assert await store.read(lambda r: r.external_identities("ann")) == (earlier, ann)
    assert await store.read(lambda r: r.external_identities("eve")) == ()


async def test_a_deleted_principal_leaves_nothing(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for oid, number in (("ann", 1), ("bob", 2)):
            tx.insert_credential(credential(number, oid))
            tx.insert_session(session(number, oid))
            tx.insert_external_identity(ExternalIdentity("i", oid, oid))
        tx.forget_sign_ins("ann")

    await store.write(fill)
    assert await store.read(lambda r: (r.credentials("ann"), r.sessions("ann"))) == ((), ())
    assert await store.read(lambda r: r.external_identity("i", "ann")) is None
    assert len(await store.read(lambda r: r.credentials("bob") and r.sessions("bob"))) == 1
    assert await store.read(lambda r: r.external_identity("i", "bob")) is not None


async def test_the_sweep_takes_what_is_over(store: Store) -> None:
    def fill(tx: Tx) -> None:
        for number in (1, 2, 3):
            tx.insert_session(replace(session(number), expires_at=50 if number == 1 else 1000))
        tx.update_session(replace(session(2), expires_at=1000, ended_at=60))
        for number in (10, 20):
            tx.set_failures(Failures(f"k{number}", 1, number))
        tx.sweep_sign_ins(100, 15)

    await store.write(fill)
    found = await store.read(lambda r: [r.session(f"s{number}") is not None for number in (1, 2, 3)])
    assert found == [False, False, True]
    assert await store.read(lambda r: [r.failures(f"k{n}").count for n in (10, 20)]) == [0, 1]


async def test_a_closure_that_raises_leaves_nothing(store: Store) -> None:
    await store.write(lambda tx: tx.insert_session(session(1)))

    def spoil(tx: Tx) -> None:
        tx.insert_credential(credential(1))
        tx.end_sessions("ann", 5, "x")
        tx.set_failures(Failures("k", 1, 1))
        tx.insert_external_identity(ExternalIdentity("i", "s", "ann"))
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await store.write(spoil)
    assert await store.read(lambda r: (r.credentials("ann"), r.failures("k").count)) == ((), 0)
    assert await store.read(lambda r: (r.sessions("ann"), r.external_identity("i", "s"))) == (
        (session(1),),
        None,
    )
