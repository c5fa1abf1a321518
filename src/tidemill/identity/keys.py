"""The keys of a home: made once, 0600, read at every start."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidemill.identity.files import write_whole
from tidemill.identity.signing import CURRENT, new_key

MASTER = "master.key"  # lines "<8 hex id> <base64 of 32 bytes>", the newest first: encrypts secrets at rest
IDENTITY_HEADER = "identity.header"  # the user's secret for the managed-identity endpoint
CLIENT_SECRET = "client.secret"  # for client credentials
STORAGE = "storage.key"  # 64 bytes each, the newest first: account keys are derived from them
LINKS = "links.key"  # 32 bytes each, the newest first: sign links that carry their own permission

LINK_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """`master` maps key ids to keys; its first one encrypts, all of them decrypt. `links` is one key after
    the other, 32 bytes each; the first one signs. `directory` has the keys that sign tokens
    (identity.signing)."""

    directory: Path
    master: dict[str, bytes]
    identity_header: str
    client_secret: str
    storage: bytes
    links: bytes


def load_or_create(directory: Path) -> Keys:
    """Reads the keys under `directory` (made 0700), creating each that is missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _file(directory / CURRENT, new_key)
    return Keys(
        directory=directory,
        master=_parse_master(_file(directory / MASTER, _new_master_line)),
        identity_header=_file(directory / IDENTITY_HEADER, _new_secret).decode().strip(),
        client_secret=_file(directory / CLIENT_SECRET, _new_secret).decode().strip(),
        storage=_file(directory / STORAGE, lambda: os.urandom(64)),
        links=_file(directory / LINKS, lambda: os.urandom(LINK_KEY_BYTES)),
    )


def rotate_master(directory: Path) -> str:
    """Puts a new master key in front; values encrypted under older ones stay readable. -> its id."""
    line = _new_master_line()
    write_whole(directory / MASTER, line + (directory / MASTER).read_bytes())
    return line.split()[0].decode()


def forget_master(directory: Path, kept: str) -> None:
    """Leaves only the key `kept`: once nothing is sealed under the others."""
    lines = (directory / MASTER).read_bytes().splitlines(keepends=True)
    write_whole(directory / MASTER, b"".join(line for line in lines if line.split()[:1] == [kept.encode()]))


def rotate_links(directory: Path, *, at_once: bool) -> bytes:
    """Puts a new key of links in front. The one before it still verifies, unless `at_once`. -> the keys."""
    before = b"" if at_once else (directory / LINKS).read_bytes()[:LINK_KEY_BYTES]
    keys = os.urandom(LINK_KEY_BYTES) + before
    write_whole(directory / LINKS, keys)
    return keys


def _file(path: Path, make: Callable[[], bytes]) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    if not data:
        data = make()
        write_whole(path, data)
    return data


def _new_secret() -> bytes:
    return secrets.token_urlsafe(32).encode()


def _new_master_line() -> bytes:
    return secrets.token_hex(4).encode() + b" " + base64.b64encode(os.urandom(32)) + b"\n"


def _parse_master(text: bytes) -> dict[str, bytes]:
    pairs = (line.split() for line in text.decode().splitlines() if line.strip())
    return {key_id: base64.b64decode(value) for key_id, value in pairs}
