"""Secrets of a row: sealed in its `status` as {"secrets": base64}, bound to its uid. A value that is moved to
another row does not open."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tidemill.app.rows.codec import decode_object, encode
from tidemill.app.services import Services
from tidemill.domain.model import Resource
from tidemill.identity.secrets import SecretBox, key_id_of

FIELD = "secrets"


def seal(s: Services, uid: str, secrets: Mapping[str, Any]) -> bytes:
    """The `status` of the row `uid` that keeps these secrets."""
    return encode({FIELD: _text(s.secrets.encrypt(encode(secrets), uid))}) if secrets else b"{}"


def unseal(s: Services, row: Resource) -> dict[str, Any]:
    """The secrets that the row keeps; {} if there are none. Raises ValueError where they do not open."""
    sealed = sealed_of(row)
    return {} if sealed is None else decode_object(s.secrets.decrypt(sealed, row.uid))


def sealed_of(row: Resource) -> bytes | None:
    text = decode_object(row.status).get(FIELD)
    return base64.b64decode(text) if text else None


def resealed(box: SecretBox, row: Resource) -> Resource | None:
    """The row with its secrets under the box's newest key. None where there is nothing to do."""
    sealed = sealed_of(row)
    if sealed is None or key_id_of(sealed) == box.current:
        return None
    anew = box.encrypt(box.decrypt(sealed, row.uid), row.uid)
    return replace(row, status=encode({**decode_object(row.status), FIELD: _text(anew)}))


def _text(sealed: bytes) -> str:
    return base64.b64encode(sealed).decode()
