"""Azure's command templates: `${{inputs.x}}`, `${{outputs.y}}`, `${{search_space.z}}` and optional
`$[[ … ]]` parts.

One pass: what a value contains is never expanded again. Text outside expressions, shell syntax included, is
untouched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import join_words

Values = Mapping[str, str | None]  # None: an optional input that was not given

_TOKEN = re.compile(r"\$\{\{|\$\[\[|\]\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*(?:\.[A-Za-z0-9_\-]+)*")
_SPACES = ("inputs", "outputs", "search_space")


@dataclass(frozen=True, slots=True)
class Rendered:
    """`used`: the expressions that were filled or kept (`inputs.x`); `dropped`: optional parts left out, as
    they were written."""

    text: str
    used: frozenset[str]
    dropped: tuple[str, ...] = ()


def render(
    template: str,
    inputs: Values,
    outputs: Values,
    search_space: Values | None = None,
    target: str = "properties.command",
) -> Rendered:
    """Fills a template. `search_space` None keeps its expressions for the sweep to fill.
    Raises InvalidRequest naming the expression, its line and column, and the names that exist."""
    spaces: dict[str, Values | None] = {"inputs": inputs, "outputs": outputs, "search_space": search_space}
    reader = _Reader(template, spaces, target)
    return reader.read()


def render_command(command: str, inputs: Values, outputs: Values) -> str:
    """The command as it is run. Raises like `render`."""
    return render(command, inputs, outputs).text


class _Reader:
    """Goes through the template once, left to right."""

    def __init__(self, template: str, spaces: Mapping[str, Values | None], target: str) -> None:
        self._text = template
        self._spaces = spaces
        self._target = target

    def read(self) -> Rendered:
        out: list[str] = []
        used: set[str] = set()
        dropped: list[str] = []
        part: list[str] = []  # text of the optional part being read
        part_used: set[str] = set()
        part_start, absent = -1, False
        at = 0
        while True:
            match = _TOKEN.search(self._text, at)
            into = out if part_start < 0 else part
            if match is None:
                if part_start >= 0:
                    raise self._error(part_start, "$[[", "has no closing ']]'")
                into.append(self._text[at:])
                return Rendered("".join(out), frozenset(used), tuple(dropped))
            into.append(self._text[at : match.start()])
            at = match.end()
            if match.group() == "${{":
                name, at = self._name(match.start())
                value = self._value(name, match.start(), at, part_start >= 0)
                if value is None:
                    absent = True
                else:
                    (used if part_start < 0 else part_used).add(name)
                    into.append(value)
            elif match.group() == "$[[":
                if part_start >= 0:
                    raise self._error(
                        match.start(), "$[[", "opens inside another optional part; they do not nest"
                    )
                part_start, absent = match.start(), False
                part.clear()
                part_used.clear()
            elif part_start < 0:
                out.append("]]")  # the shell's own
            else:
                if absent:
                    dropped.append(self._text[part_start:at])
                else:
                    out += part
                    used |= part_used
                part_start = -1

    def _name(self, start: int) -> tuple[str, int]:
        end = self._text.find("}}", start)
        if end < 0 or "\n" in self._text[start:end]:
            shown = self._text[start : start + 30].split("\n", 1)[0]
            raise self._error(start, shown, "has no closing '}}'")
        return self._text[start + 3 : end].strip(), end + 2

    def _value(self, name: str, start: int, end: int, optional: bool) -> str | None:
        """The value; None: absent and that is allowed here."""
        written = self._text[start:end]
        space, _, key = name.partition(".")
        if space == "secrets":
            raise self._error(
                start,
                written,
                "would be seen in the list of processes: put it into the job's environment_variables, as "
                f"NAME: ${{{{secrets.{key or 'name'}}}}}, and use $NAME here",
            )
        if space not in self._spaces or not _NAME.fullmatch(key):
            guess = difflib.get_close_matches(space, _SPACES, 1)
            hint = (
                f"; did you mean '${{{{{guess[0]}.{key or 'name'}}}}}'?"
                if guess and guess[0] != space
                else ""
            )
            raise self._error(
                start,
                written,
                "is not an expression: write ${{inputs.NAME}}, ${{outputs.NAME}} or ${{search_space.NAME}}"
                + hint,
            )
        values = self._spaces[space]
        if values is None:
            return written
        value = values.get(key)
        if value is not None:
            return value
        if optional and space == "inputs":
            return None
        if key in values:
            raise self._error(
                start,
                written,
                f"names the optional {space[:-1]} {key!r}, which has no value: give it one, or put the part "
                "that needs it in '$[[ … ]]'",
            )
        raise self._error(start, written, _unknown(space, key, values))

    def _error(self, at: int, written: str, why: str) -> InvalidRequest:
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        place = f"column {column}" if "\n" not in self._text else f"line {line}, column {column}"
        return InvalidRequest(
            f"Expression {written!r} at {place} of the command {why}" + ("" if why[-1] == "?" else "."),
            "InvalidExpression",
            self._target,
        )


def _unknown(space: str, key: str, values: Values) -> str:
    what = {"inputs": "input", "outputs": "output", "search_space": "search space entry"}[space]
    if not values:
        return f"names {what} {key!r}, but the job has none"
    guess = difflib.get_close_matches(key, list(values), 1)
    hint = f"; did you mean {guess[0]!r}?" if guess else ""
    return (
        f"names {what} {key!r}, which does not exist; the job has {join_words(sorted(values), most=12)}{hint}"
    )
