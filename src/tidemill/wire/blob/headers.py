"""What request headers mean: conditions, ranges, metadata, digests. Pure functions."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from tidemill.data.blobmodel import DEFAULT_TYPE, BlobInfo, BlobProperties
from tidemill.wire.blob.errors import StorageError, invalid_header

MAX_RANGE_MD5 = 4 << 20
_METADATA = "x-ms-meta-"
_MAX_METADATA = 8192
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")
_STORED = ("content-encoding", "content-language", "content-disposition", "cache-control")


def http_date(at: int) -> str:
    """Microseconds -> `Mon, 23 Nov 2026 06:09:00 GMT`."""
    return formatdate(at // 1_000_000, usegmt=True)


def quoted(etag: str) -> str:
    return f'"{etag}"'


@dataclass(frozen=True, slots=True)
class Conditions:
    """If-Match and its kin. Times are whole seconds, as in HTTP."""

    match: str | None = None
    none_match: str | None = None
    modified_since: int | None = None
    unmodified_since: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], prefix: str = "") -> Conditions:
        """`prefix` "x-ms-source-" reads those of a copy's source."""
        return cls(
            headers.get(prefix + "if-match"),
            headers.get(prefix + "if-none-match"),
            _seconds(headers, prefix + "if-modified-since"),
            _seconds(headers, prefix + "if-unmodified-since"),
        )

    def check_read(self, etag: str, modified_at: int) -> None:
        """Raises 304 or 412."""
        self._check_match(etag, modified_at)
        if self.none_match is not None:
            if _matches(self.none_match, etag):
                raise _not_met(304)
        elif self.modified_since is not None and modified_at // 1_000_000 <= self.modified_since:
            raise _not_met(304)

    def check_write(self, etag: str | None, modified_at: int) -> None:
        """`etag` None: there is nothing yet. Raises 412, or 409 where nothing was to be there."""
        if etag is None:
            if self.match is not None:
                raise _not_met(412)
            return
        if self.none_match == "*":
            raise StorageError("BlobAlreadyExists", "The specified blob already exists.")
        self._check_match(etag, modified_at)
        if self.none_match is not None:
            if _matches(self.none_match, etag):
                raise _not_met(412)
        elif self.modified_since is not None and modified_at // 1_000_000 <= self.modified_since:
            raise _not_met(412)

    def check_blob(self, info: BlobInfo | None) -> None:
        """As check_write, for a blob's row."""
        self.check_write(info.etag if info else None, info.modified_at if info else 0)

    def _check_match(self, etag: str, modified_at: int) -> None:
        if self.match is not None:
            if not _matches(self.match, etag):
                raise _not_met(412)
        elif self.unmodified_since is not None and modified_at // 1_000_000 > self.unmodified_since:
            raise _not_met(412)


def parse_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """-> (offset, length), cut to `size`; None: the whole blob. Raises InvalidRange (416) where it starts
    beyond the end. Forms that Azure does not know (a suffix, several ranges) are ignored, as HTTP allows."""
    text = headers.get("x-ms-range") or headers.get("range")
    match = _RANGE.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    if first >= size:
        raise StorageError(
            "InvalidRange",
            f"The range {text} starts beyond the end: the blob has {size} bytes.",
            headers={"content-range": f"bytes */{size}"},
        )
    return first, min(last, size - 1) - first + 1


def parse_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """x-ms-meta-*; names in lower case, as they come off the wire."""
    found = {
        name[len(_METADATA) :]: value.strip() for name, value in headers.items() if name.startswith(_METADATA)
    }
    for name in found:
        if not _IDENTIFIER.fullmatch(name):
            raise StorageError(
                "InvalidMetadata" if name else "EmptyMetadataKey",
                f"The metadata name {name!r} is not valid: use letters, digits and '_', not a digit first.",
            )
    if sum(len(name) + len(value) for name, value in found.items()) > _MAX_METADATA:
        raise StorageError("MetadataTooLarge", f"The metadata has more than {_MAX_METADATA} bytes.")
    return found


def parse_md5(headers: Mapping[str, str], name: str) -> bytes | None:
    text = headers.get(name)
    if not text:
        return None
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        value = b""
    if len(value) != 16:
        raise StorageError(
            "InvalidMd5", f"The value {text[:80]!r} of header {name} is not the base64 of an MD5."
        )
    return value


def md5_text(md5: bytes) -> str:
    return base64.b64encode(md5).decode()


def check_md5(expected: bytes | None, actual: bytes | None) -> None:
    if expected is not None and actual is not None and expected != actual:
        raise StorageError(
            "Md5Mismatch",
            "The MD5 given in the request is not the MD5 of what arrived.",
            more={"UserSpecifiedMd5": md5_text(expected), "ServerCalculatedMd5": md5_text(actual)},
        )


def parse_properties(headers: Mapping[str, str], *, body_is_blob: bool) -> BlobProperties:
    """What a Put Blob or Put Block List says of the blob. `body_is_blob`: the request's own Content-* headers
    speak of it too."""
    stored: dict[str, str] = {}
    for name in _STORED:
        value = headers.get("x-ms-blob-" + name) or (headers.get(name) if body_is_blob else None)
        if value:
            stored[name] = value
    content_type = headers.get("x-ms-blob-content-type") or (
        headers.get("content-type") if body_is_blob else None
    )
    md5 = parse_md5(headers, "x-ms-blob-content-md5")
    return BlobProperties(content_type or DEFAULT_TYPE, parse_metadata(headers), stored, md5)


def _matches(expected: str, etag: str) -> bool:
    if expected.strip() == "*":
        return True
    return any(part.strip().removeprefix("W/").strip('"') == etag for part in expected.split(","))


def _seconds(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if not text:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError) as error:
        raise invalid_header(name, text, "write it like 'Mon, 23 Nov 2026 06:09:00 GMT'") from error


def _not_met(status: int) -> StorageError:
    return StorageError(
        "ConditionNotMet",
        "The condition specified using HTTP conditional header(s) is not met.",
        status,
    )
