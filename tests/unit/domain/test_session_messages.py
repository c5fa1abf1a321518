"""The messages of a session, and how long it may last."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain import looking
from tidemill.domain.errors import InvalidRequest

WORDS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), max_size=20)
SIDES = st.integers(1, looking.MAX_SIDE)


@given(WORDS, st.none() | st.tuples(SIDES, SIDES))
def test_what_a_client_writes_is_what_is_read(words: list[str], size: tuple[int, int] | None) -> None:
    text = json.dumps({"command": words, "terminal": size, "term": "xterm"})
    assert looking.begin(text) == looking.Begin(tuple(words), size, "xterm")


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_message_breaks_it(text: str) -> None:
    for read in (looking.begin, looking.control):
        try:
            read(text)
        except InvalidRequest:
            continue


@pytest.mark.parametrize(
    "message",
    [
        {"command": "ls"},
        {"command": ["a\0b"]},
        {"command": [1]},
        {"command": [""]},
        {"command": ["x"] * (looking.MAX_WORDS + 1)},
        {"command": ["x" * (looking.MAX_COMMAND + 1)]},
        {"terminal": [0, 80]},
        {"terminal": [24, 80, 1]},
        {"terminal": [True, 80]},
        {"terminal": [24, looking.MAX_SIDE + 1]},
        {"terminal": {}},
    ],
)
def test_a_bad_beginning_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"command|terminal"):
        looking.begin(json.dumps(message))


@given(WORDS.filter(bool))
def test_a_command_line_is_taken_apart_as_a_shell_would(words: list[str]) -> None:
    assert looking.command_line(shlex.join(words)) == tuple(words)


def test_no_command_line_is_a_shell() -> None:
    assert looking.command_line(None) == looking.command_line("") == looking.command_line(" ") == ()


@pytest.mark.parametrize(
    "line",
    [
        "a\0b",
        "it's",
        "''",
        ["ls"],
        3,
        "x " * (looking.MAX_WORDS + 1),
        "x" * (looking.MAX_COMMAND + 1),
    ],
)
def test_a_bad_command_line_is_refused(line: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^command "):
        looking.command_line(line)


def test_later_messages() -> None:
    assert looking.control('{"resize": [30, 100]}') == looking.Resize(30, 100)
    assert looking.control('{"end": true}') == looking.EndOfInput()
    for text in ("{}", '{"end": 1}', "[]", "x", '{"resize": 3}'):
        with pytest.raises(InvalidRequest):
            looking.control(text)


@pytest.mark.parametrize("text", ["0", "65536", "", "1e3", "-1", "80 ", "٣", "000080"])
def test_no_port(text: str) -> None:
    with pytest.raises(InvalidRequest, match="65535"):
        looking.port(text)


def test_ports() -> None:
    assert [looking.port(text) for text in ("1", "080", "65535")] == [1, 80, 65535]


def test_sessions_end() -> None:
    assert looking.overdue(looking.IDLE_S, 0, 0) == ""
    assert "30 minutes" in looking.overdue(looking.IDLE_S + 1, 0, 0)
    assert "12 hours" in looking.overdue(looking.MOST_S + 1, 0, looking.MOST_S)
