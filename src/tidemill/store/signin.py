"""The part of the store that holds credentials, sessions, failed sign-ins and people of other providers.

Implemented by `store.signinsql` and `store.signinmemory`. A commit that changes a session touches
(`TOUCHED_SESSION`, id), so that what is kept in memory of it stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tidemill.domain.signin import Credential, CredentialKind, ExternalIdentity, Failures, Session

TOUCHED_SESSION = "session"


class SignInRead(Protocol):
    def credential(self, id: str) -> Credential | None: ...
    def credentials(self, oid: str, kind: CredentialKind | None = None) -> Sequence[Credential]:
        """By creation."""
        ...

    def holders(self, kind: CredentialKind) -> Sequence[str]:
        """The oids that have a credential of that kind, sorted."""
        ...

    def session(self, id: str) -> Session | None: ...
    def sessions(self, oid: str) -> Sequence[Session]:
        """Those that have not ended, by creation."""
        ...

    def failures(self, key: str) -> Failures:
        """Count 0 where there were none."""
        ...

    def external_identity(self, issuer: str, subject: str) -> ExternalIdentity | None: ...
    def external_identities(self, oid: str) -> Sequence[ExternalIdentity]:
        """By creation."""
        ...


class SignInTx(SignInRead, Protocol):
    def insert_credential(self, credential: Credential) -> None:
        """Raises AlreadyExists for an id that is taken."""
        ...

    def delete_credential(self, id: str) -> bool:
        """False if it was not there."""
        ...

    def insert_session(self, session: Session) -> None:
        """Raises AlreadyExists for an id that is taken."""
        ...

    def update_session(self, session: Session) -> Session:
        """Generation, used_at, ended_at and end_reason; the rest stays. Compares and sets the revision."""
        ...

    def end_sessions(self, oid: str, at: int, reason: str) -> int:
        """Ends all that have not ended. -> how many."""
        ...

    def set_failures(self, failures: Failures) -> None:
        """A count of 0 removes the row."""
        ...

    def insert_external_identity(self, identity: ExternalIdentity) -> None:
        """Raises AlreadyExists for an issuer and subject that are taken."""
        ...

    def forget_sign_ins(self, oid: str) -> None:
        """Removes the credentials, sessions and external identities of a principal that is deleted."""
        ...

    def sweep_sign_ins(self, sessions_before: int, failures_before: int) -> None:
        """Removes sessions that expired or ended, and failures whose last was, before those times."""
        ...
