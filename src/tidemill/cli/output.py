"""Printing results: tables for people; json, yaml, tsv for programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from tidemill.cli.query import parse, pick
from tidemill.cli.session import Session
from tidemill.cli.text import plain, uri

STATE_COLORS = {
    "Completed": "green",
    "Succeeded": "green",
    "Running": "cyan",
    "Failed": "red",
    "Canceled": "yellow",
    "CancelRequested": "yellow",
    "Lost": "red",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Column:
    """`value` picks from an item; `show` makes its cell from (value, now). `wide` columns may shrink."""

    title: str
    value: Callable[[dict[str, Any]], Any]
    show: Callable[[Any, float], str] = lambda value, now: plain(value)
    right: bool = False
    wide: bool = False
    state: bool = False


def key(*path: str) -> Callable[[dict[str, Any]], Any]:
    """A getter for nested keys; None where one is missing."""

    def get(item: dict[str, Any]) -> Any:
        value: Any = item
        for name in path:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    return get


def print_list(
    session: Session, items: Iterable[dict[str, Any]], columns: Sequence[Column], empty: str
) -> None:
    """A list in the wanted form. `empty` is the sentence (to stderr) for a table without rows."""
    rows = list(items)
    if session.given.query is not None:
        _print_picked(session, rows)
    elif session.output == "table":
        if rows:
            for line in table(rows, columns, time.time(), _width(), session.color):
                click.echo(line)
        else:
            session.note(empty)
    elif session.output == "tsv":
        for row in rows:
            click.echo("\t".join(_raw(column.value(row)) for column in columns))
    else:
        print_value(session, rows)


def print_item(session: Session, item: Any, facts: Sequence[tuple[str, str]] | None = None) -> None:
    """One thing: `facts` as label and text in a table, else the value itself."""
    if session.given.query is not None:
        _print_picked(session, item)
    elif session.output == "table":
        for line in fact_lines(facts_of(item) if facts is None else facts):
            click.echo(line)
    elif session.output == "tsv":
        values = [value for value in (item or {}).values() if not isinstance(value, (dict, list))]
        click.echo("\t".join(_raw(value) for value in values))
    else:
        print_value(session, item)


def facts_of(item: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """All there is, without what is empty."""
    return [
        (k, uri(v) if isinstance(v, str) else plain(v)) for k, v in (item or {}).items() if plain(v) != "-"
    ]


def _print_picked(session: Session, value: Any) -> None:
    """Of tsv a line for each item, bare values: what `$(…)` in a shell expects."""
    picked = pick(value, parse(session.given.query or ""))
    if session.output != "tsv":
        print_value(session, picked)
        return
    for line in picked if isinstance(picked, list) else [picked]:
        cells = list(line.values()) if isinstance(line, dict) else line if isinstance(line, list) else [line]
        click.echo("\t".join(_raw(cell) for cell in cells if not isinstance(cell, (dict, list))))


def print_value(session: Session, value: Any) -> None:
    if session.output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    elif session.output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n"))


def fact_lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
    wide = max((len(label) for label, _ in pairs), default=0)
    lines: list[str] = []
    for label, text in pairs:
        first, *rest = text.splitlines() or [""]
        lines.append(f"{label:<{wide}}  {clean(first)}".rstrip())
        lines.extend(f"{'':<{wide}}  {clean(line)}" for line in rest)
    return lines


def table(
    items: Sequence[dict[str, Any]],
    columns: Sequence[Column],
    now: float,
    width: int | None,
    color: bool = False,
) -> list[str]:
    """Lines of a table. `width` None: nothing is cut (the reader is no terminal)."""
    cells = [[clean(column.show(column.value(item), now)) for column in columns] for item in items]
    widths = [
        max(len(column.title), *(cell_width(row[i]) for row in cells)) for i, column in enumerate(columns)
    ]
    if width is not None:
        _shrink(widths, columns, width)
    lines = [_line([column.title.upper() for column in columns], columns, widths)]
    for row in cells:
        lines.append(_line(row, columns, widths, color))
    return lines


def _shrink(widths: list[int], columns: Sequence[Column], width: int) -> None:
    """Takes what is too much from the wide columns, the widest first, down to 8 characters."""
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    while excess > 0:
        candidates = [i for i, column in enumerate(columns) if column.wide and widths[i] > 8]
        if not candidates:
            return
        widest = max(candidates, key=lambda i: widths[i])
        widths[widest] -= 1
        excess -= 1


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], color: bool = False) -> str:
    parts: list[str] = []
    for text, column, width in zip(row, columns, widths, strict=True):
        shown = fit(text, width)
        padding = " " * (width - cell_width(shown))
        if color and column.state and text in STATE_COLORS:
            shown = click.style(shown, fg=STATE_COLORS[text])
        parts.append(padding + shown if column.right else shown + padding)
    return "  ".join(parts).rstrip()


def fit(text: str, width: int) -> str:
    """The text, cut with an ellipsis to `width` terminal cells."""
    if cell_width(text) <= width:
        return text
    kept = ""
    for character in text:
        if cell_width(kept + character) > width - 1:
            break
        kept += character
    return kept + "…"


def cell_width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def clean(text: str) -> str:
    """No control characters reach the terminal from names that others chose."""
    return _CONTROL.sub("�", text)


def _raw(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value).replace("\t", " ").replace("\n", " ")


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
