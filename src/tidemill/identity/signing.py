"""The keys that sign tokens and checkpoints: ES256, one that signs and those before it, which still verify.

Files below home/secrets: `signing.pem` (the private key that signs), `signing.old.json` (public keys of those
before). A rotation writes the old public key before the new private one, so a kill between the two loses
nothing. Another process that has the files (the data process) sees a rotation within `LOOK_EVERY_S`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidemill.identity.files import write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

CURRENT, OLD = "signing.pem", "signing.old.json"
LOOK_EVERY_S = 1.0
# The longest that a token lives (a job's) and a margin: then a retired key verifies no token any more. Its
# public half stays, for checkpoints.
KEPT_US = (7 * 24 + 2) * 3600 * 1_000_000


class OldKey(msgspec.Struct, frozen=True):
    """`revoked`: it was retired at once, and no token of it counts. Times in microseconds."""

    kid: str
    pem: str
    retired_at: int
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the files say; `stamp` tells whether they have changed since."""

    private: ec.EllipticCurvePrivateKey
    public: dict[str, ec.EllipticCurvePublicKey]
    old: dict[str, OldKey]
    kid: str
    stamp: tuple[Any, ...]


class SigningKeys:
    """Of one home. `directory` is its home/secrets, with a `signing.pem` in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys = _load(directory)
        self._looked = time.monotonic()

    @property
    def key_id(self) -> str:
        return self._keys.kid

    @property
    def generation(self) -> object:
        """Another one after each change of the keys: what was verified before may not hold any more."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            if _stamp(self._directory) != self._keys.stamp:
                self._keys = _load(self._directory)
        return self._keys

    def knows(self, kid: str) -> bool:
        """Whether it is a key of this home, of now or before. Looks again for one that is new to it."""
        if kid not in self._keys.public and _stamp(self._directory) != self._keys.stamp:
            self._keys = _load(self._directory)
        return kid in self._keys.public

    def sign(self, data: bytes) -> bytes:
        """64 bytes: r and s, as JOSE has them."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        r, s = decode_dss_signature(self._keys.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def verify(self, kid: str, data: bytes, signature: bytes) -> bool:
        """Whether the key `kid` of this home, of now or before, signed the data."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        key = self._keys.public.get(kid)
        if key is None or len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def counts(self, kid: str, issued_at: int, now: int) -> bool:
        """Whether a token of that key still counts: a retired key's until it would have expired, if it was
        issued before the key was retired. Times in microseconds."""
        old = self._keys.old.get(kid)
        if old is None or kid == self._keys.kid:
            return kid == self._keys.kid
        # A token's time is in seconds.
        return not old.revoked and now < old.retired_at + KEPT_US and issued_at <= old.retired_at

    def jwks(self, now: int) -> dict[str, Any]:
        """The public keys of tokens that count, the newest first."""
        kids = [self._keys.kid, *(kid for kid in self._keys.old if self.counts(kid, 0, now))]
        return {
            "keys": [
                {**_jwk(self._keys.public[kid]), "kid": kid, "use": "sig", "alg": "ES256"} for kid in kids
            ]
        }

    def old(self) -> list[OldKey]:
        """Those before, the newest first."""
        return sorted(self._keys.old.values(), key=lambda key: -key.retired_at)

    def rotate(self, now: int, *, at_once: bool) -> str:
        """A new key signs from now on. `at_once`: no token of any key before counts any more. -> its id."""
        from cryptography.hazmat.primitives import serialization

        keys = self._keys
        pem = keys.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        retired = [OldKey(keys.kid, pem.decode(), now, at_once), *self.old()]
        if at_once:
            retired = [msgspec.structs.replace(key, revoked=True) for key in retired]
        write_whole(self._directory / OLD, msgspec.json.encode(retired))
        write_whole(self._directory / CURRENT, new_key())
        self._keys = _load(self._directory)
        return self._keys.kid


def new_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(directory: Path) -> _Loaded:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    stamp = _stamp(directory)
    private = serialization.load_pem_private_key((directory / CURRENT).read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    kid = thumbprint(private.public_key())
    try:
        old = msgspec.json.decode((directory / OLD).read_bytes(), type=list[OldKey])
    except FileNotFoundError:
        old = []
    # A kill between the two writes of a rotation leaves the key that signs among the old ones, too.
    before = {key.kid: key for key in old if key.kid != kid}
    public: dict[str, ec.EllipticCurvePublicKey] = {kid: private.public_key()}
    for key in before.values():
        loaded = serialization.load_pem_public_key(key.pem.encode())
        assert isinstance(loaded, ec.EllipticCurvePublicKey)
        public[key.kid] = loaded
    return _Loaded(private, public, before, kid, stamp)


def _stamp(directory: Path) -> tuple[Any, ...]:
    found: list[Any] = []
    for name in (CURRENT, OLD):
        try:
            about = os.stat(directory / name)
            found.append((about.st_ino, about.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """RFC 7638: hash of the required members in lexical order."""
    return b64(hashlib.sha256(msgspec.json.encode(_jwk(key))).digest())


def _jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": b64(numbers.x.to_bytes(32, "big")),
        "y": b64(numbers.y.to_bytes(32, "big")),
    }


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
