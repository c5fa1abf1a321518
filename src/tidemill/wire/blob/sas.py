"""Shared access signatures: made for users and jobs, and verified. Strings to sign are Azure's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from tidemill.wire.blob.errors import StorageError, authentication_failed

VERSION = "2021-12-02"
# Whose key signed, in the parameter for a correlation id (clients drop those that they do not know). Another
# holder there is another key, so it needs no signature itself.
HOLDER = "scid"
_OLDEST = "2015-04-05"
_WITH_RESOURCE = "2018-11-09"  # sr and snapshot joined the string to sign
_WITH_SCOPE = "2020-12-06"  # ses joined it
_RESPONSE = {  # SAS parameter -> header of the answer to a read
    "rscc": "cache-control",
    "rscd": "content-disposition",
    "rsce": "content-encoding",
    "rscl": "content-language",
    "rsct": "content-type",
}


@dataclass(frozen=True, slots=True)
class Need:
    """What an operation asks of a SAS: any one of `letters`; the resource type of an account SAS
    ("s" | "c" | "o"); whether a service SAS can give it at all."""

    letters: str
    resource: str
    service: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """What a request reaches, and how it came."""

    account: str
    names: tuple[str, ...]  # every name under which clients sign for the account
    container: str
    blob: str
    client: str = ""  # IP address
    secure: bool = True


def make_sas(
    key: str,
    account: str,
    container: str,
    blob: str | None,
    permissions: str,
    expires_at: int,
    *,
    starts_at: int | None = None,
    protocol: str = "",
    content_disposition: str = "",
    content_type: str = "",
    holder: str = "",
) -> str:
    """A service SAS (query string without `?`) for a blob, or for a container where `blob` is None.
    `key`: the account's, base64. `permissions`: letters in Azure's order `racwdxltmeop`. Times: microseconds.
    `protocol`: "" (both) | "https" | "https,http". `holder`: whom the key was derived for, where the server
    signs: it is looked up by that."""
    values = {
        "sv": VERSION,
        "st": _time_text(starts_at) if starts_at is not None else "",
        "se": _time_text(expires_at),
        "sr": "c" if blob is None else "b",
        "sp": permissions,
        "spr": protocol,
        "rscd": content_disposition,
        "rsct": content_type,
    }
    resource = f"/blob/{account}/{container}" + ("" if blob is None else f"/{blob}")
    values["sig"] = sign(base64.b64decode(key), service_string(values, resource))
    values[HOLDER] = holder
    return urlencode({name: value for name, value in values.items() if value}, quote_via=quote)


def verify_sas(
    keys: Iterable[bytes], query: Mapping[str, str], place: Place, need: Need, now: int
) -> tuple[frozenset[str], bytes]:
    """-> (the letters it grants, which of `keys` signed it). Raises StorageError (403) saying which check
    failed."""
    version = query.get("sv", "")
    if not _OLDEST <= version <= "9999":
        raise authentication_failed(f"sv is {version!r}: use {_OLDEST} or later.")
    if "ss" in query:
        candidates = [account_string(query, name) for name in place.names]
    else:
        candidates = [service_string(query, resource) for resource in _resources(query, place)]
    signature = query.get("sig", "").encode()
    key = signing_key(keys, candidates, signature)
    if key is None:
        raise authentication_failed(f"Signature did not match. String to sign used was {candidates[0]}")
    _check_time(query, now)
    _check_way(query, place)
    if "ss" in query:
        _check_account(query, need)
    elif not need.service:
        raise StorageError(
            "AuthorizationPermissionMismatch",
            "A service SAS cannot do this; use the account key or an account SAS.",
        )
    granted = frozenset(query.get("sp", ""))
    if not granted & set(need.letters):
        raise StorageError(
            "AuthorizationPermissionMismatch",
            f"The SAS grants {query.get('sp', '')!r}; this request needs one of {need.letters!r}.",
        )
    return granted, key


def signing_key(keys: Iterable[bytes], texts: Iterable[str], signature: bytes) -> bytes | None:
    """The first key under which one of `texts` has that signature."""
    for key in keys:
        if any(hmac.compare_digest(sign(key, text).encode(), signature) for text in texts):
            return key
    return None


def response_overrides(query: Mapping[str, str]) -> dict[str, str]:
    """Headers that a SAS sets on the answer."""
    return {header: query[name] for name, header in _RESPONSE.items() if query.get(name)}


def sign(key: bytes, text: str) -> str:
    return base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()


def service_string(query: Mapping[str, str], resource: str) -> str:
    version = query.get("sv", "")
    names = ["sp", "st", "se", "", "si", "sip", "spr", "sv"]
    if version >= _WITH_RESOURCE:
        names += ["sr", "snapshot"]
    if version >= _WITH_SCOPE:
        names.append("ses")
    names += list(_RESPONSE)
    return "\n".join(query.get(name, "") if name else resource for name in names)


def account_string(query: Mapping[str, str], account: str) -> str:
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if query.get("sv", "") >= _WITH_SCOPE:
        names.append("ses")
    return "\n".join([account, *(query.get(name, "") for name in names)]) + "\n"


def _resources(query: Mapping[str, str], place: Place) -> list[str]:
    """Canonical resources this SAS may have been signed for; none where it is of a kind not known here."""
    kind = query.get("sr", "")
    if query.get("skoid"):
        raise authentication_failed("User delegation SAS are not offered: sign with the account key.")
    if query.get("si"):
        raise authentication_failed("Stored access policies (si) are not offered: put sp and se in the SAS.")
    if kind == "c" and place.container:
        return [f"/blob/{name}/{place.container}" for name in place.names]
    if kind == "b" and place.blob:
        return [f"/blob/{name}/{place.container}/{place.blob}" for name in place.names]
    raise authentication_failed(f"A SAS with sr={kind!r} does not open this resource.")


def _check_time(query: Mapping[str, str], now: int) -> None:
    start, end = query.get("st", ""), query.get("se", "")
    if not end:
        raise authentication_failed("The SAS has no expiry (se).")
    if now >= _time(end) or (start and now < _time(start)):
        raise authentication_failed(
            f"Signature not valid in the specified time frame: Start [{start}] - Expiry [{end}] - "
            f"Current [{_time_text(now)}]"
        )


def _check_way(query: Mapping[str, str], place: Place) -> None:
    if query.get("spr") == "https" and not place.secure:
        raise StorageError("AuthorizationProtocolMismatch", "The SAS permits https only.")
    allowed = query.get("sip", "")
    if allowed and not _in_range(place.client, allowed):
        raise StorageError(
            "AuthorizationSourceIPMismatch",
            f"The SAS permits {allowed}; the request came from {place.client}.",
        )


def _check_account(query: Mapping[str, str], need: Need) -> None:
    if "b" not in query.get("ss", ""):
        raise StorageError(
            "AuthorizationServiceMismatch", "The account SAS is not for the blob service (ss)."
        )
    if need.resource not in query.get("srt", ""):
        raise StorageError(
            "AuthorizationResourceTypeMismatch",
            f"The account SAS grants resource types {query.get('srt', '')!r}; this needs {need.resource!r}.",
        )


def _in_range(client: str, allowed: str) -> bool:
    first, _, last = allowed.partition("-")
    try:
        address = ipaddress.ip_address(client)
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last or first)
    except ValueError:
        return False
    return address.version == low.version == high.version and int(low) <= int(address) <= int(high)


def _time(text: str) -> int:
    try:
        value = datetime.fromisoformat(text)
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise authentication_failed(f"{text!r} is not a time: write it like 2026-11-23T06:09:00Z.") from error


def _time_text(at: int) -> str:
    return datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
