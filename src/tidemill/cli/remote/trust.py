"""TLS to a server whose CA this machine does not know yet: fetched once, compared by its fingerprint, and
from then on the only one that is believed."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any
from urllib.parse import urlencode

from tidemill.cli.errors import FAILED, NOT_RUNNING, REFUSED, CliError, ServerGone
from tidemill.identity.ca import fingerprint

TIMEOUT_S = 20.0
HTTPS_PORT = 8443
SERVER_NAME = "localhost"  # every certificate of a Tidemill server has it, whatever name it is reached by


class Wire:
    """HTTPS to one server. `ca_pem` None: not verified; only for fetching the CA, nothing secret is sent."""

    def __init__(self, host: str, port: int, ca_pem: bytes | None) -> None:
        self._host, self._port = host, port
        self.context = ssl.create_default_context(cadata=ca_pem.decode()) if ca_pem else _unverified()

    def send(
        self,
        method: str,
        path: str,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Raises ServerGone when nothing answers, CliError for a server with another CA."""
        sent = {"Host": f"{SERVER_NAME}:{self._port}", **(headers or {})}
        body = None
        if form is not None:
            body = urlencode(form).encode()
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            raw = socket.create_connection((self._host, self._port), TIMEOUT_S)
            try:
                connection.sock = self.context.wrap_socket(raw, server_hostname=SERVER_NAME)
            except BaseException:
                raw.close()
                raise
            connection.request(method, path, body=body, headers=sent)
            reply = connection.getresponse()
            return reply.status, reply.read(4 << 20)
        except ssl.SSLCertVerificationError as error:
            raise CliError(
                f"The server at {self._host}:{self._port} does not show the certificate that it should "
                f"({error.verify_message}). Nothing was sent to it.",
                REFUSED,
                "CertificateNotTrusted",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerGone(
                f"Nothing answers over TLS at {self._host}:{self._port} ({why}). The server must be started "
                "there with --listen; the port is that of its Azure API."
            ) from None
        finally:
            connection.close()

    def json(self, method: str, path: str, token: str = "") -> Any:
        """Raises CliError for an error status."""
        headers = {"Authorization": f"Bearer {token}"} if token else None
        status, body = self.send(method, path, None, headers)
        if status != 200:
            raise CliError(_message(body, f"The server answered {status}."), FAILED)
        return json.loads(body)


def fetch_ca(host: str, port: int) -> tuple[bytes, str]:
    """-> (the CA that the server says is its own, its fingerprint): to be compared before it is believed."""
    status, pem = Wire(host, port, None).send("GET", "/ca.pem")
    try:
        if status == 200:
            return pem, fingerprint(pem)
    except ValueError:
        pass
    raise CliError(
        f"{host}:{port} is no Tidemill server: it has no CA at /ca.pem (status {status}).", NOT_RUNNING
    )


def parse_place(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPV6]:PORT -> (host, port)."""
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(HTTPS_PORT)
    if not port.isdigit() or not 0 < int(port) < 65536 or not host or "/" in host:
        raise CliError(f"{text!r} is no HOST or HOST:PORT.", 2, "UsageError")
    return host.strip("[]"), int(port)


def _message(body: bytes, otherwise: str) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return otherwise


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
