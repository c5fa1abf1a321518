"""The home's own certificate authority and the certificate of its listeners.

The CA may only vouch for localhost (a critical name constraint): whoever trusts it gives nothing else away.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.identity.files import write_whole

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_YEARS = 10
SERVER_DAYS = 397  # the longest that strict clients take
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. `bundle` is certifi's bundle and our CA: REQUESTS_CA_BUNDLE replaces certifi."""

    ca: Path
    certificate: Path
    key: Path
    bundle: Path


def tls_files(directory: Path) -> TlsFiles:
    return TlsFiles(
        directory / "ca.pem", directory / "server.pem", directory / "server.key", directory / "ca-bundle.pem"
    )


def ensure(directory: Path, now_us: int) -> TlsFiles:
    """Makes the CA and the server certificate when absent, and renews the latter (or both) near expiry."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = tls_files(directory)
    now = dt.datetime.fromtimestamp(now_us / 1e6, dt.UTC)
    due = now + dt.timedelta(days=RENEW_DAYS)
    ends = _read_ends(directory / "ends.json")
    if not (files.ca.exists() and (directory / "ca.key").exists()) or ends.get("ca", now) <= due:
        ends = {"ca": _make_ca(directory, now)}
    if not (files.certificate.exists() and files.key.exists()) or ends.get("server", now) <= due:
        ends["server"] = _make_server(directory, files, now)
        text = json.dumps({name: end.isoformat() for name, end in ends.items()})
        write_whole(directory / "ends.json", text.encode())
    _write_bundle(files)
    return files


def _read_ends(path: Path) -> dict[str, dt.datetime]:
    """When the certificates end. Kept beside them, so that a start needs no X.509 parser."""
    try:
        return {name: dt.datetime.fromisoformat(end) for name, end in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError):
        return {}


def _write_bundle(files: TlsFiles) -> None:
    import certifi

    wanted = Path(certifi.where()).read_bytes().rstrip() + b"\n\n# Tidemill\n" + files.ca.read_bytes()
    if not files.bundle.exists() or files.bundle.read_bytes() != wanted:
        write_whole(files.bundle, wanted, 0o644)


def _make_ca(directory: Path, now: dt.datetime) -> dt.datetime:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Tidemill local CA {now:%Y-%m-%d %H:%M:%S}")
    ends = now + dt.timedelta(days=365 * CA_YEARS)
    only_here = x509.NameConstraints(
        permitted_subtrees=[
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
            x509.IPAddress(ipaddress.ip_network("::1/128")),
        ],
        excluded_subtrees=None,
    )
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(only_here, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(directory / "ca.key", directory / "ca.pem", key, certificate)
    return ends


def _make_server(directory: Path, files: TlsFiles, now: dt.datetime) -> dt.datetime:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    ends = now + dt.timedelta(days=SERVER_DAYS)
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    certificate = (
        _builder(_name("localhost"), ca.subject, key.public_key(), ca_key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_pair(files.key, files.certificate, key, certificate)
    return ends


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    ends: dt.datetime,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _write_pair(key_path: Path, path: Path, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(key_path, pem)
    write_whole(path, cert.public_bytes(serialization.Encoding.PEM), 0o644)
