"""`${{secrets.NAME}}` in a job's environment variables: which secrets a job wants, and its variables with
their values in them. `${{secrets.NAME@VERSION}}` takes that version, not the newest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidemill.domain.errors import InvalidRequest

# Key Vault's rule for names, and the underscore, which it lacks.
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,126}"
_REFERENCE = re.compile(rf"\$\{{\{{\s*secrets\.({NAME})(?:@([0-9a-f]{{32}}))?\s*\}}\}}")
_BEGUN = re.compile(r"\$\{\{\s*secrets\b[^}]{0,60}\}{0,2}")


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """`version` "": the newest when the job starts."""

    name: str
    version: str = ""


def references(variables: Iterable[tuple[str, str]]) -> tuple[SecretRef, ...]:
    """Those that the variables name, each once, sorted. Raises InvalidRequest for one that is miswritten."""
    found: set[SecretRef] = set()
    for key, text in variables:
        found |= {SecretRef(match[1], match[2] or "") for match in _REFERENCE.finditer(text)}
        left = _BEGUN.search(_REFERENCE.sub("", text))
        if left is not None:
            raise InvalidRequest(
                f"Environment variable {key!r} has {left[0]!r}: write ${{{{secrets.NAME}}}}, where NAME is 1 "
                "to 127 letters, digits, '-' or '_'; or ${{secrets.NAME@VERSION}}.",
                "InvalidExpression",
                f"properties.environmentVariables.{key}",
            )
    return tuple(sorted(found))


def filled(variables: Iterable[tuple[str, str]], values: Mapping[SecretRef, str]) -> dict[str, str]:
    """The variables with the values in them. One pass: what a value contains is never read again."""
    return {
        key: _REFERENCE.sub(lambda match: values[SecretRef(match[1], match[2] or "")], text)
        for key, text in variables
    }
