"""Keys of a home, secrets at rest, and the certificate authority."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time

import pytest

from tidemill.identity import ca
from tidemill.identity import keys as key_files
from tidemill.identity.secrets import SecretBox

DAY_US = 86_400_000_000
NOW = int(time.time() * 1e6)  # OpenSSL checks dates against the real clock


def test_keys_are_private_and_stay_the_same(tmp_path):
    old = os.umask(0)
    try:
        first = key_files.load_or_create(tmp_path / "secrets")
    finally:
        os.umask(old)
    assert key_files.load_or_create(tmp_path / "secrets") == first
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(first.storage) == 64


def test_box_round_trip_context_and_tampering(tmp_path):
    box = SecretBox(key_files.load_or_create(tmp_path).master)
    sealed = box.encrypt(b"hunter2", "row-1")
    assert b"hunter2" not in sealed
    assert box.decrypt(sealed, "row-1") == b"hunter2"
    assert box.encrypt(b"hunter2", "row-1") != sealed
    for bad, context in ((sealed, "row-2"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), "row-1"), (b"", "row-1")):
        with pytest.raises(ValueError, match=r".+"):
            box.decrypt(bad, context)


def test_rotation_keeps_old_values_readable(tmp_path):
    old = SecretBox(key_files.load_or_create(tmp_path).master)
    sealed = old.encrypt(b"v")
    key_id = key_files.rotate_master(tmp_path)
    new = SecretBox(key_files.load_or_create(tmp_path).master)
    assert new.decrypt(sealed) == b"v"
    assert new.encrypt(b"v")[1:5].hex() == key_id
    with pytest.raises(ValueError, match="not in this home"):
        old.decrypt(new.encrypt(b"v"))


def handshake(files: ca.TlsFiles, name: str) -> str | None:
    """Real TLS over a socket pair. -> the protocol version; raises ssl.SSLError when not trusted."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.bundle))
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
            version = tls.version()
            tls.unwrap()
            return version
    finally:
        here.close()
        thread.join(5)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_certificate_is_trusted_for_every_local_name(tmp_path, name):
    assert handshake(ca.ensure(tmp_path, NOW), name) == "TLSv1.3"


def test_certificate_is_not_trusted_elsewhere(tmp_path):
    with pytest.raises(ssl.SSLError):
        handshake(ca.ensure(tmp_path, NOW), "example.com")


def test_renewal_near_the_end_keeps_the_ca(tmp_path):
    files = ca.ensure(tmp_path, NOW)
    before = (files.ca.read_bytes(), files.certificate.read_bytes())
    ca.ensure(tmp_path, NOW + 300 * DAY_US)
    assert (files.ca.read_bytes(), files.certificate.read_bytes()) == before
    ca.ensure(tmp_path, NOW + (ca.SERVER_DAYS - ca.RENEW_DAYS + 1) * DAY_US)
    assert files.ca.read_bytes() == before[0]
    assert files.certificate.read_bytes() != before[1]
    ca.ensure(tmp_path, NOW + 365 * ca.CA_YEARS * DAY_US)
    assert files.ca.read_bytes() != before[0]
    assert files.ca.read_bytes() in files.bundle.read_bytes()


def test_modes_and_bundle(tmp_path):
    import certifi

    files = ca.ensure(tmp_path, NOW)
    assert files.key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert files.bundle.stat().st_mode & 0o777 == 0o644
    with open(certifi.where(), "rb") as file:
        assert file.read().rstrip() in files.bundle.read_bytes()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_what_the_host_trusts_stays_trusted(tmp_path, monkeypatch, variable):
    """A company's own CA, say: the bundle takes the place of what the variables named before."""
    company = ca.ensure(tmp_path / "company", NOW).ca
    pem = company.read_bytes().strip()
    monkeypatch.setenv(variable, str(company))
    files = ca.ensure(tmp_path / "home", NOW)
    assert files.bundle.read_bytes().count(pem) == 1
    before = files.bundle.read_bytes()
    # Of a shell that `tidemill env` pointed here, and of a bundle that has it anyway.
    monkeypatch.setenv(variable, str(files.bundle))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(company))
    assert ca.ensure(tmp_path / "home", NOW).bundle.read_bytes().count(pem) == 1
    assert len(files.bundle.read_bytes()) == len(before)
    monkeypatch.delenv("CURL_CA_BUNDLE")
    assert pem not in ca.ensure(tmp_path / "home", NOW).bundle.read_bytes()


def test_the_systems_store_is_in_the_bundle(tmp_path, monkeypatch):
    store = tmp_path / "store.crt"
    store.write_bytes(ca.ensure(tmp_path / "site", NOW).ca.read_bytes())
    monkeypatch.setattr(ca, "_SYSTEM_STORES", (str(store), "/nowhere"))
    assert store.read_bytes().strip() in ca.ensure(tmp_path / "home", NOW).bundle.read_bytes()
