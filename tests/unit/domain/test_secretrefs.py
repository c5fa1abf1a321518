"""Secrets named in environment variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.expressions import render_command
from tidemill.domain.secretrefs import SecretRef, filled, references

V = "0" * 31 + "1"


def test_found_once_and_filled() -> None:
    variables = (
        ("A", "${{secrets.hf-token}}"),
        ("B", "Bearer ${{ secrets.hf-token }}/${{secrets.x_1@" + V + "}}"),
        ("C", "${{inputs.a}} $secrets.a"),
    )
    refs = references(variables)
    assert refs == (SecretRef("hf-token"), SecretRef("x_1", V))
    values = {refs[0]: "one", refs[1]: "two"}
    assert filled(variables, values) == {"A": "one", "B": "Bearer one/two", "C": "${{inputs.a}} $secrets.a"}


@given(st.text())
def test_a_value_is_never_read_again(value: str) -> None:
    ref, other = SecretRef("a"), SecretRef("b")
    value += "${{secrets.b}}"
    assert filled((("X", "${{secrets.a}}"),), {ref: value, other: "leak"}) == {"X": value}


@pytest.mark.parametrize(
    "bad",
    [
        "${{secrets}}",
        "${{secrets.}}",
        "${{secrets.a b}}",
        "${{secrets.a",
        "${{secrets.a@1}}",
        "${{ secrets.-a }}",
    ],
)
def test_miswritten_ones_are_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match=r"write \$\{\{secrets.NAME\}\}") as refused:
        references((("TOKEN", f"x {bad}"),))
    assert refused.value.target == "properties.environmentVariables.TOKEN"


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    assert filled((("A", text),), {}) == {"A": text} or references((("A", text),))


def test_not_in_a_command() -> None:
    with pytest.raises(
        InvalidRequest, match=r"list of processes: put it into the job's environment_variables"
    ):
        render_command("curl -H ${{secrets.token}}", {}, {})
