"""The keys of a home: made once, 0600, read at every start."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidemill.identity.files import write_whole

SIGNING = "signing.pem"  # EC P-256: signs tokens
MASTER = "master.key"  # lines "<8 hex id> <base64 of 32 bytes>", the newest first: encrypts secrets at rest
IDENTITY_HEADER = "identity.header"  # the user's secret for the managed-identity endpoint
CLIENT_SECRET = "client.secret"  # for client credentials
STORAGE = "storage.key"  # 64 bytes: account keys are derived from it
LINKS = "links.key"  # 32 bytes: signs links that carry their own permission


@dataclass(frozen=True, slots=True)
class Keys:
    """`master` maps key ids to keys; its first one encrypts, all of them decrypt."""

    signing_pem: bytes
    master: dict[str, bytes]
    identity_header: str
    client_secret: str
    storage: bytes
    links: bytes


def load_or_create(directory: Path) -> Keys:
    """Reads the keys under `directory` (made 0700), creating each that is missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Keys(
        signing_pem=_file(directory / SIGNING, _new_signing_key),
        master=_parse_master(_file(directory / MASTER, _new_master_line)),
        identity_header=_file(directory / IDENTITY_HEADER, _new_secret).decode().strip(),
        client_secret=_file(directory / CLIENT_SECRET, _new_secret).decode().strip(),
        storage=_file(directory / STORAGE, lambda: os.urandom(64)),
        links=_file(directory / LINKS, lambda: os.urandom(32)),
    )


def rotate_master(directory: Path) -> str:
    """Puts a new master key in front; values encrypted under older ones stay readable. -> its id."""
    line = _new_master_line()
    write_whole(directory / MASTER, line + (directory / MASTER).read_bytes())
    return line.split()[0].decode()


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


def _new_signing_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
