"""Refresh tokens: genuine ones of every generation are told from anything else."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from tidemill.domain.signin import Session
from tidemill.identity import refresh

KEY = b"k" * 32
SESSION = Session("a" * 32, "o", "c", "password", "::1", b"salt", 3, 0, 0, 1)


def test_every_generation_that_was_given_is_known() -> None:
    for generation in (1, 2, 3):
        token = refresh.make(KEY, replace(SESSION, generation=generation))
        assert refresh.session_of(token) == SESSION.id
        assert refresh.generation_of(KEY, SESSION, token) == generation
    ahead = refresh.make(KEY, replace(SESSION, generation=4))
    assert refresh.generation_of(KEY, SESSION, ahead) is None  # it was not given yet


def test_keys_sessions_and_salts_are_bound_in() -> None:
    token = refresh.make(KEY, SESSION)
    assert refresh.generation_of(b"x" * 32, SESSION, token) is None
    assert refresh.generation_of(KEY, replace(SESSION, salt=b"other"), token) is None
    assert refresh.generation_of(KEY, replace(SESSION, id="b" * 32), token) is None


@given(st.text(max_size=120))
def test_anything_else_is_none(text: str) -> None:
    assert refresh.generation_of(KEY, SESSION, text) is None


@given(st.integers(0, 200), st.characters())
@example(len("tmr__") + 32, "\N{ARABIC-INDIC DIGIT THREE}")  # int() reads it as a 3
def test_a_changed_token_is_none(at: int, character: str) -> None:
    token = refresh.make(KEY, SESSION)
    changed = token[: at % len(token)] + character + token[at % len(token) + 1 :]
    assert changed == token or refresh.generation_of(KEY, SESSION, changed) is None
