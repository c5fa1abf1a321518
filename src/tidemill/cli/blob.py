"""The calls of the blob protocol that a client needs: put, head, list, get; signed by account key or SAS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from tidemill.cli.errors import FAILED, NOT_RUNNING, CliError, exit_code_of

VERSION = "2023-11-03"
BLOCK = 64 * 1024 * 1024  # files larger than this go up in blocks of this size
_CHUNK = 1024 * 1024
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Container:
    """`url`: https://host:port/account.blob.core.windows.net/container. `sas` (a query) or `key` is set;
    `key` is the base64 account key, `ca` the certificate file that signs the server's."""

    url: str
    ca: Path
    sas: str = ""
    key: str = ""

    @property
    def account(self) -> str:
        """The name that a shared key signs for: on path-style addresses, the first segment."""
        return unquote(urlsplit(self.url).path.split("/")[1])


@dataclass(frozen=True, slots=True)
class Blob:
    name: str
    size: int


def container_of(sas_uri: str, ca: Path) -> Container:
    """A container from a SAS URI."""
    url, _, sas = sas_uri.partition("?")
    return Container(url.rstrip("/"), ca, sas=sas)


class BlobClient:
    """One kept TLS connection to one container; not shared between threads."""

    def __init__(self, container: Container, timeout: float = 300.0) -> None:
        self.container = container
        self._parts = urlsplit(container.url)
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def metadata(self, name: str) -> dict[str, str] | None:
        """The user metadata of a blob, None when there is no such blob."""
        status, headers, _ = self._send("HEAD", name)
        if status == 404:
            return None
        self._check(status, b"", name)
        return {key[10:]: value for key, value in headers.items() if key.startswith("x-ms-meta-")}

    def put(self, name: str, path: Path, progress: Progress | None = None) -> None:
        """Uploads one file, streaming; large ones in blocks that become visible together."""
        size = path.stat().st_size
        with path.open("rb") as source:
            if size <= BLOCK:
                self._put(name, {}, source, size, {"x-ms-blob-type": "BlockBlob"}, progress)
                return
            ids: list[str] = []
            for index in range(-(-size // BLOCK)):
                ids.append(base64.b64encode(f"{index:08d}".encode()).decode())
                count = min(BLOCK, size - index * BLOCK)
                self._put(name, {"comp": "block", "blockid": ids[-1]}, source, count, {}, progress)
        listed = "".join(f"<Latest>{block}</Latest>" for block in ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        status, _, answer = self._send("PUT", name, {"comp": "blocklist"}, body)
        self._check(status, answer, name)

    def set_metadata(self, name: str, metadata: dict[str, str]) -> None:
        headers = {f"x-ms-meta-{key}": value for key, value in metadata.items()}
        status, _, answer = self._send("PUT", name, {"comp": "metadata"}, headers=headers)
        self._check(status, answer, name)

    def list(self, prefix: str) -> Iterator[Blob]:
        """Every blob whose name starts with `prefix`."""
        from xml.etree import ElementTree

        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix, "maxresults": "5000"}
            if marker:
                query["marker"] = marker
            status, _, answer = self._send("GET", "", query)
            self._check(status, answer, prefix)
            root = ElementTree.fromstring(answer)
            for item in root.iterfind("./Blobs/Blob"):
                yield Blob(
                    item.findtext("Name") or "", int(item.findtext("./Properties/Content-Length") or 0)
                )
            marker = root.findtext("NextMarker") or ""
            if not marker:
                return

    def get(self, name: str, target: Path, progress: Progress | None = None) -> None:
        """Downloads to `target`, which appears only when it is whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        response = self._open("GET", name, {}, None, {})
        if response.status >= 400:
            self._check(response.status, response.read(), name)
        expected = response.getheader("Content-Length")
        received = 0
        with part.open("wb") as sink:
            while chunk := response.read(_CHUNK):
                sink.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(len(chunk))
        if expected is not None and received != int(expected):
            part.unlink()
            raise CliError(
                f"{name}: the connection ended after {received} of {expected} bytes; run it again.", FAILED
            )
        part.replace(target)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _put(
        self,
        name: str,
        query: dict[str, str],
        source: Any,
        size: int,
        headers: dict[str, str],
        progress: Progress | None,
    ) -> None:
        def chunks() -> Iterator[bytes]:
            left = size
            while left > 0:
                chunk = source.read(min(_CHUNK, left))
                if not chunk:
                    raise CliError(f"{name} became shorter while it was uploaded; run it again.", FAILED)
                left -= len(chunk)
                yield chunk
                if progress is not None:
                    progress(len(chunk))

        start = source.tell()
        try:
            response = self._open("PUT", name, query, chunks() if size else b"", headers, size)
        except (http.client.RemoteDisconnected, ConnectionError):
            # A kept connection may have been closed by a restart of the server; a put is idempotent.
            self.close()
            source.seek(start)
            try:
                response = self._open("PUT", name, query, chunks() if size else b"", headers, size)
            except (http.client.RemoteDisconnected, ConnectionError):
                raise self._gone() from None
        self._check(response.status, response.read(), name)

    def _send(
        self,
        method: str,
        name: str,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        for again in (False, True):
            try:
                size = len(body) if body is not None else 0
                response = self._open(method, name, query or {}, body, headers or {}, size)
                return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                self.close()
                if again:
                    raise self._gone() from None
        raise AssertionError("unreachable")

    def _gone(self) -> CliError:
        message = f"No storage server answers at {self._parts.netloc}. See: tidemill status"
        return CliError(message, NOT_RUNNING, "ServerNotRunning")

    def _open(
        self, method: str, name: str, query: dict[str, str], body: Any, headers: dict[str, str], size: int = 0
    ) -> http.client.HTTPResponse:
        path = self._parts.path + ("/" + quote(name, safe="/~") if name else "")
        everything = {"x-ms-version": VERSION, "x-ms-date": formatdate(time.time(), usegmt=True), **headers}
        if method == "PUT":
            everything["Content-Length"] = str(size)
        if self.container.key:
            everything["Authorization"] = sign(self.container, method, path, query, everything)
        text = "&".join(part for part in (urlencode(query, quote_via=quote), self.container.sas) if part)
        if self._connection is None:
            self._connection = _connect(
                self._parts.scheme, self._parts.netloc, self.container.ca, self._timeout
            )
        self._connection.request(method, f"{path}?{text}" if text else path, body=body, headers=everything)
        return self._connection.getresponse()

    def _check(self, status: int, answer: bytes, name: str) -> None:
        if status < 400:
            return
        code, message = f"Http{status}", ""
        if answer.startswith(b"<?xml") or answer.startswith(b"\xef\xbb\xbf<?xml"):
            from xml.etree import ElementTree

            root = ElementTree.fromstring(answer)
            code, message = root.findtext("Code") or code, (root.findtext("Message") or "").splitlines()[0:1]
            message = message[0] if message else ""
        raise CliError(
            f"Storage refused {name or self.container.url}: {code}. {message}".strip(),
            exit_code_of(status),
            code,
        )


def sign(container: Container, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> str:
    """The Authorization header of https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key"""
    lowered = {key.lower(): value for key, value in headers.items()}
    length = lowered.get("content-length", "")
    standard = [
        lowered.get("content-encoding", ""),
        lowered.get("content-language", ""),
        "" if length == "0" else length,
        lowered.get("content-md5", ""),
        lowered.get("content-type", ""),
        lowered.get("date", ""),
        *(lowered.get(name, "") for name in ("if-modified-since", "if-match", "if-none-match")),
        *(lowered.get(name, "") for name in ("if-unmodified-since", "range")),
    ]
    special = sorted((key, value) for key, value in lowered.items() if key.startswith("x-ms-"))
    text = "\n".join([method, *standard, *(f"{key}:{value}" for key, value in special)])
    text += f"\n/{container.account}{path}"
    for key, value in sorted((key.lower(), value) for key, value in query.items()):
        text += f"\n{key}:{value}"
    digest = hmac.new(base64.b64decode(container.key), text.encode(), hashlib.sha256).digest()
    return f"SharedKey {container.account}:{base64.b64encode(digest).decode()}"


def _connect(scheme: str, netloc: str, ca: Path, timeout: float) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(netloc, timeout=timeout)
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    return http.client.HTTPSConnection(netloc, timeout=timeout, context=context)
