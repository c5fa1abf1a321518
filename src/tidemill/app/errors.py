"""Sentences about names that do not exist: what was meant, or what there is."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from tidemill.domain.errors import NotFound, TidemillError

MOST = 10  # names listed


@contextmanager
def at(target: str) -> Generator[None]:
    """What is refused inside is about that property of the body, unless it names one itself."""
    try:
        yield
    except TidemillError as error:
        if not (error.target or "").startswith("properties"):
            error.target = target
        raise


def absent(what: str, name: str, existing: Iterable[str], place: str, hint: str = "") -> NotFound:
    """`Compute 'cpu-clutser' was not found in workspace 'main'. Did you mean 'cpu-cluster'?`"""
    return NotFound(
        f"{what} {name!r} was not found in {place}. {instead(name, existing)}{' ' + hint if hint else ''}",
        target=name,
    )


def instead(name: str, existing: Iterable[str]) -> str:
    """A sentence: the nearest name, or the names that exist, or that there are none."""
    names = sorted(set(existing))
    folded = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), folded, 1, 0.6)
    if near:
        return f"Did you mean {folded[near[0]]!r}?"
    if not names:
        return "There are none yet."
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"There are: {', '.join(names[:MOST])}{more}."
