"""What a request to the storage may do, once who sends it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grant:
    """`letters` None: everything in the account (key or token)."""

    letters: frozenset[str] | None
    overrides: Mapping[str, str]

    def may(self, letters: str) -> bool:
        return self.letters is None or bool(self.letters & set(letters))
