"""`--query`: the paths of JMESPath that scripts use, `name`, `price.usd`, `[0].name`, `[].name`."""

from __future__ import annotations

import re
from typing import Any

from tidemill.cli.errors import USAGE, CliError

Step = str | int | None  # a key, an index, or None: each item of a list

_STEP = re.compile(r'\.?(?:(?P<name>[A-Za-z_][\w-]*)|"(?P<quoted>[^"]+)")|\[(?P<index>-?\d+|\*|)\]')


def parse(text: str) -> list[Step]:
    """Raises CliError, with what is understood, for the rest of JMESPath."""
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise _refused(text)
        name = match["name"] or match["quoted"]
        if name and match[0].startswith(".") == (at == 0):  # a dot stands between names, nowhere else
            raise _refused(text)
        steps.append(name if name else None if match["index"] in ("", "*") else int(match["index"]))
        at = match.end()
    if not steps:
        raise _refused(text)
    return steps


def pick(value: Any, steps: list[Step]) -> Any:
    """None where a key or an item is missing; items without it are left out of a list, as in JMESPath."""
    for position, step in enumerate(steps):
        if step is None:
            if not isinstance(value, list):
                return None
            found = [pick(item, steps[position + 1 :]) for item in value]
            return [item for item in found if item is not None]
        if isinstance(step, int):
            inside = isinstance(value, list) and -len(value) <= step < len(value)
            value = value[step] if inside else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _refused(text: str) -> CliError:
    return CliError(
        f"--query {text!r}: only names, dots, [N] and [] are understood, for example name, price.usd, "
        "[0].name or [].name. For more: --output json | jq.",
        USAGE,
        "UsageError",
    )
