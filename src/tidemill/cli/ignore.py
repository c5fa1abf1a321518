"""`.amlignore` / `.gitignore` of a folder's root, as azure-ai-ml reads them: each pattern against each path,
the last match decides; an ignore file deeper in the tree has no effect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tidemill.cli.errors import USAGE, CliError

Rule = tuple[bool, re.Pattern[str]]  # (whether it excludes, pattern)


def load(folder: Path) -> Callable[[str], bool]:
    """-> `excluded(relative posix path)`. `.amlignore` goes before `.gitignore`. Raises CliError naming the
    line that cannot be read."""
    for name in (".amlignore", ".gitignore"):
        file = folder / name
        if file.is_file():
            rules = _rules(file)
            return lambda path: _decide(rules, path)
    return lambda path: False


def _rules(file: Path) -> list[Rule]:
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CliError(
            f"{file} is not UTF-8 text (byte {error.start}).", USAGE, "InvalidIgnoreFile"
        ) from None
    found: list[Rule] = []
    for number, line in enumerate(lines, 1):
        try:
            rule = parse(line.rstrip())
        except re.error as error:
            raise CliError(
                f"{file}:{number}: the pattern {line.rstrip()!r} cannot be read: {error.msg}.",
                USAGE,
                "InvalidIgnoreFile",
            ) from None
        if rule is not None:
            found.append(rule)
    return found


def _decide(rules: list[Rule], path: str) -> bool:
    excluded = False
    for include, pattern in rules:
        if pattern.match(path):
            excluded = include
    return excluded


def parse(line: str) -> Rule | None:
    """One line of the file; None for blank lines and comments. Raises re.error."""
    if not line.strip() or line.startswith("#") or line == "/":
        return None
    excludes = not line.startswith("!")
    text = line[0 if excludes else 1 :].replace("\\#", "#").replace("\\!", "!")
    only_folder = text.endswith("/")
    parts = text.strip("/").split("/") if text.strip("/") else []
    if not parts:
        return None
    anchored = text.startswith("/") or len(parts) > 1
    if parts[0] == "**":
        parts, anchored = parts[1:], False
    body = "" if anchored else "(?:.+/)?"
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            body += ".+" if last else "(?:.+/)?"
        else:
            body += _segment(part) + ("" if last else "/")
    # A pattern that names a folder also takes all that is in it.
    ending = "/.*$" if only_folder else "(?:/.*)?$"
    return excludes, re.compile("^" + body + ending, re.DOTALL)


def _segment(text: str) -> str:
    result, at = "", 0
    while at < len(text):
        character = text[at]
        if character == "*":
            result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif character == "[" and (end := text.find("]", at + 2)) > 0:
            inside = text[at + 1 : end].replace("\\", "\\\\")
            result += "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]"
            at = end
        elif character == "\\" and at + 1 < len(text):
            at += 1
            result += re.escape(text[at])
        else:
            result += re.escape(character)
        at += 1
    return result
