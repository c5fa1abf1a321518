"""`.amlignore` / `.gitignore` of a folder's root, as azure-ai-ml reads them: each pattern against each path,
the last match decides; an ignore file deeper in the tree has no effect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def load(folder: Path) -> Callable[[str], bool]:
    """-> `excluded(relative posix path)`. `.amlignore` goes before `.gitignore`."""
    for name in (".amlignore", ".gitignore"):
        file = folder / name
        if file.is_file():
            rules = [rule for line in file.read_text("utf-8").splitlines() if (rule := parse(line.rstrip()))]
            return lambda path: _decide(rules, path)
    return lambda path: False


def _decide(rules: list[tuple[bool, re.Pattern[str]]], path: str) -> bool:
    excluded = False
    for include, pattern in rules:
        if pattern.match(path):
            excluded = include
    return excluded


def parse(line: str) -> tuple[bool, re.Pattern[str]] | None:
    """One line of the file -> (excludes, pattern), None for blank lines and comments."""
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
