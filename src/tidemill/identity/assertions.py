"""A program's client assertion (RFC 7523): a JWT that it signed, checked against its certificates."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tidemill.domain.errors import InvalidRequest, Unauthenticated

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_S = 3600  # how far ahead an assertion may end: one that is stolen is worth no more
_SKEW_S = 60
_MOST = 16_384
_ALGORITHMS = ["RS256", "PS256", "ES256"]


def client_of(assertion: str) -> str:
    """The client id that an assertion claims, unverified. Raises Unauthenticated for what is no JWT."""
    return str(_extract(assertion)[1].get("sub", ""))


def check(
    assertion: str, client_id: str, certificates: Iterable[bytes], audiences: Sequence[str], now_us: int
) -> None:
    """`certificates` are PEM. Raises Unauthenticated with the check that failed."""
    header, _ = _extract(assertion)
    pems = [pem for pem in certificates if _named_by(header, pem)]
    if not pems:
        raise _refused(
            "The client assertion is signed with a certificate that this principal does not have. "
            "tidemill access list-credentials shows those it has."
        )
    claims = next((found for found in (_verified(assertion, pem) for pem in pems) if found), None)
    if claims is None:
        raise _refused("The signature of the client assertion does not hold.")
    _check_claims(claims, client_id, audiences, now_us // 1_000_000)


def _check_claims(claims: dict[str, Any], client_id: str, audiences: Sequence[str], now: int) -> None:
    for name in ("iss", "sub"):
        if str(claims.get(name, "")).lower() != client_id.lower():
            raise _refused(f"The client assertion's {name} is {claims.get(name)!r}, not {client_id!r}.")
    audience: Any = claims.get("aud")
    given = audience if isinstance(audience, list) else [audience]
    if not any(one in audiences for one in given):
        raise _refused(f"The client assertion is for the audience {audience!r}, not for {audiences[0]!r}.")
    ends, starts = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(ends, int | float) or not isinstance(starts, int | float):
        raise _refused("The client assertion has no number of seconds as exp.")
    if ends <= now - _SKEW_S:
        raise _refused("The client assertion has expired.")
    if starts > now + _SKEW_S:
        raise _refused("The client assertion is not valid yet.")
    if ends > now + LONGEST_S + _SKEW_S:
        raise _refused(f"The client assertion ends more than {LONGEST_S} s from now.")


def read_certificate(pem: bytes) -> tuple[str, int]:
    """-> (SHA-1 thumbprint in hex as Azure shows it, end in microseconds). Raises InvalidRequest for what is
    no certificate, or one whose key signs nothing that is accepted."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        _key(pem)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"That is no certificate that programs can sign in with ({error}). Give PEM with an RSA key, or "
            "one on the curve P-256.",
            target="certificate",
        ) from None
    ends = int(certificate.not_valid_after_utc.timestamp() * 1_000_000)
    return certificate.fingerprint(hashes.SHA1()).hex().upper(), ends


def _verified(assertion: str, pem: bytes) -> dict[str, Any] | None:
    from joserfc import jwt
    from joserfc.errors import JoseError

    try:
        return jwt.decode(assertion, _key(pem), registry=_registry()).claims
    except (JoseError, ValueError):
        return None


def _key(pem: bytes) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from joserfc.jwk import ECKey, RSAKey

    public = x509.load_pem_x509_certificate(pem).public_key()
    text = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if isinstance(public, rsa.RSAPublicKey):
        return RSAKey.import_key(text)
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1":
        return ECKey.import_key(text)
    raise ValueError(f"its key is a {type(public).__name__}")


def _extract(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header, claims), unverified."""
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        found = jws.extract_compact(assertion.encode(), registry=_registry())
        return dict(found.headers()), msgspec.json.decode(found.payload, type=dict[str, Any])
    except (JoseError, ValueError, msgspec.MsgspecError) as error:
        raise _refused(f"The client assertion is no JWT: {error}.") from None


def _registry() -> Any:
    """Room for a header with the certificate's whole chain (x5c)."""
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=_ALGORITHMS)
    registry.max_header_length = _MOST
    return registry


def _named_by(header: dict[str, Any], pem: bytes) -> bool:
    """Whether the header's thumbprint is this certificate's; one without a thumbprint may be any."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    for name, digest in (("x5t#S256", hashlib.sha256), ("x5t", hashlib.sha1)):
        if name in header:
            wanted = base64.urlsafe_b64encode(digest(der).digest()).rstrip(b"=").decode()
            return str(header[name]).rstrip("=") == wanted
    return True


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(message, "invalid_client")
