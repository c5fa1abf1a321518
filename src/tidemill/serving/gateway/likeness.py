"""Heads that are like one that was read before: the same lines, but for the values of a few fields.

Who keeps a connection mostly sends the same head again, with another id, date or length. It need not be read
anew: a line that is the same means the same; one that differs must have the name that it had, a value that is
well formed by the rule of http1, and be one that is passed on and decides nothing but itself. Whatever else
differs, the head is not alike, and is read in full.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_VALUE = re.compile(rb"[\t -~\x80-\xff]*+")  # as http1's fields
MOST = 8  # lines that may differ
MISSES = 16  # heads in a row that are not alike; then it is not tried any more on that connection

Varied = list[tuple[int, bytes]]
"""Lines that differ: (which, the whole line)."""


class Likeness:
    """`block`: a head that was read, well formed; `passed`: its fields that are passed on, lines of it in
    their order. `fixed`: lower-case names of fields among those whose value means more."""

    __slots__ = ("_fixed", "_lines", "_passed", "_places", "_vary", "names")

    def __init__(self, block: bytes, passed: bytes, fixed: Collection[bytes]) -> None:
        self._lines = block.split(b"\r\n")
        self._passed = passed.split(b"\r\n")  # the last is empty
        self._fixed = fixed
        self._vary: list[tuple[int, bytes]] = []  # lines known to differ, with their name and colon
        self._places: dict[int, int] = {}  # among those that are passed on
        self.names: dict[int, bytes] = {}  # of those lines, in lower case
        for at, line in enumerate(self._lines[1:-2], 1):
            place = len(self._places)
            if line == self._passed[place]:
                self._places[at] = place
                self.names[at] = line.partition(b":")[0].lower()
        if len(self._places) != len(self._passed) - 1:  # they are no lines of it: nothing is like this one
            self._lines = []

    def read(self, block: bytes) -> tuple[bytes, Varied] | None:
        """-> (the fields of that head that are passed on, its lines that differ); None: it is not alike."""
        lines, known = block.split(b"\r\n"), self._lines
        if len(lines) != len(known):
            return None
        varied: Varied = []
        for at, name in self._vary:
            line = lines[at]
            if line != known[at]:
                if not line.startswith(name) or _VALUE.fullmatch(line, len(name)) is None:
                    return None
                varied.append((at, line))
                lines[at] = known[at]
        if lines != known:
            return self.read(block) if self._learn(lines) else None
        passed = self._passed.copy()
        for at, line in varied:
            passed[self._places[at]] = line
        return b"\r\n".join(passed), varied

    def _learn(self, lines: list[bytes]) -> bool:
        """Other lines differ, too. -> whether they may."""
        for at, (line, known) in enumerate(zip(lines, self._lines, strict=True)):
            if line == known:
                continue
            name = known[: known.find(b":") + 1]
            may = at in self.names and self.names[at] not in self._fixed and len(self._vary) < MOST
            if not may or not line.startswith(name):
                return False
            self._vary.append((at, name))
        return True
