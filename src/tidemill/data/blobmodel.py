"""What the blob store talks about: plain frozen values. Times are microseconds since the epoch, UTC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tidemill.domain.errors import InvalidRequest

MAX_NAME = 1024  # characters, Azure's limit
DEFAULT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One committed blob. `etag` has no quotes; `headers` holds the rarer ones that are given back on a
    read ("content-encoding", "cache-control", "x-ms-copy-id", …); `generation` names the file."""

    account: str
    container: str
    name: str
    size: int
    etag: str
    generation: str
    created_at: int
    modified_at: int
    md5: bytes | None = None
    content_type: str = DEFAULT_TYPE
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "BlockBlob"  # "BlockBlob" | "AppendBlob"
    parts: int = 0  # how often an append blob was appended to
    committed: bool = True  # False: only uncommitted blocks exist (listed when asked for)


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """What a writer may say about a blob besides its bytes."""

    content_type: str = DEFAULT_TYPE
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    md5: bytes | None = None  # stored as given; None: what was computed, if it was


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    account: str
    name: str
    etag: str
    created_at: int
    modified_at: int
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListPage:
    """Blobs and common prefixes, each in the order of their UTF-8 bytes. `next_marker` is "" on the last
    page, else what `marker` must be for the next."""

    blobs: tuple[BlobInfo, ...]
    prefixes: tuple[str, ...]
    next_marker: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a block blob; `id` is base64 as the client sent it."""

    id: str
    size: int


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One line of a Put Block List. `source`: "Committed" | "Uncommitted" | "Latest"."""

    id: str
    source: str


Check = Callable[[BlobInfo | None], None]
"""Called inside the writing transaction with the blob as it is now; raises to refuse the write."""


def check_blob_name(name: str) -> str:
    """Raises InvalidRequest naming the rule. What a file system can hold plays no part here."""
    if not name or len(name) > MAX_NAME or "\0" in name:
        raise InvalidRequest(
            f"Blob name {name[:80]!r} is not valid: use 1 to {MAX_NAME} characters, none of them NUL.",
            "InvalidResourceName",
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"Blob name {name[:80]!r} is not valid UTF-8.", "InvalidResourceName") from error
    return name
