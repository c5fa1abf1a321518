from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.expressions import render, render_command

INPUTS = {"data": "/mnt/data", "lr": "0.1", "epochs": None}
OUTPUTS = {"model": "/out/model"}


def test_inputs_and_outputs_are_filled_in() -> None:
    found = render("python t.py --d ${{inputs.data}} --o ${{ outputs.model }}/m", INPUTS, OUTPUTS)
    assert found.text == "python t.py --d /mnt/data --o /out/model/m"
    assert found.used == {"inputs.data", "outputs.model"}


def test_search_space_is_kept_for_the_sweep_or_filled() -> None:
    text = "t --lr ${{search_space.lr}}"
    assert render(text, {}, {}).text == text
    assert render(text, {}, {}).used == {"search_space.lr"}
    assert render(text, {}, {}, {"lr": "0.5"}).text == "t --lr 0.5"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("t $[[--e ${{inputs.epochs}}]] x", "t  x"),
        ("t $[[--e ${{inputs.never_declared}}]] x", "t  x"),
        ("t $[[--l ${{inputs.lr}}]] x", "t --l 0.1 x"),
        ("t $[[--l ${{inputs.lr}} --e ${{inputs.epochs}}]]", "t "),
        ("t $[[ -v ]]", "t  -v "),
        ("a$[[b]]$[[c ${{inputs.epochs}}]]d", "abd"),
    ],
)
def test_optional_parts(template: str, text: str) -> None:
    found = render(template, INPUTS, OUTPUTS)
    assert found.text == text
    assert "inputs.epochs" not in found.used
    assert bool(found.dropped) == ("epochs" in template or "never" in template)


def test_an_optional_input_without_a_value_is_no_unknown_one() -> None:
    with pytest.raises(
        InvalidRequest, match=r"at column 3 .*names the optional input 'epochs', which has no value"
    ):
        render_command("t ${{inputs.epochs}}", INPUTS, OUTPUTS)


def test_a_dropped_part_uses_nothing() -> None:
    found = render("$[[${{inputs.lr}} ${{inputs.epochs}}]]", INPUTS, OUTPUTS)
    assert found.used == frozenset()
    assert found.dropped == ("$[[${{inputs.lr}} ${{inputs.epochs}}]]",)


def test_the_shell_keeps_its_own() -> None:
    text = 'if [[ -f x && $y =~ ^a ]]; then echo ${HOME} $((1+2)) "$@" }} {{x}}; fi'
    assert render_command(text, {}, {}) == text


def test_values_are_not_expanded_again() -> None:
    assert render_command("${{inputs.a}}", {"a": "${{inputs.b}} $[[x]]", "b": "!"}, {}) == (
        "${{inputs.b}} $[[x]]"
    )


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("x ${{inputs.dta}}", ("'${{inputs.dta}}'", "column 3", "'dta'", "did you mean 'data'?")),
        ("a\nb ${{outputs.o}}", ("line 2, column 3", "output 'o'", "the job has model")),
        ("${{input.data}}", ("column 1", "did you mean '${{inputs.data}}'?")),
        ("${{parent.inputs.x}}", ("is not an expression",)),
        ("${{}}", ("is not an expression",)),
        ("ab ${{inputs.data", ("column 4", "no closing '}}'")),
        ("ab $[[ x", ("column 4", "no closing ']]'")),
        ("$[[ $[[ x ]] ]]", ("column 5", "do not nest")),
        ("${{inputs.epochs}}", ("names the optional input", "$[[ … ]]")),
        ("$[[ ${{outputs.nope}} ]]", ("output 'nope'",)),
    ],
)
def test_errors_name_the_expression_the_place_and_what_exists(template: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render(template, INPUTS, OUTPUTS)
    assert caught.value.code == "InvalidExpression"
    assert caught.value.target == "properties.command"
    for part in parts:
        assert part in caught.value.message


def test_a_job_without_inputs_says_so() -> None:
    with pytest.raises(InvalidRequest, match="but the job has none"):
        render("${{inputs.x}}", {}, {})


PIECES = st.lists(
    st.sampled_from(
        ["${{", "}}", "$[[", "]]", "inputs.", "outputs.", "data", "lr", " ", "\n", "$", "{", "x", "[", "]"]
    )
)


@given(PIECES)
def test_any_text_is_rendered_or_refused(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        found = render(text, INPUTS, OUTPUTS)
    except InvalidRequest as caught:
        error: InvalidRequest | None = caught
    else:
        error = None
        assert "${{" in text or "$[[" in text or found.text == text
    assert error is None or "column" in error.message


@given(st.text(), st.text(), st.text())
def test_literal_text_and_values_are_untouched(before: str, value: str, after: str) -> None:
    before, after = (text.replace("$", "").replace("]]", "") for text in (before, after))
    found = render(before + "${{inputs.v}}" + after, {"v": value}, {})
    assert found.text == before + value + after
