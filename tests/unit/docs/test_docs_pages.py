"""The pages: links lead somewhere, commands exist with their options, nothing of this machine is in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from docs_pages import DOCS, PAGES, ROOT, Shown, commands, name_of

from tidemill.cli.main import root
from tidemill.cli.session import Given, Session

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Paths of one machine, package indexes of one network, and what somebody meant to write.
BANNED = re.compile(r"/tmp/|/root/\w|index-url|\bTODO\b|\bFIXME\b|\bXXX\b", re.IGNORECASE)
SHOWN = [shown for page in PAGES for shown in commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{name_of(page)}: {link} leads nowhere"
        if anchor:
            assert anchor in _anchors(found), f"{name_of(page)}: {link}: no such heading"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_of_one_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("--home /tmp/try", "")
    assert not (found := BANNED.search(text)), f"{name_of(page)} has {found[0] if found else ''!r}"


def test_commands_are_found() -> None:
    """The tests below would pass over nothing if the parsing broke."""
    assert len(SHOWN) > 40
    assert {shown.words[:2] for shown in SHOWN} >= {("job", "create"), ("compute", "create"), ("job", "why")}


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{shown.page}: {shown.line}"[:90])
def test_a_shown_command_exists(shown: Shown) -> None:
    context = click.Context(root(), info_name="tidemill", obj=Session(Given()))
    words = list(shown.words)
    while isinstance(context.command, click.Group):
        options = _options(context.command)
        while words and words[0].startswith("-"):
            option = words.pop(0).partition("=")[0]
            assert option in options, f"{shown.line}: {context.command_path} has no option {option}"
            if "=" not in option and not options[option].is_flag and words:
                words.pop(0)
        if not words or not re.match(r"[a-z]", words[0]):
            return  # a group alone, or `tidemill COMMAND`
        command = context.command.get_command(context, words.pop(0))
        assert command is not None, f"{shown.line}: no such command"
        context = click.Context(command, info_name=command.name, parent=context)
    options = _options(context.command)
    for word in words[: words.index("--")] if "--" in words else words:  # what follows is another program's
        if word.startswith("-"):
            assert word.partition("=")[0] in options, f"{shown.line}: no option {word}"
    _check_arguments(shown, context, words)


def _check_arguments(shown: Shown, context: click.Context, words: list[str]) -> None:
    """No more of them than the command takes. (Sentences name options without their values.)"""
    takes = _options(context.command)
    if words and words[-1] in takes and not takes[words[-1]].is_flag:
        words = words[:-1]
    _, left, _ = context.command.make_parser(context).parse_args(list(words))
    assert not left, f"{shown.line}: {context.command_path} takes no {left}"


def _options(command: click.Command) -> dict[str, click.Option]:
    found = {name: p for p in command.params if isinstance(p, click.Option) for name in p.opts}
    help_option = click.Option(["-h", "--help"], is_flag=True)
    return {**found, "-h": help_option, "--help": help_option}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        fenced = re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)(?:`|\s|$)", page.read_text("utf-8"), re.MULTILINE)
        assert not (missing := set(fenced) - targets), f"{name_of(page)}: make {missing}"


def test_markers_are_those_of_pytest() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    known = {line.partition(":")[0] for line in configured["markers"]}
    line = next(
        line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("Markers:")
    )
    assert set(re.findall(r"`(\w+)`", line)) == known


def test_every_page_is_linked() -> None:
    """From the README, or from a page that is."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        waiting += [
            (page.parent / link.partition("#")[0]).resolve() for link in links if not link.startswith("http")
        ]
    assert not (lost := {name_of(page) for page in DOCS.rglob("*.md")} - {name_of(page) for page in seen}), (
        lost
    )
