"""Mail to a real server, POSTs to a real receiver: what arrives, what is refused, what is tried again."""

from __future__ import annotations

import socket
import ssl
import time
from email.message import EmailMessage
from pathlib import Path

import pytest

from receivers import HookReceiver, MailServer
from tidemill.app.jobs import notice_transports
from tidemill.app.jobs.notice_transports import NotSent, Smtp
from tidemill.identity import ca as authority

pytestmark = pytest.mark.timeout(60)


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "tidemill@example.org", "ann@example.org", "a job"
    made.set_content("it has ended\n")
    return made


def post(url: str, rule: str = "127.0.0.1", ca: str = "") -> int:
    return notice_transports.post(url, b'{"a": 1}', {"X-Key": "k"}, rule, ca)


def refused(call, again: bool) -> str:
    with pytest.raises(NotSent) as error:
        call()
    assert error.value.again is again
    return str(error.value)


# --- mail


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_mail_arrives(security: str, certificate):
    context, ca = certificate
    secured = security != "none"
    with MailServer("s3cret" if secured else "", context if secured else None, security == "tls") as server:
        smtp = Smtp("localhost" if secured else "127.0.0.1", server.port, security, "tidemill@example.org")
        if secured:
            smtp = Smtp(smtp.host, smtp.port, security, smtp.sender, "ann", "s3cret")
        notice_transports.mail(smtp, message(), ca)
    assert server.recipients == ["ann@example.org"]
    assert server.messages[0]["Subject"] == "a job"


def test_what_a_mail_server_refuses(certificate):
    context, ca = certificate
    with MailServer("s3cret", context, refuses=("ann@example.org",)) as server:
        good = Smtp("localhost", server.port, "starttls", "t@example.org", "ann", "s3cret")
        assert "refuses ann@example.org (550)" in refused(
            lambda: notice_transports.mail(good, message(), ca), False
        )
        bad = Smtp("localhost", server.port, "starttls", "t@example.org", "ann", "wrong")
        assert "does not accept" in refused(lambda: notice_transports.mail(bad, message(), ca), True)
        plain = Smtp("127.0.0.1", server.port, "none", "t@example.org")
        said = refused(lambda: notice_transports.mail(plain, message(), ca), False)
        assert f"127.0.0.1:{server.port} answers 530" in said
    gone = Smtp("127.0.0.1", server.port, "none", "t@example.org")
    assert "is not reached" in refused(lambda: notice_transports.mail(gone, message(), ca), True)


# --- webhooks


def test_a_post_arrives_with_its_headers():
    with HookReceiver() as receiver:
        assert post(receiver.url) == 200
    assert receiver.posts == [{"a": 1}]
    assert receiver.headers[0]["X-Key"] == "k"


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (404, False), (410, False), (302, False)]
)
def test_answers_that_are_no_success(status: int, again: bool):
    with HookReceiver(status, location="http://169.254.169.254/") as receiver:
        said = refused(lambda: post(receiver.url), again)
    assert str(status) in said
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("rule", ["internet", "closed", "example.org", "10.0.0.0/8", "localhost"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "10.1.2.3"]
)
def test_no_address_that_the_owner_has_not_listed(rule: str, host: str, monkeypatch: pytest.MonkeyPatch):
    """Nothing is even connected to."""

    def connect(*given: object, **more: object) -> None:
        raise AssertionError(f"it connects to {given}")

    monkeypatch.setattr(socket, "create_connection", connect)
    if (rule, host) == ("10.0.0.0/8", "10.1.2.3"):
        return  # that one is listed
    said = refused(lambda: post(f"http://{host}:8080/hook", rule), False)
    assert "webhooks may reach" in said or "not listed" in said


def test_a_name_is_judged_by_every_address_it_has(monkeypatch: pytest.MonkeyPatch):
    """A name that leads to a public address and to this host leads nowhere."""
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: two)
    connected: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *given, **more: connected.append(given))
    said = refused(lambda: post("http://rebinding.example.org/", "internet"), False)
    assert "127.0.0.1, which is not a public address" in said
    assert connected == []


def test_nobody_listens():
    with HookReceiver() as receiver:
        url = receiver.url
    assert "is not reached" in refused(lambda: post(url), True)


def test_https_with_a_certificate_that_is_not_its_own(certificate):
    """The receiver speaks no TLS."""
    _, ca = certificate
    with HookReceiver() as receiver:
        said = refused(lambda: post(receiver.url.replace("http", "https", 1), ca=ca), True)
    assert "is not reached" in said


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """(a server's, for localhost; the file of its CA)."""
    folder: Path = tmp_path_factory.mktemp("tls")
    files = authority.ensure(folder, time.time_ns() // 1000)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context, str(files.ca)
