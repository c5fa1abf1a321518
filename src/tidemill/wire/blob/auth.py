"""Who may do what: account keys, shared access signatures, bearer tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import unquote

from tidemill.data.bloburls import ENDPOINT
from tidemill.domain.errors import Forbidden, Unauthenticated
from tidemill.wire.blob.call import Call
from tidemill.wire.blob.errors import StorageError, authentication_failed
from tidemill.wire.blob.grant import Grant
from tidemill.wire.blob.sas import HOLDER, Need, Place, response_overrides, signing_key, verify_sas

RESOURCE = "https://storage.azure.com"
_MAX_SKEW_US = 15 * 60 * 1_000_000
_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_SPACES = re.compile(r"\s*\n\s*")


_ALL = Grant(None, {})


class BlobAccess(Protocol):
    """Who holds keys of an account, and what a token may in it, as of the last commit. `workspace`: the ARM
    id of the account's."""

    async def account_keys(self, account: str, workspace: str) -> Sequence[bytes]:
        """Of everybody who may have a key of the account now, the last used one first."""
        ...

    async def holder_keys(self, account: str, workspace: str, holder: str) -> Sequence[bytes]:
        """Of what the server signed. None of them where the holder is gone, disabled or without the role
        now."""
        ...

    def used(self, account: str, key: bytes) -> None: ...

    async def bearer(self, token: str, workspace: str) -> frozenset[str] | None:
        """The letters (as in a SAS) that a token grants; None: all. Raises Unauthenticated, Forbidden."""
        ...


class Authenticator:
    """`scope_of` gives the ARM id (lower case) of the workspace that owns an account."""

    def __init__(
        self,
        access: BlobAccess,
        scope_of: Callable[[str], str | None],
        now: Callable[[], int],
        authority: str = "https://localhost",
    ) -> None:
        self._access = access
        self._scope_of = scope_of
        self._now = now
        self._challenge = f"Bearer authorization_uri={authority}/oauth2/authorize resource_id={RESOURCE}"

    async def grant(self, call: Call, need: Need) -> Grant:
        """Raises StorageError 401 (no or bad token) or 403."""
        given = call.headers.get("authorization", "")
        scheme, _, rest = given.partition(" ")
        if scheme == "SharedKey":
            await self._check_key(call, rest)
            return _ALL
        if scheme == "Bearer":
            return await self._token_grant(call, rest.strip(), need)
        if "sig" in call.query:
            place = place_of(call, call.account, call.container, call.name)
            return await self.sas_grant(call.query, place, need)
        if given:
            raise authentication_failed(f"The scheme {scheme[:40]!r} is not known: use SharedKey or Bearer.")
        raise self._unauthenticated("NoAuthenticationInformation", "The request has no authorization.")

    async def sas_grant(self, query: Mapping[str, str], place: Place, need: Need) -> Grant:
        account, workspace = place.account, self._scope_of(place.account) or ""
        holder = query.get(HOLDER, "")
        if holder:
            keys = await self._access.holder_keys(account, workspace, holder)
        else:
            keys = await self._access.account_keys(account, workspace)
        letters, key = verify_sas(keys, query, place, need, self._now())
        self._access.used(account, key)
        return Grant(letters, response_overrides(query))

    async def _check_key(self, call: Call, given: str) -> None:
        name, _, signature = given.rpartition(":")
        if name not in account_names(call.account, call.host):
            raise authentication_failed(f"The key's account {name[:80]!r} is not the account of the address.")
        self._check_date(call.headers)
        texts = shared_key_strings(call.method, call.headers, name, call.raw_path, call.raw_query)
        keys = await self._access.account_keys(call.account, self._scope_of(call.account) or "")
        key = signing_key(keys, texts, signature.encode())
        if key is None:
            raise authentication_failed(
                f"The MAC signature found in the HTTP request is not the same as any computed signature. "
                f"Server used following string to sign: '{texts[0]}'. A key works as long as its holder has "
                "the role that it was given for."
            )
        self._access.used(call.account, key)

    def _check_date(self, headers: Mapping[str, str]) -> None:
        text = headers.get("x-ms-date") or headers.get("date") or ""
        try:
            at = int(parsedate_to_datetime(text).timestamp() * 1_000_000)
        except (ValueError, OverflowError) as error:
            raise authentication_failed(f"The request's date {text[:80]!r} cannot be read.") from error
        if abs(at - self._now()) > _MAX_SKEW_US:
            raise authentication_failed(f"Request date header too old: '{text}'.")

    async def _token_grant(self, call: Call, token: str, need: Need) -> Grant:
        try:
            letters = await self._access.bearer(token, self._scope_of(call.account) or "")
        except Unauthenticated as error:
            raise self._unauthenticated("InvalidAuthenticationInfo", error.message) from error
        except Forbidden as error:
            raise StorageError("AuthorizationFailure", error.message) from error
        if letters is None:
            return _ALL
        if not need.service or not letters & set(need.letters):
            raise StorageError(
                "AuthorizationPermissionMismatch",
                "The roles of the token's principal do not allow this on the account.",
            )
        return Grant(letters, {})

    def _unauthenticated(self, code: str, message: str) -> StorageError:
        return StorageError(code, message, headers={"www-authenticate": self._challenge})


def account_names(account: str, host: str) -> tuple[str, ...]:
    """Every name under which clients sign: Azure's short one, the first segment of a path-style address, and
    the alias `localhost:PORT/account` that the SDK takes for the name."""
    return (account, account + ENDPOINT, f"{host}/{account}")


def place_of(call: Call, account: str, container: str, name: str) -> Place:
    return Place(account, account_names(account, call.host), container, name, call.client, call.secure)


def shared_key_strings(
    method: str, headers: Mapping[str, str], account: str, raw_path: str, raw_query: str
) -> list[str]:
    """Strings to sign that clients may have meant: header names in the order of Azure's collation or of
    their bytes; the path with the account in it (path style) or without."""
    values = [_signed_value(headers, name) for name in _SIGNED]
    own = [
        (name, _SPACES.sub(" ", value.strip())) for name, value in headers.items() if name.startswith("x-ms-")
    ]
    orders = [sorted(own, key=lambda item: _collation(item[0])), sorted(own)]
    paths = [raw_path, "/" + raw_path.lstrip("/").partition("/")[2]]
    query = _canonical_query(raw_query)
    texts: list[str] = []
    for order in orders:
        lines = "".join(f"{name}:{value}\n" for name, value in order)
        for path in paths:
            text = "\n".join([method, *values, f"{lines}/{account}{path}{query}"])
            if text not in texts:
                texts.append(text)
    return texts


def _signed_value(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if name == "content-length" and value == "0":
        return ""
    return "" if name == "date" and "x-ms-date" in headers else value


def _canonical_query(raw_query: str) -> str:
    found: dict[str, list[str]] = {}
    for part in raw_query.split("&"):
        if part:
            name, _, value = part.partition("=")
            found.setdefault(unquote(name).lower(), []).append(unquote(value))
    return "".join(f"\n{name}:{','.join(sorted(values))}" for name, values in sorted(found.items()))


def _collation(name: str) -> tuple[list[tuple[int, str]], list[int]]:
    """Azure sorts header names like a dictionary: '-' counts only between names that are otherwise the same,
    and punctuation comes before digits and letters."""
    weights = [((0 if not c.isalnum() else 1), c) for c in name if c != "-"]
    return weights, [-at for at, c in enumerate(name) if c == "-"]
