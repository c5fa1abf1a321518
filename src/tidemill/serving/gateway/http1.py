"""HTTP/1.1 as a gateway reads it (RFC 9112): heads of requests and answers, and bodies in chunks. No I/O.

Strict, because an instance reads the same bytes after us: what two readers could read differently (two
lengths, a length beside chunks, folded lines, bare line feeds, space before a colon) is refused. A head is
not taken apart: one regular expression checks all of it, a second finds the fields that the gateway must
know, and the rest is passed on as it came.
"""

from __future__ import annotations

import re

from tidemill.serving.gateway.likeness import Likeness
from tidemill.serving.scoring.http import CHUNK_LINE_LIMIT, FIELDS_LIMIT, HEAD_LIMIT, TRAILER_LIMIT, Refused

CHUNKED = -1  # the length of a body in chunks
UNTIL_CLOSE = -2  # of an answer that ends with its connection

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELDS = rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]++) HTTP/1\.([01])\r\n" + _FIELDS + rb"\r\n")
_REQUEST_LINE = re.compile(_TOKEN + rb" [!-~\x80-\xff]+ HTTP/1\.[01]\r\n")
_ANSWER = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*+)?\r\n" + _FIELDS + rb"\r\n")
# Fields that the gateway must know, and those that end with it: hop by hop, the caller's credentials, and
# what others could say of where a request comes from. Searched for in lower case, from the line feed before.
_VALUE = rb"):[ \t]*([^\r\n]*)"
_PASSED = rb"content-length|host|x-request-id"
_ENDING = (
    rb"authorization|azureml-model-deployment|connection|expect|forwarded|keep-alive|proxy-authenticate"
    rb"|proxy-authorization|proxy-connection|te|trailer|transfer-encoding|upgrade|x-forwarded-for"
    rb"|x-forwarded-host|x-forwarded-proto"
)
_OF_REQUEST = re.compile(rb"\n(" + _PASSED + rb"|" + _ENDING + _VALUE)
_ENDING_HERE = (
    rb"azureml-model-deployment|connection|keep-alive|ms-azureml-model-error-reason"
    rb"|ms-azureml-model-error-statuscode|proxy-authenticate|proxy-connection|te|trailer|transfer-encoding|upgrade"
)
_OF_ANSWER = re.compile(rb"\n(content-length|" + _ENDING_HERE + _VALUE)
_LINES_ENDING = re.compile(rb"(?im)^(?:" + _ENDING + rb"):[^\n]*\n")
_LINES_ENDING_HERE = re.compile(rb"(?im)^(?:" + _ENDING_HERE + rb"):[^\n]*\n")
_AUTHORIZATION = b"\nauthorization:"
_LENGTH, _ID = b"content-length", b"x-request-id"
_MEANS_MORE = frozenset((b"host",))  # of fields that are passed on; see likeness.py
_OF_CONNECTION = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))
_LF = b"\n"
_KEEPS = [(b"connection", b"keep-alive")]
_KEPT = b"Connection: keep-alive\r\n"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*")


class Broken(Exception):
    """An answer that cannot be read: the instance is at fault."""


class Request:
    """`length`: bytes of body, or CHUNKED. `fields`: those that are passed on, without a transfer encoding.
    `upgrade`: the protocol that is asked for, b"" for none."""

    authorization: bytes | None = None
    deployment: bytes | None = None
    request_id = b""
    length = 0
    expects = False
    upgrade = b""
    _logged = b""

    def __init__(self, block: bytes) -> None:
        """`block` ends with the empty line. Raises Refused."""
        line = _REQUEST.fullmatch(block)
        if line is None:
            raise _unreadable(block)
        self.method: bytes
        self.target: bytes
        self.method, self.target, minor = line.groups()
        version = self.version = 1 if minor == b"1" else 0
        start = line.end(3) + 1  # at the line feed of "\r\n", which each field's line has before it
        low = block[start:-2].lower()
        if low.count(b"\n") > FIELDS_LIMIT + 1:
            raise Refused(431, f"The request has {low.count(_LF) - 1} headers; {FIELDS_LIMIT} is the limit.")
        pairs = _OF_REQUEST.findall(low)
        found: dict[bytes, bytes] = dict(pairs)
        if len(found) != len(pairs):
            raise _twice([name for name, _ in pairs])
        self.keep_alive = version == 1
        known = 0
        if b"host" in found:
            known = 1
        elif version:
            raise Refused(400, "The request has no Host header.")
        length = found.get(b"content-length")
        if length is not None:
            known += 1
            self.length = _number(length)
        if b"authorization" in found:
            known += 1
            at = low.index(_AUTHORIZATION)
            end = low.index(b"\n", at + 1)
            self.authorization = block[start + at + len(_AUTHORIZATION) : start + end - 1].strip(b" \t")
            self.fields = block[start + 1 : start + at + 1] + block[start + end + 1 : -2]
        else:
            self.fields = block[start + 1 : -2]
        if known < len(found):
            self._understand_rest(found)

    @property
    def logged(self) -> bytes:
        """Method and target without the query, which may hold what is nobody's business; bounded, as many
        wait for the disk."""
        if not self._logged:
            self._logged = b"%.32b %.1024b" % (self.method, self.target.partition(b"?")[0])
        return self._logged

    def likeness(self, block: bytes) -> Likeness:
        """Of the head that this was read from."""
        return Likeness(block, self.fields, _MEANS_MORE)

    def alike(self, likeness: Likeness, block: bytes) -> Request | None:
        """Another request, with a head like this one's; None where it is not alike."""
        found = likeness.read(block)
        if found is None:
            return None
        other = Request.__new__(Request)
        other.__dict__ = self.__dict__.copy()
        other.fields, varied = found
        for at, line in varied:
            name = likeness.names[at]
            if name == _LENGTH:
                other.length = _number(line.partition(b":")[2].lstrip(b" \t").lower())
            elif name == _ID:
                other.request_id = line.partition(b":")[2].strip(b" \t").lower()
        return other

    def _understand_rest(self, found: dict[bytes, bytes]) -> None:
        """What most requests do not have."""
        self.request_id = found.get(b"x-request-id", b"").rstrip(b" \t")
        deployment = found.get(b"azureml-model-deployment")
        if deployment is not None:
            self.deployment = deployment.rstrip(b" \t")
        coding = found.get(b"transfer-encoding")
        if coding is not None:
            self._in_chunks(coding.rstrip(b" \t"), found.get(b"content-length"))
        expect = found.get(b"expect")
        if expect is not None and self.version:
            if expect.rstrip(b" \t") != b"100-continue":
                raise Refused(417, f"Expect: {_shown(expect)} is not understood, only 100-continue is.")
            self.expects = True
        self.fields = _LINES_ENDING.sub(b"", self.fields)
        connection = found.get(b"connection")
        if connection is not None:
            words = _words(connection)
            self.keep_alive = b"close" not in words and (self.version == 1 or b"keep-alive" in words)
            if b"upgrade" in words and self.version:
                self.upgrade = found.get(b"upgrade", b"").rstrip(b" \t")
            self.fields = self._without_named(self.fields, words)

    def _in_chunks(self, coding: bytes, length: bytes | None) -> None:
        if length is not None:
            raise Refused(400, "The request has a Content-Length and a Transfer-Encoding.")
        if not self.version:
            raise Refused(400, "Transfer-Encoding is not part of HTTP/1.0.")
        if coding != b"chunked":
            raise Refused(501, f"Transfer-Encoding: {_shown(coding)} is not understood, only chunked is.")
        self.length = CHUNKED

    def _without_named(self, fields: bytes, words: set[bytes]) -> bytes:
        """Fields that Connection names are for this hop alone. Raises Refused for what must not be one."""
        named = words - _OF_CONNECTION
        if named & {b"content-length", b"host", b"x-request-id"}:
            raise Refused(400, "The header Connection names one that must be passed on.")
        return _without_lines(fields, named) if named else fields


class Answer:
    """`length`: bytes of body, CHUNKED or UNTIL_CLOSE. `fields`: those that are passed on."""

    reason = b""

    def __init__(self, block: bytes, method: bytes) -> None:
        """The head of an answer to `method`. Raises Broken."""
        line = _ANSWER.fullmatch(block)
        if line is None:
            raise Broken("its head could not be read")
        minor, status = line.groups()
        start = block.index(b"\n")
        self.status = int(status)
        self.fields = block[start + 1 : -2]
        self.keep_alive = minor == b"1"
        pairs = _OF_ANSWER.findall(block[start:-2].lower())
        if pairs and status == b"200" and method == b"POST":  # mostly
            name, length = pairs[0]
            if name == b"content-length" and length.isdigit() and len(length) < 19:
                if len(pairs) == 1:
                    self.length = int(length)
                    return
                if pairs[1:] == _KEEPS and _KEPT in self.fields:  # as many servers say, though it need not be
                    self.length = int(length)
                    self.fields = self.fields.replace(_KEPT, b"", 1)
                    return
        self.reason = block[line.end(2) : start - 1].strip()
        self._understand(pairs, method)

    def likeness(self, block: bytes) -> Likeness:
        """Of the head that this was read from."""
        return Likeness(block, self.fields, ())

    def alike(self, likeness: Likeness, block: bytes) -> Answer | None:
        """Another answer, with a head like this one's; None where it is not alike."""
        found = likeness.read(block)
        if found is None:
            return None
        other = Answer.__new__(Answer)
        other.__dict__ = self.__dict__.copy()
        other.fields, varied = found
        for at, line in varied:
            if likeness.names[at] == _LENGTH:
                length = line.partition(b":")[2].strip(b" \t")
                if not length.isdigit() or len(length) > 18:
                    return None
                other.length = int(length)
        return other

    def _understand(self, pairs: list[tuple[bytes, bytes]], method: bytes) -> None:
        found = dict(pairs)
        if len(found) != len(pairs):
            self._check_twice([name for name, _ in pairs])
        given = found.pop(b"content-length", None)
        try:
            length = None if given is None else _number(given)
        except Refused:
            raise Broken("its Content-Length is no number") from None
        self.length = self._length(length, found.get(b"transfer-encoding"), method)
        if not found:
            return
        connection = found.get(b"connection", b"keep-alive")
        self.fields = _LINES_ENDING_HERE.sub(b"", self.fields)
        if connection != b"keep-alive":
            words = _words(connection)
            self.keep_alive = self.keep_alive and b"close" not in words
            named = words - _OF_CONNECTION - {b"content-length"}
            self.fields = _without_lines(self.fields, named) if named else self.fields

    def _check_twice(self, names: list[bytes]) -> None:
        for name in (b"content-length", b"transfer-encoding", b"connection"):
            if names.count(name) > 1:
                raise Broken(f"its header {name.decode()} is there twice")

    def _length(self, length: int | None, coding: bytes | None, method: bytes) -> int:
        if coding is not None:
            if length is not None:
                raise Broken("it has a Content-Length and a Transfer-Encoding")
            if coding.rstrip(b" \t") != b"chunked":
                raise Broken("its Transfer-Encoding is not chunked")
        if method == b"HEAD" or self.status < 200 or self.status in (204, 304):
            return 0
        if coding is not None:
            return CHUNKED
        if length is not None:
            return length
        self.keep_alive = False
        return UNTIL_CLOSE


class Chunks:
    """Takes a body in chunks apart. Chunk extensions and trailers are checked and dropped."""

    __slots__ = ("_left", "_line", "_stage", "_trailers", "done")

    SIZE, DATA, DATA_END, TRAILER = range(4)

    def __init__(self) -> None:
        self._left = 0
        self._line = b""
        self._stage = self.SIZE
        self._trailers = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """-> (pieces of the body, what comes after its end). Raises Refused."""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._stage == self.DATA:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if not self._left:
                    self._stage = self.DATA_END
            else:
                line, at = self._read_line(data, at)
                if line is not None:
                    self._end_line(line)
        return pieces, data[at:]

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
        line, self._line = self._line, b""
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
                raise Refused(400, f"A chunk's size could not be read: {_shown(line)}")
            self._left = int(size[1], 16)
            self._stage = self.DATA if self._left else self.TRAILER
        elif line:
            self._trailers += len(line)
            if _TRAILER.fullmatch(line) is None or self._trailers > TRAILER_LIMIT:
                raise Refused(400, f"A trailer is malformed, or there are too many: {_shown(line)}")
        else:
            self.done = True


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def _unreadable(block: bytes) -> Refused:
    line = _REQUEST_LINE.match(block)
    if line is None:
        return Refused(400, "The request line could not be read: " + _shown(block.partition(b"\r\n")[0]))
    for field in block[line.end() :].split(b"\n"):
        if field not in (b"\r", b"") and re.fullmatch(_TOKEN + rb":[\t -~\x80-\xff]*\r", field) is None:
            return Refused(400, f"A header line is malformed: {_shown(field)}")
    return Refused(400, "The headers could not be read.")


def _twice(names: list[bytes]) -> Refused:
    name = next(one for one in names if names.count(one) > 1)
    return Refused(400, f"The header {name.decode()} is there twice.")


def _number(value: bytes) -> int:
    """Of bytes: digits and nothing else. Raises Refused."""
    if not value.isdigit() or len(value) > 18:
        value = value.rstrip(b" \t")
        if not value.isdigit() or len(value) > 18:
            raise Refused(400, f"Content-Length: {_shown(value)} is not a number of bytes.")
    return int(value)


def _without_lines(fields: bytes, names: set[bytes]) -> bytes:
    lines = fields.splitlines(keepends=True)
    return b"".join(line for line in lines if line.partition(b":")[0].lower() not in names)


def _words(value: bytes) -> set[bytes]:
    return {word.strip() for word in value.lower().split(b",")}


def _shown(line: bytes) -> str:
    text = line.decode("latin-1")
    return repr(text if len(text) <= 80 else text[:80] + "…")


__all__ = [
    "CHUNKED",
    "HEAD_LIMIT",
    "LAST_CHUNK",
    "UNTIL_CLOSE",
    "Answer",
    "Broken",
    "Chunks",
    "Refused",
    "Request",
    "chunk",
]
