"""What the tests of the documentation share: the pages, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(tidemill [^`]+)`(?!`)")
_END = re.compile(r""" (?:\||&&|;|#|<) (?=[^"]*(?:"[^"]*"[^"]*)*$)""")  # of a command; not inside of quotes
_SHELLS = ("", "sh", "bash", "text", "console")


@dataclass(frozen=True, slots=True)
class Shown:
    """A command line of a page. `words` begin after `tidemill`."""

    page: str
    line: str
    words: tuple[str, ...]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> Iterator[Shown]:
    text = page.read_text(encoding="utf-8")
    lines = [line for kind, body in _FENCE.findall(text) if kind in _SHELLS for line in body.splitlines()]
    lines += _INLINE.findall(text)
    for line in lines:
        for call in _calls(line.strip()):
            words = shlex.split(call.replace("$(", " ").replace(")", " "))
            yield Shown(name_of(page), line.strip(), tuple(words[1:]))


def _calls(line: str) -> Iterator[str]:
    """`$ tidemill …`, `tidemill …` at the start of a line, and the one inside `eval "$(tidemill env)"`."""
    inner = re.search(r"\$\((\S*tidemill [^)]*)\)", line)
    if inner:
        yield inner[1]
        return
    line = line.removeprefix("$ ")
    if re.match(r"(\.venv/bin/)?tidemill( |$)", line):
        yield _END.split(line)[0]


def section(page: Path, title: str) -> str:
    """The text below a heading, up to the next of the same level."""
    found = re.search(
        rf"^(#+) {re.escape(title)}$(.*?)(?=^\1 |\Z)", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found, f"{name_of(page)} has no section {title!r}"
    return found[2]


def first_column(text: str) -> list[str]:
    """The names in backquotes in the first cell of each row of the tables in `text`."""
    names: list[str] = []
    for line in text.splitlines():
        if line.startswith("| `"):
            names += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return names
