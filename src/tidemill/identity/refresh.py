"""Refresh tokens: `tmr_SESSION_GENERATION_MAC`.

The MAC is over the session's id, its generation and its salt, with a key of the home: nothing that signs
in is in the database, every generation that was ever given can be told from a forgery, and the current one
can be given again.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from tidemill.domain.signin import Session

_FORM = re.compile(r"tmr_([0-9a-f]{32})_([0-9]{1,9})_([0-9a-f]{64})")


def make(key: bytes, session: Session) -> str:
    """The token of the session's generation."""
    return f"tmr_{session.id}_{session.generation}_{_mac(key, session, session.generation)}"


def session_of(token: str) -> str | None:
    """The session that it names; None for what is no refresh token."""
    match = _FORM.fullmatch(token)
    return None if match is None else match[1]


def generation_of(key: bytes, session: Session, token: str) -> int | None:
    """The generation of a genuine token of that session; None for a forged one."""
    match = _FORM.fullmatch(token)
    if match is None or match[1] != session.id:
        return None
    generation = int(match[2])
    genuine = 0 < generation <= session.generation
    return generation if hmac.compare_digest(match[3], _mac(key, session, generation)) and genuine else None


def _mac(key: bytes, session: Session, generation: int) -> str:
    text = f"{session.id}\n{generation}\n".encode() + session.salt
    return hmac.digest(key, text, hashlib.sha256).hex()
