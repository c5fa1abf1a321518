"""A head that is read by its likeness to another is read as it would be in full, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.serving.gateway.http1 import Answer, Broken, Refused, Request
from tidemill.serving.gateway.likeness import MOST

SAID = ("method", "target", "version", "length", "fields", "request_id", "authorization", "deployment")
SAID += ("keep_alive", "expects", "upgrade", "logged")
OF_ANSWER = ("status", "fields", "keep_alive", "length")  # the reason of a 200 is not passed on

_NAMES = [
    *("Host", "Content-Length", "content-length", "X-Request-Id", "Authorization", "Connection", "Expect"),
    *("Transfer-Encoding", "Upgrade", "azureml-model-deployment", "X-Forwarded-For", "traceparent"),
    *("x-ms-client-request-id", "Content-Type", "X-One", "Date"),
]
_VALUES = st.sampled_from(
    [
        *("", " ", " 0", " 5", " 12 ", " +5", " 5x", " 99999999999999999999", " chunked", " close"),
        *(" keep-alive", " upgrade, X-One", " x-one", " Bearer key", " Blue", " ID-\t7 ", " é", " a\nb"),
        *(" a\rb", " \x00", " \x7f", " 100-continue", "\r\nX-Two: 2"),
    ]
)
_LINES = st.tuples(st.sampled_from(_NAMES), _VALUES)


def block(first: str, lines: list[tuple[str, str]]) -> bytes:
    return "".join([f"{first}\r\n", *(f"{name}:{value}\r\n" for name, value in lines), "\r\n"]).encode(
        "latin-1"
    )


@st.composite
def pairs(draw: st.DrawFn, first: str) -> tuple[bytes, list[bytes]]:
    """(a head, others that differ from it in some way)."""
    lines = draw(st.lists(_LINES, max_size=7, unique_by=lambda one: one[0].lower()))
    lines.insert(0, ("Host", " h"))
    others: list[bytes] = []
    for _ in range(draw(st.integers(1, 4))):
        changed = list(lines)
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(changed) - 1))
            kind = draw(st.sampled_from(("value", "value", "value", "name", "gone", "twice")))
            if kind == "value":
                changed[at] = (changed[at][0], draw(_VALUES))
            elif kind == "name":
                changed[at] = (draw(st.sampled_from(_NAMES)), changed[at][1])
            elif kind == "gone" and len(changed) > 1:
                del changed[at]
            else:
                changed.insert(at, changed[at])
        others.append(block(first, changed))
    return block(first, lines), others


def read(how: Callable[[], Request | None]) -> Request | str | None:
    """Or why it is refused."""
    try:
        return how()
    except Refused as error:
        return f"{error.status} {error.message}"


@settings(max_examples=300)
@given(pairs("POST /x?a=1 HTTP/1.1"))
@example(
    (
        block("POST / HTTP/1.1", [("Host", " h"), ("X-One", " 1")]),
        [b"POST / HTTP/1.1\r\nHost: h\r\nX-One: \n\r\n\r\n"],
    )
)
def test_requests(heads: tuple[bytes, list[bytes]]) -> None:
    head, others = heads
    try:
        request = Request(head)
    except Refused:
        return
    likeness = request.likeness(head)
    for other in others:
        alike = read(lambda: request.alike(likeness, other))  # noqa: B023
        if isinstance(alike, str):
            assert read(lambda: Request(other)) == alike  # noqa: B023
        elif alike is not None:
            whole = Request(other)
            assert {name: getattr(alike, name) for name in SAID} == {
                name: getattr(whole, name) for name in SAID
            }
    assert request.fields == Request(head).fields, "the first is as it was"


@settings(max_examples=300)
@given(pairs("HTTP/1.1 200 OK"))
def test_answers(heads: tuple[bytes, list[bytes]]) -> None:
    head, others = heads
    try:
        answer = Answer(head, b"POST")
    except Broken:
        return
    if answer.length < 0:  # such heads are not kept
        return
    likeness = answer.likeness(head)
    for other in others:
        alike = answer.alike(likeness, other)
        if alike is not None:
            whole = Answer(other, b"POST")
            assert {n: getattr(alike, n) for n in OF_ANSWER} == {n: getattr(whole, n) for n in OF_ANSWER}


def test_each_is_like_the_first_not_like_the_one_before() -> None:
    def ok(length: int) -> bytes:
        return block("HTTP/1.1 200 OK", [("Content-Length", f" {length}")])

    answer = Answer(ok(5), b"POST")
    likeness = answer.likeness(ok(5))
    for length in (0, 5, 7, 5):
        other = answer.alike(likeness, ok(length))
        assert other is not None
        assert other.length == length


def head(number: int, length: int = 5, **more: str) -> bytes:
    lines = [("Host", " h"), ("Authorization", " Bearer k"), ("X-Request-Id", f" ID{number}")]
    return block("POST / HTTP/1.1", [*lines, ("Content-Length", f" {length}"), *more.items()])


def test_what_callers_send_again_is_alike() -> None:
    first = head(1)
    request = Request(first)
    likeness = request.likeness(first)
    for number in range(2, 5):
        other = request.alike(likeness, head(number, length=number))
        assert other is not None
        assert (other.request_id, other.length, other.authorization) == (
            b"id%d" % number,
            number,
            b"Bearer k",
        )
        assert other.fields == b"Host: h\r\nX-Request-Id: ID%d\r\nContent-Length: %d\r\n" % (number, number)
    assert (request.request_id, request.length) == (b"id1", 5)


@pytest.mark.parametrize(
    "other",
    [
        head(1).replace(b"Bearer k", b"Bearer x"),
        head(1).replace(b"Host: h", b"Host: i"),
        head(1).replace(b"POST /", b"POST /y"),
        head(1, More=" 1"),
        head(1).replace(b"X-Request-Id", b"X-Request-IX"),
    ],
)
def test_what_means_more_is_read_in_full(other: bytes) -> None:
    request = Request(head(1))
    assert request.alike(request.likeness(head(1)), other) is None


def test_not_more_lines_than_a_few_may_differ() -> None:
    def many(values: str, count: int) -> bytes:
        return block("GET / HTTP/1.1", [("Host", " h"), *((f"X-{n}", values) for n in range(count))])

    for count, may in ((MOST, True), (MOST + 1, False)):
        request = Request(many(" a", count))
        found = request.alike(request.likeness(many(" a", count)), many(" b", count))
        assert (found is not None) is may
