"""Which certificate a client is shown, and that a new one is in use without a restart."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tidemill.domain.errors import InvalidRequest
from tidemill.identity import ca
from tidemill.identity.ca import Pair
from tidemill.server.tls import Certificates, check_own

NOW = int(time.time() * 1e6)
DAY_US = 86_400_000_000
NAMES = ("gpu1.example.org", "10.1.2.3")


def shown(server: ssl.SSLContext, name: str | None, trusted: Path | None) -> bytes:
    """The certificate (DER) that a client sees who asks for `name`. Raises ssl.SSLError if not trusted."""
    client = ssl.create_default_context(cafile=str(trusted) if trusted else None)
    if trusted is None:
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    else:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).unwrap()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=name) as tls:
            found = tls.getpeercert(binary_form=True)
            assert found is not None
            return found
    finally:
        here.close()
        thread.join(5)


def own_pair(folder: Path, names: Sequence[str], days: float = 90) -> Pair:
    """A certificate of another authority (here: signed by itself)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "own")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=100))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    pair = Pair(folder / "own.pem", folder / "own.key")
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    pair.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    pair.certificate.write_bytes(made.public_bytes(pem))
    return pair


def test_names_and_addresses_are_trusted_with_the_homes_ca(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path, NOW, NAMES)
    server = Certificates(files, NAMES, None).context()
    for name in ("localhost", "127.0.0.1", *NAMES):
        assert shown(server, name, files.ca)
    with pytest.raises(ssl.SSLError):
        shown(server, "gpu2.example.org", files.ca)


def test_localhost_stays_trusted_by_who_has_the_ca_from_before_the_names(tmp_path: Path) -> None:
    ca.ensure(tmp_path, NOW)
    before = tmp_path / "before.pem"
    before.write_bytes((tmp_path / "ca.pem").read_bytes())
    print_before = ca.fingerprint(before.read_bytes())
    files = ca.ensure(tmp_path, NOW, NAMES)
    assert files.ca.read_bytes() != before.read_bytes()
    assert ca.fingerprint(files.ca.read_bytes()) == print_before
    server = Certificates(files, NAMES, None).context()
    assert shown(server, "localhost", before)
    with pytest.raises(ssl.SSLError):
        shown(server, NAMES[0], before)  # it was not allowed to vouch for that


def test_a_name_that_goes_is_not_vouched_for_any_more(tmp_path: Path) -> None:
    ca.ensure(tmp_path, NOW, NAMES)
    files = ca.ensure(tmp_path, NOW, ("gpu2.example.org",))
    server = Certificates(files, ("gpu2.example.org",), None).context()
    assert shown(server, "gpu2.example.org", files.ca)
    with pytest.raises(ssl.SSLError):
        shown(server, NAMES[0], files.ca)


def test_nothing_is_made_again_while_it_holds(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path, NOW, NAMES)
    before = files.ca.read_bytes(), files.certificate.read_bytes(), files.names.certificate.read_bytes()
    ca.ensure(tmp_path, NOW + DAY_US, tuple(reversed(NAMES)))
    assert before == (
        files.ca.read_bytes(),
        files.certificate.read_bytes(),
        files.names.certificate.read_bytes(),
    )
    assert ca.renew_at(tmp_path) > NOW + DAY_US * (ca.SERVER_DAYS - ca.RENEW_DAYS - 1)


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path, NOW, NAMES)
    server = Certificates(files, NAMES, None).context()
    before = {name: shown(server, name, files.ca) for name in ("localhost", NAMES[0])}
    due = ca.renew_at(tmp_path)
    ca.ensure(tmp_path, due, NAMES)
    # Its validity begins at the time of the renewal, which is to come: only what is shown is compared.
    assert all(shown(server, name, None) != seen for name, seen in before.items())
    assert ca.renew_at(tmp_path) > due


def test_a_half_written_renewal_leaves_the_one_before(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path, NOW)
    server = Certificates(files, (), None).context()
    before = shown(server, "localhost", files.ca)
    other = tmp_path / "other"
    ca.ensure(other, NOW)
    files.certificate.write_bytes((other / "server.pem").read_bytes())  # the key is still the old one
    assert shown(server, "localhost", files.ca) == before


def test_a_certificate_of_ones_own_is_for_the_names_only(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path / "tls", NOW, NAMES)
    own = own_pair(tmp_path / "own", ["*.example.org"])
    check_own(own, NAMES, NOW)
    server = Certificates(files, NAMES, own).context()
    assert shown(server, NAMES[0], own.certificate)
    assert shown(server, "localhost", files.ca)
    assert shown(server, "10.1.2.3", files.ca)
    first = shown(server, NAMES[0], None)
    own_pair(tmp_path / "own", ["*.example.org"])
    assert shown(server, NAMES[0], None) != first


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    own = own_pair(tmp_path, ["gpu9.example.org"])
    with pytest.raises(InvalidRequest, match=r"does not name gpu1\.example\.org"):
        check_own(own, NAMES, NOW)
    with pytest.raises(InvalidRequest, match="ended at"):
        check_own(own_pair(tmp_path, ["gpu1.example.org"], days=-1), NAMES, NOW)
    (tmp_path / "own.key").write_text("no key")
    with pytest.raises(InvalidRequest, match="cannot be used"):
        check_own(own, NAMES, NOW)
