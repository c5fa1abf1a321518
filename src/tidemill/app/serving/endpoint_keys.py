"""An endpoint's two keys: made here or given, kept sealed in its row, told to the gateway as digests only."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.sealed import FIELD, seal, unseal
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Resource
from tidemill.domain.serving.plan import EndpointStatus

PRIMARY, SECONDARY = "primary", "secondary"
SHORTEST, LONGEST = 32, 256  # of a key that somebody gives: its digest is no secret, so it must be no guess


@dataclass(frozen=True, slots=True)
class Keys:
    primary: str = field(repr=False)
    secondary: str = field(repr=False)


def new_key() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def given_or_new(given: Mapping[str, Any]) -> Keys:
    """Those of a body's `keys`, new ones for what it leaves out. Raises InvalidRequest."""
    primary, secondary = given.get("primaryKey"), given.get("secondaryKey")
    return Keys(
        check_key(primary, "properties.keys.primaryKey") if primary else new_key(),
        check_key(secondary, "properties.keys.secondaryKey") if secondary else new_key(),
    )


def check_key(key: Any, where: str) -> str:
    """Raises InvalidRequest, without the key in it."""
    good = isinstance(key, str) and SHORTEST <= len(key) <= LONGEST and key.isascii() and key.isprintable()
    if not good or " " in key:
        raise InvalidRequest(
            f"{where} is no key: give {SHORTEST} to {LONGEST} printable ASCII characters without spaces, or "
            "none, and one is made.",
            target=where,
        )
    return key


def kept(s: Services, uid: str, keys: Keys, status: EndpointStatus) -> EndpointStatus:
    """The status with these keys. `uid`: of the endpoint's row."""
    sealed = seal(s, uid, {PRIMARY: keys.primary, SECONDARY: keys.secondary})
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in (keys.primary, keys.secondary))
    return EndpointStatus(decode_object(sealed)[FIELD], digests, status.identity)


def keys_of(s: Services, endpoint: Resource) -> Keys:
    found = unseal(s, endpoint)
    return Keys(found[PRIMARY], found[SECONDARY])
