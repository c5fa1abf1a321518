"""HTTP/1.1 requests out of bytes, strictly (RFC 9112), and heads of answers. No I/O.

Strict, because a gateway reads the same bytes before us: what two readers could read differently (two
lengths, a length beside chunks, folded lines, bare line feeds, space before a colon) is refused with 400
and the connection closed. Python alone: on the requests that a gateway sends, one regular expression per
head costs less than the callbacks of a compiled parser.
"""

from __future__ import annotations

import re
from http import HTTPStatus

HEAD_LIMIT = 64 << 10
FIELDS_LIMIT = 256
CHUNK_LINE_LIMIT = 256
TRAILER_LIMIT = 8 << 10

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([01])\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*")
_FIELD = re.compile(r"([^:\r\n]+):[ \t]*([^\r\n]*)\r\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
# Fields of which a second one is a contradiction, not a list.
_SINGLE = frozenset(("content-length", "transfer-encoding", "host", "content-type", "authorization"))


class Refused(Exception):
    """A request that is answered with `status` and this message, after which the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head:
    """`length`: bytes of body, None when it is chunked. `headers`: lower-case names, repeated ones joined."""

    __slots__ = ("expects", "headers", "keep_alive", "length", "method", "target", "version")

    def __init__(self, method: str, target: str, version: int, headers: dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.length: int | None = _length(headers, version)
        self.keep_alive = version == 1
        connection = headers.get("connection")
        if connection is not None:
            words = [word.strip() for word in connection.lower().split(",")]
            self.keep_alive = "keep-alive" in words if version == 0 else "close" not in words
        expect = headers.get("expect")
        self.expects = expect is not None and version == 1
        if self.expects and str(expect).lower() != "100-continue":
            raise Refused(417, f"Expect: {expect} is not understood, only 100-continue is.")


def parse_head(block: bytes) -> Head:
    """`block` ends with the empty line. Raises Refused."""
    line = _LINE.match(block)
    if line is None:
        raise Refused(400, "The request line could not be read: " + _shown(block.split(b"\r\n", 1)[0]))
    end = line.end()
    fields = _FIELDS.match(block, end)
    if fields is None or fields.end() != len(block) - 2:
        at = fields.end() if fields else end
        raise Refused(400, "A header line is malformed: " + _shown(block[at:].split(b"\r\n", 1)[0]))
    pairs = _FIELD.findall(block[end:].decode("latin-1"))
    if len(pairs) > FIELDS_LIMIT:
        raise Refused(431, f"The request has {len(pairs)} headers; {FIELDS_LIMIT} is the limit.")
    headers: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        value = value.rstrip(" \t")
        if key in headers:
            if key in _SINGLE:
                raise Refused(400, f"The header {key} is there twice.")
            headers[key] += ("; " if key == "cookie" else ", ") + value
        else:
            headers[key] = value
    method = line.group(1).decode("ascii")
    if method not in METHODS:
        raise Refused(501, f"The method {_cut(method)} is not known here.")
    version = line.group(3)[0] - 48
    if version and "host" not in headers:
        raise Refused(400, "The request has no Host header.")
    return Head(method, line.group(2).decode("latin-1"), version, headers)


def _length(headers: dict[str, str], version: int) -> int | None:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise Refused(400, "The request has a Content-Length and a Transfer-Encoding.")
        if version == 0:
            raise Refused(400, "Transfer-Encoding is not part of HTTP/1.0.")
        if coding.lower() != "chunked":
            raise Refused(501, f"Transfer-Encoding: {_cut(coding)} is not understood, only chunked is.")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Refused(400, f"Content-Length: {_cut(length)} is not a number of bytes.")
    return int(length)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"


def _shown(line: bytes) -> str:
    return repr(_cut(line.decode("latin-1")))


class Body:
    """Collects a body from what arrives. `feed` returns what it did not take (the next request's bytes)."""

    __slots__ = ("_chunked", "_left", "_limit", "_line", "_parts", "_size", "_stage", "done")

    SIZE, DATA, DATA_END, TRAILER = range(4)

    def __init__(self, length: int | None, limit: int) -> None:
        """Raises Refused (413)."""
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._line = bytearray()
        self._chunked = length is None
        self._left = length or 0
        self._stage = self.SIZE
        self.done = length == 0
        self._allow(self._left)

    def _allow(self, more: int) -> None:
        if self._size + more > self._limit:
            size = f"{self._size + more} bytes" if not self._chunked else "too many bytes"
            raise Refused(413, f"The body has {size}; {self._limit} is the limit.")

    def bytes(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def feed(self, data: bytes) -> bytes:
        """Raises Refused."""
        if self._chunked:
            return self._feed_chunks(data)
        taken = data[: self._left]
        self._take(taken)
        self.done = self._left == 0
        return data[len(taken) :]

    def _take(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self._size += len(data)
            self._left -= len(data)

    def _feed_chunks(self, data: bytes) -> bytes:
        at = 0
        while at < len(data) and not self.done:
            if self._stage == self.DATA:
                taken = data[at : at + self._left]
                at += len(taken)
                self._take(taken)
                if not self._left:
                    self._stage = self.DATA_END
            else:
                line, at = self._read_line(data, at)
                if line is not None:
                    self._end_line(line)
        return data[at:]

    def _read_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """A line ends with CR LF and holds neither alone."""
        stop = data.find(b"\n", at)
        end = len(data) if stop < 0 else stop + 1
        limit = TRAILER_LIMIT if self._stage == self.TRAILER else CHUNK_LINE_LIMIT
        if len(self._line) + end - at > limit:
            raise Refused(400, f"A line between the chunks is longer than {limit} bytes.")
        self._line += data[at:end]
        if stop < 0:
            return None, end
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise Refused(400, "A line between the chunks does not end with CR LF.")
        return line[:-2], end

    def _end_line(self, line: bytes) -> None:
        if self._stage == self.DATA_END:
            if line:
                raise Refused(400, "A chunk is longer than its size says.")
            self._stage = self.SIZE
        elif self._stage == self.SIZE:
            size = _CHUNK.fullmatch(line)
            if size is None:
                raise Refused(400, "A chunk's size could not be read: " + _shown(line))
            self._left = int(size.group(1), 16)
            self._allow(self._left)
            self._stage = self.DATA if self._left else self.TRAILER
        elif line:
            if _FIELDS.fullmatch(line + b"\r\n") is None:
                raise Refused(400, "A trailer is malformed: " + _shown(line))
            self._size += len(line)  # so that trailers without end reach the body's limit
            self._allow(0)
        else:
            self.done = True


REASONS = {status.value: status.phrase for status in HTTPStatus}
LINES = {code: f"HTTP/1.1 {code} {REASONS[code]}\r\n" for code in REASONS}


def status_line(status: int) -> str:
    return LINES.get(status) or f"HTTP/1.1 {status} \r\n"


def message(status: int, text: str, keep_alive: bool = False, headers: str = "") -> bytes:
    """An answer with Azure's body for errors, {"message": …}."""
    from json import dumps

    body = dumps({"message": text}).encode()
    return (
        status_line(status)
        + headers
        + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        + ("\r\n" if keep_alive else "Connection: close\r\n\r\n")
    ).encode("latin-1") + body
