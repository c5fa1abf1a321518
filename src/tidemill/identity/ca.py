"""The home's own certificate authority and the certificates of its listeners.

The CA may only vouch for localhost and the names that the server was started with (a critical name
constraint): whoever trusts it gives nothing else away. When names come or go it is issued anew with the same
key, so `fingerprint` stays. The names have a certificate of their own: a job that runs with the earlier CA in
its hands still trusts the one of localhost.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.identity.files import write_whole

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_YEARS = 10
SERVER_DAYS = 397  # the longest that strict clients take
RENEW_DAYS = 30
# Debian, Red Hat, SUSE, Alpine
_SYSTEM_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
MADE = "ends.json"


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. `bundle` takes the place of what REQUESTS_CA_BUNDLE and SSL_CERT_FILE named before.
    `names` is there where the server has names beside localhost."""

    ca: Path
    certificate: Path
    key: Path
    bundle: Path
    names: Pair


def tls_files(directory: Path) -> TlsFiles:
    return TlsFiles(
        directory / "ca.pem",
        directory / "server.pem",
        directory / "server.key",
        directory / "ca-bundle.pem",
        Pair(directory / "names.pem", directory / "names.key"),
    )


def ensure(directory: Path, now_us: int, names: Sequence[str] = ()) -> TlsFiles:
    """Makes the CA and the certificates when absent, renews them near expiry, and issues the CA and the
    certificate of `names` (host names and IP addresses beside localhost) anew when those change."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = tls_files(directory)
    now = dt.datetime.fromtimestamp(now_us / 1e6, dt.UTC)
    due = now + dt.timedelta(days=RENEW_DAYS)
    made = _read_made(directory / MADE)
    wanted = sorted(names)
    ends = {name: dt.datetime.fromisoformat(end) for name, end in made.get("ends", {}).items()}
    key_kept = files.ca.exists() and (directory / "ca.key").exists() and ends.get("ca", now) > due
    if not key_kept:
        ends = {"ca": _make_ca(directory, wanted, now)}
    elif made.get("names", []) != wanted:
        ends |= {"ca": _make_ca(directory, wanted, now, _load_key(directory / "ca.key"))}
        ends.pop("names", None)
    local = Pair(files.certificate, files.key)
    if not _is_there(local) or ends.get("server", now) <= due:
        ends["server"] = _make_server(directory, local, (), now)
    if wanted and (not _is_there(files.names) or ends.get("names", now) <= due):
        ends["names"] = _make_server(directory, files.names, wanted, now)
    now_made = {
        "ends": {name: end.isoformat() for name, end in ends.items()},
        "names": wanted,
        "fingerprint": made.get("fingerprint") if key_kept else fingerprint(files.ca.read_bytes()),
    }
    if now_made != made:
        write_whole(directory / MADE, json.dumps(now_made).encode())
    _write_bundle(files)
    return files


def known_fingerprint(directory: Path) -> str:
    """The CA's, as it was noted when the CA was made."""
    return str(_read_made(directory / MADE).get("fingerprint", ""))


def renew_at(directory: Path) -> int:
    """When `ensure` has something to renew next, in microseconds; 0: now."""
    ends = [dt.datetime.fromisoformat(end) for end in _read_made(directory / MADE).get("ends", {}).values()]
    if not ends:
        return 0
    return int((min(ends) - dt.timedelta(days=RENEW_DAYS)).timestamp() * 1_000_000)


def fingerprint(ca_pem: bytes) -> str:
    """What people compare before they trust a CA: `sha256:` and the hash of its public key. It stays when the
    CA is issued anew for other names. Raises ValueError for what is no certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    public = x509.load_pem_x509_certificate(ca_pem).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def _is_there(pair: Pair) -> bool:
    return pair.certificate.exists() and pair.key.exists()


def _read_made(path: Path) -> dict[str, Any]:
    """For which names, and when the certificates end. Kept beside them, so that a start needs no X.509
    parser; {} where it is not there or of an earlier version: everything is made anew."""
    try:
        made = json.loads(path.read_bytes())
        return made if isinstance(made.get("ends"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_bundle(files: TlsFiles) -> None:
    write_bundle(files.bundle, files.ca.read_bytes())


def write_bundle(path: Path, ca_pem: bytes) -> None:
    """certifi's certificates, what this host trusts besides (its store, and bundles that its variables name)
    and this CA: who is pointed at the bundle trusts nothing less than before."""
    import certifi

    text = Path(certifi.where()).read_bytes().rstrip() + b"\n"
    known = {_body(block) for block in _CERTIFICATE.findall(text)} | {_body(ca_pem)}
    for source in _trusted_here(path):
        new = [block for block in _CERTIFICATE.findall(source.read_bytes()) if _body(block) not in known]
        if new:
            text += b"\n# " + str(source).encode() + b"\n" + b"\n".join(new) + b"\n"
            known.update(map(_body, new))
    wanted = text + b"\n# Tidemill\n" + ca_pem
    if not path.exists() or path.read_bytes() != wanted:
        write_whole(path, wanted, 0o644)


def _trusted_here(own: Path) -> list[Path]:
    """The files that can be read; `own` is what is being written."""
    named = [os.environ.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    found = [Path(name) for name in (*named, *_SYSTEM_STORES) if name]
    readable = [path for path in found if path.is_file() and os.access(path, os.R_OK)]
    return [path for path in dict.fromkeys(readable) if not (own.exists() and path.samefile(own))]


def _body(block: bytes) -> bytes:
    """The same for every way to break its lines."""
    return b"".join(block.split())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _make_ca(
    directory: Path, names: Sequence[str], now: dt.datetime, key: ec.EllipticCurvePrivateKey | None = None
) -> dt.datetime:
    """With `key`, the same authority for other names; else a new one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"Tidemill local CA {now:%Y-%m-%d %H:%M:%S}")
    else:
        subject = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes()).subject
    ends = now + dt.timedelta(days=365 * CA_YEARS)
    only_these = x509.NameConstraints(
        permitted_subtrees=[
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
            x509.IPAddress(ipaddress.ip_network("::1/128")),
            *(_constraint(name) for name in names),
        ],
        excluded_subtrees=None,
    )
    certificate = (
        _builder(subject, subject, key.public_key(), key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(only_these, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(directory / "ca.key", directory / "ca.pem", key, certificate)
    return ends


def _make_server(directory: Path, pair: Pair, names: Sequence[str], now: dt.datetime) -> dt.datetime:
    """A certificate for localhost and `names`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    ca_key = _load_key(directory / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    ends = now + dt.timedelta(days=SERVER_DAYS)
    alternatives = x509.SubjectAlternativeName(
        [_general_name(name) for name in ("localhost", "127.0.0.1", "::1", *names)]
    )
    certificate = (
        _builder(_name("localhost"), ca.subject, key.public_key(), ca_key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_pair(pair.key, pair.certificate, key, certificate)
    return ends


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _constraint(name: str) -> x509.GeneralName:
    """The subtree that holds this one name."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_network(name))
    except ValueError:
        return x509.DNSName(name)


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
