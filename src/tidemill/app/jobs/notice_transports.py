"""One e-mail, one POST. They block on the network: to be called in threads.

A POST goes only to where the owner's rule lets it (`sandbox/egress.py`: a line; "internet" is every public
address): the name is resolved once, every address is judged, and the connection is made to one that was. A
redirect is not followed, no proxy is used, and nothing of the answer but its status is kept.
"""

from __future__ import annotations

import http.client
import smtplib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import urlsplit

from tidemill.domain.notifications import retried
from tidemill.sandbox import egress

TIMEOUT_S = 15.0


class NotSent(Exception):
    """With the reason. `again`: it may get through later."""

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True, slots=True)
class Smtp:
    """`security`: "tls" (from the first byte), "starttls", "none"."""

    host: str
    port: int
    security: str
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)


def mail(smtp: Smtp, message: EmailMessage, ca_file: str) -> None:
    """Raises NotSent. A recipient that the server refuses is a failure, also where others were taken."""
    try:
        with _session(smtp, ca_file) as session:
            if smtp.user:
                session.login(smtp.user, smtp.password)
            refused = session.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        raise _of_recipients(error.recipients) from None
    except smtplib.SMTPAuthenticationError as error:
        raise NotSent(
            f"{_at(smtp)} does not accept the user name and password ({error.smtp_code})", True
        ) from None
    except smtplib.SMTPResponseException as error:
        raise NotSent(f"{_at(smtp)} answers {error.smtp_code}", error.smtp_code < 500) from None
    except smtplib.SMTPNotSupportedError as error:
        raise NotSent(f"{_at(smtp)}: {error}", False) from None
    except (smtplib.SMTPException, OSError) as error:
        raise NotSent(f"{_at(smtp)} is not reached: {_words(error)}", True) from None
    if refused:
        raise _of_recipients(refused)


def _session(smtp: Smtp, ca_file: str) -> smtplib.SMTP:
    if smtp.security == "tls":
        context = ssl.create_default_context(cafile=ca_file)
        return smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=TIMEOUT_S, context=context)
    session = smtplib.SMTP(smtp.host, smtp.port, timeout=TIMEOUT_S)
    if smtp.security == "starttls":
        try:
            session.starttls(context=ssl.create_default_context(cafile=ca_file))
        except BaseException:
            session.close()
            raise
    return session


def _of_recipients(refused: Mapping[str, tuple[int, bytes]]) -> NotSent:
    named = ", ".join(f"{who} ({code})" for who, (code, _) in refused.items())
    return NotSent(f"the mail server refuses {named}", all(code < 500 for code, _ in refused.values()))


def _at(smtp: Smtp) -> str:
    return f"the mail server {smtp.host}:{smtp.port}"


def post(url: str, body: bytes, headers: Mapping[str, str], rule: str, ca_file: str) -> int:
    """-> the status, 2xx. Raises NotSent."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise NotSent("its address is none", False) from None
    if parts.scheme not in ("http", "https") or not host:
        raise NotSent("its address is none that can be posted to", False)
    try:
        connection = _connected(parts.scheme, host, port, rule, ca_file)
    except OSError as error:
        raise NotSent(f"{host}:{port} is not reached: {_words(error)}", True) from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", path, body, dict(headers))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotSent(f"{host}:{port} gave no answer: {_words(error)}", True) from None
    finally:
        connection.close()
    if 300 <= status < 400:
        raise NotSent(f"{host} answers {status}: redirects are not followed", False)
    if status >= 400:
        raise NotSent(f"{host} answers {status}", retried(status))
    return status


def _connected(scheme: str, host: str, port: int, rule: str, ca_file: str) -> http.client.HTTPConnection:
    """To an address that the rule lets us reach. Raises NotSent, OSError."""
    policy = egress.parse(rule)
    why = policy.refuses_name(host, port)
    if why:
        raise NotSent(_refused(why), False)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:  # one that may not be reached says what the name is for
        why = policy.refuses_address(host, port, address, _is_own(address))
        if why:
            raise NotSent(_refused(why), False)
    failure: OSError | None = None
    for address in addresses:
        try:
            sock = socket.create_connection((address, port), TIMEOUT_S)
        except OSError as error:
            failure = error
            continue
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        connection.sock = sock
        if scheme == "https":
            try:
                connection.sock = ssl.create_default_context(cafile=ca_file).wrap_socket(
                    sock, server_hostname=host
                )
            except BaseException:
                sock.close()
                raise
        return connection
    raise failure or OSError("it has no address")


def _refused(why: str) -> str:
    return f"{why.replace('this compute may reach', 'webhooks may reach')} (tidemill notifications show)"


def _is_own(address: str) -> bool:
    """Whether it is this host's: one that a socket can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", "") or error or type(error).__name__).strip().rstrip(".")[:200]
