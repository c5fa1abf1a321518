"""`store.signin` as portable SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidemill.domain.model import Touched
from tidemill.domain.signin import Credential, CredentialKind, ExternalIdentity, Failures, Session
from tidemill.store.accesssql import Execute
from tidemill.store.api import AlreadyExists, StaleRevision
from tidemill.store.rows import Row
from tidemill.store.signin import TOUCHED_SESSION

_CREDENTIAL = "id, oid, kind, value, name, hint, created_at, created_by, expires_at"
_SESSION = (
    "id, oid, client, how, address, salt, generation, created_at, used_at, expires_at, ended_at, end_reason, "
    "revision"
)
_SELECT_CREDENTIAL = f"SELECT {_CREDENTIAL} FROM credentials WHERE "
_SELECT_SESSION = f"SELECT {_SESSION} FROM sign_in_sessions WHERE "
_INSERT_CREDENTIAL = (
    f"INSERT INTO credentials ({_CREDENTIAL}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_INSERT_SESSION = (
    f"INSERT INTO sign_in_sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_UPDATE_SESSION = (
    "UPDATE sign_in_sessions SET generation = ?, used_at = ?, ended_at = ?, end_reason = ?, revision = ? "
    "WHERE id = ? AND revision = ?"
)
_END_SESSIONS = (
    "UPDATE sign_in_sessions SET ended_at = ?, end_reason = ?, revision = revision + 1 "
    "WHERE oid = ? AND ended_at IS NULL RETURNING id"
)
_SET_FAILURES = (
    "INSERT INTO sign_in_failures (key, count, last_at) VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET count = excluded.count, last_at = excluded.last_at"
)
_INSERT_IDENTITY = (
    "INSERT INTO external_identities (issuer, subject, oid, created_at) VALUES (?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_KINDS = {kind.value: kind for kind in CredentialKind}


def _to_credential(row: Row) -> Credential:
    id, oid, kind, value, *rest = row
    return Credential(id, oid, _KINDS[kind], bytes(value), *rest)


def _to_session(row: Row) -> Session:
    id, oid, client, how, address, salt, *rest = row
    return Session(id, oid, client, how, address, bytes(salt), *rest)


class SqlSignInRead:
    __slots__ = ()
    _execute: Execute

    def credential(self, id: str) -> Credential | None:
        row = self._execute(_SELECT_CREDENTIAL + "id = ?", (id,)).fetchone()
        return None if row is None else _to_credential(row)

    def credentials(self, oid: str, kind: CredentialKind | None = None) -> Sequence[Credential]:
        found = self._execute(_SELECT_CREDENTIAL + "oid = ? ORDER BY created_at, id", (oid,)).fetchall()
        return tuple(c for c in map(_to_credential, found) if kind is None or c.kind is kind)

    def holders(self, kind: CredentialKind) -> Sequence[str]:
        sql = "SELECT DISTINCT oid FROM credentials WHERE kind = ? ORDER BY oid"
        return tuple(row[0] for row in self._execute(sql, (kind.value,)).fetchall())

    def session(self, id: str) -> Session | None:
        row = self._execute(_SELECT_SESSION + "id = ?", (id,)).fetchone()
        return None if row is None else _to_session(row)

    def sessions(self, oid: str) -> Sequence[Session]:
        sql = _SELECT_SESSION + "oid = ? AND ended_at IS NULL ORDER BY created_at, id"
        return tuple(map(_to_session, self._execute(sql, (oid,)).fetchall()))

    def failures(self, key: str) -> Failures:
        sql = "SELECT key, count, last_at FROM sign_in_failures WHERE key = ?"
        row = self._execute(sql, (key,)).fetchone()
        return Failures(key) if row is None else Failures(*row)

    def external_identity(self, issuer: str, subject: str) -> ExternalIdentity | None:
        sql = (
            "SELECT issuer, subject, oid, created_at FROM external_identities "
            "WHERE issuer = ? AND subject = ?"
        )
        row = self._execute(sql, (issuer, subject)).fetchone()
        return None if row is None else ExternalIdentity(*row)

    def external_identities(self, oid: str) -> Sequence[ExternalIdentity]:
        sql = (
            "SELECT issuer, subject, oid, created_at FROM external_identities WHERE oid = ? "
            "ORDER BY created_at, issuer, subject"
        )
        return tuple(ExternalIdentity(*row) for row in self._execute(sql, (oid,)).fetchall())


class SqlSignInTx(SqlSignInRead):
    __slots__ = ()
    touched: list[Touched]

    def insert_credential(self, credential: Credential) -> None:
        c = credential
        values = (c.id, c.oid, c.kind.value, c.value, c.name, c.hint, c.created_at, c.created_by)
        if self._execute(_INSERT_CREDENTIAL, (*values, c.expires_at)).rowcount == 0:
            raise AlreadyExists(c.id)

    def delete_credential(self, id: str) -> bool:
        return self._execute("DELETE FROM credentials WHERE id = ?", (id,)).rowcount > 0

    def insert_session(self, session: Session) -> None:
        s = session
        values = (s.id, s.oid, s.client, s.how, s.address, s.salt, s.generation, s.created_at, s.used_at)
        rest = (s.expires_at, s.ended_at, s.end_reason, s.revision)
        if self._execute(_INSERT_SESSION, (*values, *rest)).rowcount == 0:
            raise AlreadyExists(s.id)
        self.touched.append(Touched(TOUCHED_SESSION, s.id))

    def update_session(self, session: Session) -> Session:
        s, revision = session, session.revision + 1
        values = (s.generation, s.used_at, s.ended_at, s.end_reason, revision, s.id, s.revision)
        if self._execute(_UPDATE_SESSION, values).rowcount == 0:
            raise StaleRevision(s.id)
        self.touched.append(Touched(TOUCHED_SESSION, s.id))
        return replace(session, revision=revision)

    def end_sessions(self, oid: str, at: int, reason: str) -> int:
        ended = self._execute(_END_SESSIONS, (at, reason, oid)).fetchall()
        self.touched += [Touched(TOUCHED_SESSION, row[0]) for row in ended]
        return len(ended)

    def set_failures(self, failures: Failures) -> None:
        if failures.count == 0:
            self._execute("DELETE FROM sign_in_failures WHERE key = ?", (failures.key,))
        else:
            self._execute(_SET_FAILURES, (failures.key, failures.count, failures.last_at))

    def insert_external_identity(self, identity: ExternalIdentity) -> None:
        values = (identity.issuer, identity.subject, identity.oid, identity.created_at)
        if self._execute(_INSERT_IDENTITY, values).rowcount == 0:
            raise AlreadyExists(identity.subject)

    def forget_sign_ins(self, oid: str) -> None:
        for table in ("credentials", "external_identities"):
            self._execute(f"DELETE FROM {table} WHERE oid = ?", (oid,))
        gone = self._execute("DELETE FROM sign_in_sessions WHERE oid = ? RETURNING id", (oid,)).fetchall()
        self.touched += [Touched(TOUCHED_SESSION, row[0]) for row in gone]

    def sweep_sign_ins(self, sessions_before: int, failures_before: int) -> None:
        self._execute(
            "DELETE FROM sign_in_sessions WHERE expires_at < ? OR ended_at < ?",
            (sessions_before, sessions_before),
        )
        self._execute("DELETE FROM sign_in_failures WHERE last_at < ?", (failures_before,))
