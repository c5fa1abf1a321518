"""The certificates that the listeners show: chosen by the name that a client asks for, and read again when
their files change, so that a renewed one is in use without a restart."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import os
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.listening import LOCAL_NAMES
from tidemill.identity.ca import Pair, TlsFiles

if TYPE_CHECKING:
    from cryptography import x509

_log = logging.getLogger("tidemill.tls")


class _Loaded:
    """One pair of files as a context, loaded again when the certificate's file is another."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._mark: tuple[int, int] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError is one) when the files cannot be read the first time."""
        try:
            stat = self._pair.certificate.stat()
            mark = stat.st_ino, stat.st_mtime_ns
            if mark != self._mark:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._pair.certificate, self._pair.key)
                self._context, self._mark = context, mark
        except OSError as error:
            if self._context is None:
                raise
            # Its key may not be written yet: the next handshake looks again.
            _log.warning("%s: %s; the certificate before it is still used", self._pair.certificate, error)
        assert self._context is not None
        return self._context


class Certificates:
    """`files` of the home; `own` is the user's pair for the names, instead of the home's."""

    def __init__(self, files: TlsFiles, names: Sequence[str], own: Pair | None) -> None:
        self._local = _Loaded(Pair(files.certificate, files.key))
        self._plain = _Loaded(files.names) if names else self._local
        self._named = _Loaded(own) if own is not None else self._plain

    def context(self) -> ssl.SSLContext:
        """For the listeners. localhost has the home's certificate also where the user brings one: clients
        that see the server as localhost trust the home's CA. Without a name (an IP address) the home's,
        too."""
        for loaded in (self._local, self._plain, self._named):
            loaded.context()  # what cannot be read is said at the start
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._choose  # called for every handshake, also without a name
        return context

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        chosen = self._named if name else self._plain
        if name is not None and name.lower() in LOCAL_NAMES:
            chosen = self._local
        connection.context = chosen.context()


def check_own(pair: Pair, names: Sequence[str], now_us: int) -> dt.datetime:
    """When the user's certificate ends. Raises InvalidRequest for files that are no pair, a certificate that
    has ended, or one that lacks a name."""
    from cryptography import x509

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    except PermissionError:
        raise InvalidRequest(
            f"--certificate {pair.certificate} or --key {pair.key} may not be read by the server's user: let "
            f"it (setfacl -m u:{os.getuid()}:r FILE) or, if root starts the server, use --keep-root.",
            target="--certificate",
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"--certificate {pair.certificate} with --key {pair.key} cannot be used: {error}. Give PEM "
            "files of a certificate (its chain after it) and of its key without a passphrase.",
            target="--certificate",
        ) from None
    ends = certificate.not_valid_after_utc
    if ends <= dt.datetime.fromtimestamp(now_us / 1e6, dt.UTC):
        raise InvalidRequest(
            f"--certificate {pair.certificate} ended at {ends:%Y-%m-%d %H:%M} UTC. Renew it, or leave "
            "it out: the home's CA issues one.",
            target="--certificate",
        )
    lacking = [name for name in names if not _covers(certificate, name)]
    if lacking:
        raise InvalidRequest(
            f"--certificate {pair.certificate} does not name {', '.join(lacking)}. Get one that does, "
            "or leave the name out of --name.",
            target="--certificate",
        )
    return ends


def _covers(certificate: x509.Certificate, name: str) -> bool:
    """By its subject alternative names; `*.` stands for one label. Addresses of --listen need not be in
    it: who comes by an IP address sends no name and gets the home's certificate."""
    from cryptography import x509

    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        pass
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    known = [dns.lower() for dns in found.get_values_for_type(x509.DNSName)]
    return name in known or "*." + name.partition(".")[2] in known
