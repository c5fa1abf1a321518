"""`store.signin` over dictionaries. Mixed into MemoryRead and MemoryTx, whose undo log it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tidemill.domain.model import Touched
from tidemill.domain.signin import Credential, CredentialKind, ExternalIdentity, Failures, Session
from tidemill.store.api import AlreadyExists, StaleRevision
from tidemill.store.signin import TOUCHED_SESSION


class SignInTables:
    def __init__(self) -> None:
        self.credentials: dict[str, Credential] = {}
        self.sessions: dict[str, Session] = {}
        self.failures: dict[str, Failures] = {}
        self.identities: dict[tuple[str, str], ExternalIdentity] = {}


class MemorySignInRead:
    _sign_ins: SignInTables

    def credential(self, id: str) -> Credential | None:
        return self._sign_ins.credentials.get(id)

    def credentials(self, oid: str, kind: CredentialKind | None = None) -> Sequence[Credential]:
        found = (c for c in self._sign_ins.credentials.values() if c.oid == oid and kind in (None, c.kind))
        return tuple(sorted(found, key=lambda c: (c.created_at, c.id)))

    def holders(self, kind: CredentialKind) -> Sequence[str]:
        return tuple(sorted({c.oid for c in self._sign_ins.credentials.values() if c.kind is kind}))

    def session(self, id: str) -> Session | None:
        return self._sign_ins.sessions.get(id)

    def sessions(self, oid: str) -> Sequence[Session]:
        found = (s for s in self._sign_ins.sessions.values() if s.oid == oid and s.ended_at is None)
        return tuple(sorted(found, key=lambda s: (s.created_at, s.id)))

    def failures(self, key: str) -> Failures:
        return self._sign_ins.failures.get(key) or Failures(key)

    def external_identity(self, issuer: str, subject: str) -> ExternalIdentity | None:
        return self._sign_ins.identities.get((issuer, subject))

    def external_identities(self, oid: str) -> Sequence[ExternalIdentity]:
        found = (held for held in self._sign_ins.identities.values() if held.oid == oid)
        return tuple(sorted(found, key=lambda held: (held.created_at, held.issuer, held.subject)))


class MemorySignInTx(MemorySignInRead):
    touched: list[Touched]

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        raise NotImplementedError  # MemoryTx's, with its undo

    def _drop(self, table: dict[Any, Any], key: Any) -> None:
        raise NotImplementedError

    def insert_credential(self, credential: Credential) -> None:
        if credential.id in self._sign_ins.credentials:
            raise AlreadyExists(credential.id)
        self._set(self._sign_ins.credentials, credential.id, credential)

    def delete_credential(self, id: str) -> bool:
        if id not in self._sign_ins.credentials:
            return False
        self._drop(self._sign_ins.credentials, id)
        return True

    def insert_session(self, session: Session) -> None:
        if session.id in self._sign_ins.sessions:
            raise AlreadyExists(session.id)
        self._put_session(session)

    def update_session(self, session: Session) -> Session:
        held = self._sign_ins.sessions.get(session.id)
        if held is None or held.revision != session.revision:
            raise StaleRevision(session.id)
        stored = replace(
            held,
            generation=session.generation,
            used_at=session.used_at,
            ended_at=session.ended_at,
            end_reason=session.end_reason,
            revision=session.revision + 1,
        )
        self._put_session(stored)
        return replace(session, revision=stored.revision)

    def end_sessions(self, oid: str, at: int, reason: str) -> int:
        live = self.sessions(oid)
        for session in live:
            revision = session.revision + 1
            self._put_session(replace(session, ended_at=at, end_reason=reason, revision=revision))
        return len(live)

    def set_failures(self, failures: Failures) -> None:
        if failures.count:
            self._set(self._sign_ins.failures, failures.key, failures)
        elif failures.key in self._sign_ins.failures:
            self._drop(self._sign_ins.failures, failures.key)

    def insert_external_identity(self, identity: ExternalIdentity) -> None:
        key = identity.issuer, identity.subject
        if key in self._sign_ins.identities:
            raise AlreadyExists(identity.subject)
        self._set(self._sign_ins.identities, key, identity)

    def forget_sign_ins(self, oid: str) -> None:
        for credential in self.credentials(oid):
            self._drop(self._sign_ins.credentials, credential.id)
        for key in [key for key, held in self._sign_ins.identities.items() if held.oid == oid]:
            self._drop(self._sign_ins.identities, key)
        for id in [id for id, held in self._sign_ins.sessions.items() if held.oid == oid]:
            self._drop(self._sign_ins.sessions, id)
            self.touched.append(Touched(TOUCHED_SESSION, id))

    def sweep_sign_ins(self, sessions_before: int, failures_before: int) -> None:
        for id, session in list(self._sign_ins.sessions.items()):
            ended = session.ended_at is not None and session.ended_at < sessions_before
            if ended or session.expires_at < sessions_before:
                self._drop(self._sign_ins.sessions, id)
        for key, failures in list(self._sign_ins.failures.items()):
            if failures.last_at < failures_before:
                self._drop(self._sign_ins.failures, key)

    def _put_session(self, session: Session) -> None:
        self._set(self._sign_ins.sessions, session.id, session)
        self.touched.append(Touched(TOUCHED_SESSION, session.id))
