"""Expressions of a pipeline: `${{parent.inputs.NAME}}`, `${{parent.jobs.STEP.outputs.NAME}}`,
`${{parent.outputs.NAME}}`, `${{parent.jobs.STEP}}`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_INPUT = re.compile(r"(?:parent\.)?inputs\.([A-Za-z_][\w.\-]*)\Z")
_STEP_OUTPUT = re.compile(r"(?:parent\.)?jobs\.([A-Za-z_][\w\-]*)\.outputs\.([A-Za-z_][\w.\-]*)\Z")
_STEP_INPUT = re.compile(r"(?:parent\.)?jobs\.([A-Za-z_][\w\-]*)\.inputs\.([A-Za-z_][\w.\-]*)\Z")
_STEP = re.compile(r"(?:parent\.)?jobs\.([A-Za-z_][\w\-]*)\Z")
_OUTPUT = re.compile(r"(?:parent\.)?outputs\.([A-Za-z_][\w.\-]*)\Z")
_EXPECTED = "write ${{parent.inputs.NAME}} or ${{parent.jobs.STEP.outputs.NAME}}"


@dataclass(frozen=True, slots=True)
class Ref:
    """`step` "": an input of the pipeline; else an output of that step."""

    step: str
    name: str
    written: str


class Unreadable(ValueError):
    """An expression that means nothing here: `args[0]` is the sentence."""


def refs(text: str) -> tuple[Ref, ...]:
    """What a value refers to. Raises Unreadable."""
    return tuple(_ref(match.group(1), match.group(0)) for match in _EXPRESSION.finditer(text))


def only_ref(text: str) -> Ref | None:
    """The one thing that the whole value is, None where it is (also) text. Raises Unreadable."""
    match = _EXPRESSION.fullmatch(text.strip())
    return _ref(match.group(1), match.group(0)) if match else None


def fill(text: str, value: Callable[[Ref], str]) -> str:
    """The text with its expressions replaced, once: what a value contains is never expanded again."""
    return _EXPRESSION.sub(lambda match: value(_ref(match.group(1), match.group(0))), text)


def step_of(text: str) -> str:
    """`${{parent.jobs.train}}` -> "train"; a bare word is itself. Raises Unreadable."""
    match = _EXPRESSION.fullmatch(text.strip())
    if match is None:
        return text.strip()
    found = _STEP.match(match.group(1))
    if found is None:
        raise Unreadable(f"{text!r} is not a step: write ${{{{parent.jobs.STEP}}}}")
    return found.group(1)


def output_of(text: str) -> str:
    """`${{parent.outputs.model}}` -> "model"; "" for anything else."""
    match = _EXPRESSION.fullmatch(text.strip())
    found = _OUTPUT.match(match.group(1)) if match else None
    return found.group(1) if found else ""


def port_of(text: str) -> str:
    """The name of an input or output of a loop's body, written bare or as an expression."""
    match = _EXPRESSION.fullmatch(text.strip())
    if match is None:
        return text.strip()
    inner = match.group(1)
    found = _STEP_OUTPUT.match(inner) or _STEP_INPUT.match(inner)
    if found is None:
        raise Unreadable(f"{text!r} is not an input or output of the loop's body")
    return found.group(2)


def _ref(inner: str, written: str) -> Ref:
    if found := _INPUT.match(inner):
        return Ref("", found.group(1), written)
    if found := _STEP_OUTPUT.match(inner):
        return Ref(found.group(1), found.group(2), written)
    raise Unreadable(f"{written!r} is not an expression of a pipeline: {_EXPECTED}")
